import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import (
    Preprocessing,
    TrainSettings,
    evaluate,
    extract,
    fit_dense,
    fit_sparse,
    load_head,
    report,
)
from pipeline.errors import CacheMismatchError, CacheNotFoundError, ParamsError

REFERRING = {"src", "href", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Collects what a page refers to, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.references: list[str] = []
        self.pictures: list[bytes] = []
        self.tags: set[str] = set()
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = [value or "" for name, value in attrs if name in REFERRING]
        self.references += found
        if tag == "img":
            kind, _, content = found[0].partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append(base64.b64decode(content, validate=True))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def made(cache: Path, sparse_head: Path, tmp_path_factory) -> dict[str, dict[str, Path]]:
    """Give two heads and their metrics."""
    folder = tmp_path_factory.mktemp("made")
    dense = folder / "dense.safetensors"
    settings = TrainSettings(epochs=1, batch_size=4)
    fit_dense(cache, sparse_head, dense, settings=settings, device="cpu")
    heads = {"sparse": sparse_head, "dense": dense}
    metrics = {name: folder / f"{name}.json" for name in heads}
    for name, head in heads.items():
        evaluate(cache, head, out=metrics[name])
    return {"heads": heads, "metrics": metrics}


@pytest.fixture(scope="module")
def written(cache: Path, made, tmp_path_factory) -> Path:
    """Give a report's page."""
    out = tmp_path_factory.mktemp("report") / "new"
    return report(cache, made["heads"], made["metrics"], out, title="A & B <1>", images=3)


def test_page_needs_no_other_file(written: Path) -> None:
    page = Page(written)
    assert page.references
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert not page.tags & {"script", "iframe", "object", "embed"}
    assert "@import" not in page.source
    assert "url(" not in page.source


def test_figures_are_files_and_lie_in_the_page(written: Path) -> None:
    files = {path.name: path.read_bytes() for path in written.parent.glob("*.png")}
    assert files.keys() == {
        "comparison.png",
        "class-iou.png",
        "history-dense.png",  # the sparse head has none
        "confusion-sparse.png",
        "confusion-dense.png",
    }
    assert sorted(Page(written).pictures) == sorted(files.values())
    for name in files:
        with Image.open(written.parent / name) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 10, f"{name} is empty"


def test_numbers_of_both_heads_are_told(written: Path, made) -> None:
    text = Page(written).text
    assert "A & B <1>" in text
    assert "measured on the 6 images of 'val'" in text
    for name, path in made["metrics"].items():
        metrics = json.loads(path.read_text())
        assert name in text
        assert f"{metrics['mean_iou']:.3f}" in text
        for value in metrics["iou"].values():
            assert value is None or f"{value:.3f}" in text
    assert load_head(made["heads"]["dense"]).info.identity.fingerprint in text


def test_the_same_report_twice_is_the_same_bytes(written: Path, cache: Path, made, tmp_path: Path):
    again = report(cache, made["heads"], made["metrics"], tmp_path, title="A & B <1>", images=3)
    assert again == tmp_path / "index.html"
    assert again.read_bytes() == written.read_bytes()


def test_pictures_may_come_from_another_split_than_the_numbers(cache: Path, made, tmp_path: Path):
    heads, metrics = ({"sparse": made[kind]["sparse"]} for kind in ("heads", "metrics"))
    page = report(cache, heads, metrics, tmp_path / "train", split="train", images=2)
    assert "measured on the 6 images of 'val'" in Page(page).text
    other = report(cache, heads, metrics, tmp_path / "none", images=0)
    assert not (tmp_path / "none" / "comparison.png").exists()
    assert len(Page(other).pictures) == len(Page(page).pictures) - 1


def test_pictures_are_refined_as_their_numbers_are(cache: Path, made, tmp_path: Path) -> None:
    heads = {"sparse": made["heads"]["sparse"]}
    refined = evaluate(cache, heads["sparse"], refine="guided:9:0.1", out=tmp_path / "refined.json")
    plain = report(cache, heads, {"sparse": made["metrics"]["sparse"]}, tmp_path / "a", images=2)
    page = report(cache, heads, {"sparse": tmp_path / "refined.json"}, tmp_path / "b", images=2)
    assert "guided:9:0.1" in Page(page).text
    assert "guided" not in Page(plain).text
    pictures = [(path.parent / "comparison.png").read_bytes() for path in (plain, page)]
    assert pictures[0] != pictures[1]

    del refined["refine"]  # as metrics of earlier versions lack it
    (tmp_path / "older.json").write_text(json.dumps(refined))
    again = report(cache, heads, {"sparse": tmp_path / "older.json"}, tmp_path / "c", images=2)
    assert (again.parent / "comparison.png").read_bytes() == pictures[0]
    for damaged in ("sharpened", 3):
        (tmp_path / "odd.json").write_text(json.dumps(refined | {"refine": damaged}))
        with pytest.raises(ParamsError, match=r"odd\.json: refine cannot be read; run 'pipeline e"):
            report(cache, heads, {"sparse": tmp_path / "odd.json"}, tmp_path / "d")
    (tmp_path / "odd.json").write_text(json.dumps(refined | {"refine": "prior:4:99"}))
    with pytest.raises(ParamsError, match="prior:4:99: there is no class 99"):
        report(cache, heads, {"sparse": tmp_path / "odd.json"}, tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_what_does_not_belong_together_is_refused(
    cache: Path, made, scenes, backbone, tmp_path: Path
) -> None:
    heads, metrics, out = made["heads"], made["metrics"], tmp_path / "report"
    with pytest.raises(ParamsError, match="'dense' needs both a head and its metrics"):
        report(cache, heads, {"sparse": metrics["sparse"]}, out)
    with pytest.raises(CacheNotFoundError, match="no split 'test'"):
        report(cache, heads, metrics, out, split="test")

    evaluate(cache, heads["dense"], split="train", out=tmp_path / "train.json")
    with pytest.raises(ParamsError, match=r"different splits \(train, val\)"):
        report(cache, heads, {**metrics, "dense": tmp_path / "train.json"}, out)

    apart = {"a": tmp_path / "a.safetensors", "b": tmp_path / "b.safetensors"}
    for seed, (name, head) in enumerate(apart.items()):
        fit_sparse(cache, head, options={"hidden": 4, "epochs": 1}, holdout=0.5, seed=seed)
        evaluate(cache, head, split="held-out", out=tmp_path / f"{name}.json")
    with pytest.raises(ParamsError, match="different held-out images"):
        report(cache, apart, {name: tmp_path / f"{name}.json" for name in apart}, out)

    stale = json.loads(metrics["dense"].read_text()) | {"fingerprint": "0" * 32}
    (tmp_path / "stale.json").write_text(json.dumps(stale))
    with pytest.raises(CacheMismatchError, match=r"stale\.json: measured on another cache"):
        report(cache, heads, {**metrics, "dense": tmp_path / "stale.json"}, out)

    small = Preprocessing(input_size="32")
    extract(scenes, backbone, tmp_path / "small", splits=["val"], preprocessing=small)
    with pytest.raises(CacheMismatchError, match=r"the head .* needs a cache made otherwise"):
        report(tmp_path / "small", heads, metrics, out)
    assert not (out / "index.html").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file; run 'pipeline evaluate' first"),
        (b"{", "not JSON; run 'pipeline evaluate' again"),
        (b"\xff\xfe\x00", "not JSON; run 'pipeline evaluate' again"),
        (b"[]", "lacks cache_resolution; run 'pipeline evaluate' again"),
        (b'{"mean_iou": 1}', "lacks cache_resolution; run 'pipeline evaluate' again"),
    ],
)
def test_metrics_that_are_none(
    cache: Path, made, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_bytes(content)
    heads = {"sparse": made["heads"]["sparse"]}
    with pytest.raises(ParamsError, match=expected) as caught:
        report(cache, heads, {"sparse": path}, tmp_path / "report")
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mean_iou": "<script>"}, "mean_iou cannot be read"),
        ({"classes_counted": None}, "classes_counted cannot be read"),
        ({"cache_resolution": {"mean_iou": 0.5}}, "cache_resolution.pixel_accuracy cannot be read"),
        ({"cache_resolution": []}, "cache_resolution cannot be read"),
        ({"iou": {"cat": 0.5}}, "its classes are not those of the cache"),
        ({"confusion_matrix": [[1, 2], [3, 4]]}, "its confusion matrix is not one of 7 classes"),
        ({"confusion_matrix": "none"}, "confusion_matrix cannot be read"),
    ],
)
def test_metrics_that_are_damaged(
    cache: Path, made, tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(json.loads(made["metrics"]["sparse"].read_text()) | change))
    heads = {"sparse": made["heads"]["sparse"]}
    with pytest.raises(ParamsError) as caught:
        report(cache, heads, {"sparse": path}, tmp_path / "report")
    assert str(caught.value) == f"{path}: {expected}; run 'pipeline evaluate' again"
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("name", ["a/../../elsewhere/b", "../b", "a/b", "a\n", "n" * 230])
def test_a_head_s_name_leads_nowhere(cache: Path, made, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    heads, metrics = ({name: made[kind]["dense"]} for kind in ("heads", "metrics"))
    with pytest.raises(ParamsError, match=r"cannot name a head: .*; choose a short name"):
        report(cache, heads, metrics, tmp_path / "report")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere"]
