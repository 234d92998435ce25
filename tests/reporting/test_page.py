"""The HTML page: well-formed, self-contained, escaped, and with the numbers it was given."""

import base64
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.errors import DataError, ParamsError
from pipeline.reporting import HeadReport, Picture, ReportContent, write_page

EVIL = "<script>alert('x')</script>"
VOID_TAGS = {"meta", "link", "img"}


class Page(HTMLParser):
    """Collects tags, text and table cells, and checks that tags are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def metrics(iou: Mapping[str, float | None], **others: Any) -> dict[str, Any]:
    present = [value for value in iou.values() if value is not None]
    return {
        "pixel_accuracy": 0.875,
        "mean_class_accuracy": 0.625,
        "mean_iou": sum(present) / len(present) if present else None,
        "frequency_weighted_iou": 0.75,
        "classes_counted": len(present),
        "iou": dict(iou),
        **others,
    }


def page_of(path: Path, content: ReportContent) -> Page:
    assert write_page(path, content) == path
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    path = tmp_path / "picture.png"
    Image.new("RGB", (320, 160), "teal").save(path, dpi=(192, 192))
    return Picture(path, alt="a teal field", caption="Nothing but teal.")


def test_numbers_of_every_head_at_both_resolutions(tmp_path: Path) -> None:
    cache = metrics({"cat": 0.25, "dog": None})
    heads = (
        HeadReport("sparse", metrics({"cat": 0.3, "dog": None})),
        HeadReport(
            "dense",
            metrics({"cat": 0.5, "dog": None}, cache_resolution=cache),
            extra_scores={"Mean IoU, animals": 0.4444},
        ),
    )
    page = page_of(tmp_path / "new" / "report.html", ReportContent("Trial", heads))
    assert ["sparse", "original", "0.300", "87.5 %", "62.5 %", "0.750", "1"] in page.rows
    assert ["dense", "original", "0.500", "87.5 %", "62.5 %", "0.750", "1"] in page.rows
    assert ["dense", "cache", "0.250", "87.5 %", "62.5 %", "0.750", "1"] in page.rows
    assert ["cat", "0.300", "0.500"] in page.rows
    assert ["dog", "absent", "absent"] in page.rows
    assert ["mean", "0.300", "0.500"] in page.rows
    assert not any(row[:2] == ["sparse", "cache"] for row in page.rows)
    assert "Mean IoU, animals" in page.text
    assert "0.444" in page.text
    best = [attrs for attrs in page.all("td") if "best" in (attrs.get("class") or "").split()]
    assert [attrs["style"] for attrs in best] == ["--share:0.5000"]


def test_undefined_numbers_are_a_dash(tmp_path: Path) -> None:
    empty = metrics({"cat": None}, pixel_accuracy=None, mean_class_accuracy=None)
    page = page_of(tmp_path / "report.html", ReportContent("Trial", (HeadReport("dense", empty),)))
    assert ["dense", "original", "—", "—", "—", "0.750", "0"] in page.rows
    assert "None" not in page.text
    assert "nan" not in page.text


def test_pictures_are_embedded_with_alt_text_and_size(tmp_path: Path, picture: Picture) -> None:
    head = HeadReport("dense", metrics({"cat": 0.5}))
    content = ReportContent("Trial", (head,), comparisons=(picture,), histories=(picture,))
    images = page_of(tmp_path / "report.html", content).all("img")
    assert len(images) == 2
    for image in images:
        kind, data = (image["src"] or "").split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == picture.path.read_bytes()
        assert image["alt"] == "a teal field"
        assert (image["width"], image["height"]) == ("160", "80")


def test_page_needs_nothing_else(tmp_path: Path, picture: Picture) -> None:
    head = HeadReport("dense", metrics({"cat": 0.5}))
    path = tmp_path / "report.html"
    page = page_of(path, ReportContent("Trial", (head,), confusions=(picture,)))
    html = path.read_text(encoding="utf-8")
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object"}
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://", html)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert page.tags[0] == ("html", {"lang": "en"})


def test_links_lead_to_sections_that_exist_and_empty_ones_are_left_out(
    tmp_path: Path, picture: Picture
) -> None:
    head = HeadReport("dense", metrics({"cat": 0.5}))
    for content in (
        ReportContent("Trial", (head,)),
        ReportContent("Trial", (head,), "sub", *((picture,),) * 4, {"Cache": {"a": 1}}),
    ):
        page = page_of(tmp_path / "report.html", content)
        sections = {section["id"] for section in page.all("section")}
        assert {(link["href"] or "")[1:] for link in page.all("a")} == sections
        assert ("confusion" in sections) == bool(content.confusions)


def test_every_text_is_escaped(tmp_path: Path, picture: Picture) -> None:
    evil_picture = Picture(picture.path, alt=f'"{EVIL}', caption=EVIL)
    head = HeadReport(EVIL, metrics({EVIL: 0.5}), {EVIL: 0.5}, {EVIL: {EVIL: [EVIL]}})
    content = ReportContent(
        EVIL,
        (head, HeadReport("dense", metrics({EVIL: None}))),
        EVIL,
        *((evil_picture,),) * 4,
        {EVIL: EVIL, f"{EVIL}'\"": {EVIL: EVIL}},
    )
    page = page_of(tmp_path / "report.html", content)
    assert page.all("script") == []
    assert [EVIL, "0.500", "absent"] in page.rows
    assert [f"{EVIL}.{EVIL}", EVIL] in page.rows
    assert page.all("img")[0]["alt"] == f'"{EVIL}'


def test_provenance_as_table_and_as_text(tmp_path: Path) -> None:
    recipe = "extract:\n  backbone: vgg11  # <the smallest>\n"
    facts = {"taps": ["conv1", "fire2"], "weights": {"digest": "ab12", "file": None}}
    head = HeadReport("dense", metrics({"cat": 0.5}), metadata={"trained": {"epochs": 3}})
    content = ReportContent("Trial", (head,), provenance={"Cache": facts, "Recipe": recipe})
    page = page_of(tmp_path / "report.html", content)
    assert ["taps", "conv1, fire2"] in page.rows
    assert ["weights.digest", "ab12"] in page.rows
    assert ["weights.file", "—"] in page.rows
    assert ["trained.epochs", "3"] in page.rows
    assert recipe in page.text


def test_same_content_gives_the_same_bytes(tmp_path: Path, picture: Picture) -> None:
    content = ReportContent(
        "Trial", (HeadReport("dense", metrics({"cat": 0.5})),), histories=(picture,)
    )
    one = write_page(tmp_path / "one.html", content).read_bytes()
    assert write_page(tmp_path / "two.html", content).read_bytes() == one


def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    cat, dog = (HeadReport(name, metrics({name: 0.5})) for name in ("cat", "dog"))
    with pytest.raises(ParamsError, match="at least one head"):
        write_page(path, ReportContent("Trial", ()))
    with pytest.raises(ParamsError, match="cat and dog have different classes"):
        write_page(path, ReportContent("Trial", (cat, dog)))
    text = tmp_path / "text.png"
    text.write_text("not a picture", encoding="utf-8")
    for missing in (tmp_path / "missing.png", text):
        with pytest.raises(DataError, match=re.escape(str(missing))):
            write_page(path, ReportContent("Trial", (cat,), histories=(Picture(missing, "x"),)))
    assert not path.exists()
