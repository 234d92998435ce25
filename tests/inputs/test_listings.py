"""Split files and class lists of every kind: each mistake is one line, each habit is understood."""

import io
import json
import os
import re
from pathlib import Path

import pytest
from corpus import Kind, Write, content

from pipeline import FeatureCache, VocDataset
from pipeline.cli import main
from pipeline.data.listings import parse_split


def lines(*ids: str) -> Write:
    return lambda path: path.write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)


def bad(name: str, write: Write, says: str) -> Kind:
    return Kind(name, ".txt", write, says)


NO_FILES = [
    bad("a folder", Path.mkdir, "is a folder: put a file in its place"),
    bad("a pipe", os.mkfifo, "is a pipe, a socket or a device: put a file in its place"),
    bad("a dangling link", lambda path: path.symlink_to("gone"), "is a link that leads nowhere"),
    bad("64 megabytes", huge, "is larger than the 67 MB that such a file may have: make it"),
]
BAD_SPLITS = [
    bad("a duplicate", lines("first", "first"), "line 2: 'first' is listed in line 1 already: rem"),
    bad("a way out", lines("first", "../first"), "line 2: '../first' is a path: write the bare im"),
    bad("absolute", lines("first", "/etc/hosts"), "line 2: '/etc/hosts' is a path: write the bare"),
    bad("a folder in it", lines("first", "a/b"), "line 2: 'a/b' is a path: write the bare"),
    bad("the folder itself", lines("first", "."), "line 2: '.' is a path: write the bare"),
    bad("the folder above", lines("first", ".."), "line 2: '..' is a path: write the bare"),
    bad("a Windows path", lines("first", r"C:\x"), r"line 2: 'C:\\\\x' is a path: write the bare"),
    bad(
        "a null", lines("first", "a\0b"), r"line 2: 'a\\x00b' has control characters: type it anew"
    ),
    bad("a bell", lines("first", "\x07odd"), r"line 2: '\\x07odd' has control characters"),
    bad("colours", lines("first", "\x1b[31modd"), r"line 2: '\\x1b\[31modd' has control char"),
    bad("a vertical tab", lines("first", "odd\x0bx"), r"line 2: 'odd\\x0bx' has control char"),
    bad("a form feed", lines("first", "odd\x0c"), r"line 2: 'odd\\x0c' has control characters"),
    bad("a next line", lines("first", "odd\x85x"), r"line 2: 'odd\\x85x' has control characters"),
    bad("a line separator", lines("first", "a\u2028b"), r"line 2: 'a\\u2028b' has control char"),
    bad("a BOM within", lines("first", "\ufeffodd"), r"line 2: '\\ufeffodd' has control char"),
    bad("too long", lines("first", "x" * 300), "line 2: 'x{77}...' is longer than the name of a"),
    bad("too long in UTF-8", lines("first", "ä" * 130), "line 2: 'ä{77}...' is longer than the na"),
    bad("Latin-1", content(b"first\n\xe4\n"), r"cannot be read as UTF-8 text \(byte 6\): save"),
    bad("UTF-16", content("first\n".encode("utf-16")), "cannot be read as UTF-8 text"),
    bad("surrogates", content(b"\xed\xa0\x80\n"), "cannot be read as UTF-8 text"),
    bad("zero bytes", content(b""), "lists no image: write one image id per line"),
    bad("only blanks", content(b" \r\n\t\n\n"), "lists no image: write one image id per line"),
    *NO_FILES,
]


@pytest.mark.parametrize("kind", BAD_SPLITS, ids=str)
def test_a_bad_split_file(kind, data_set, extraction, refused, problems):
    data_set.split.unlink()
    kind.write(data_set.split)
    said = refused(*extraction)
    assert re.match(f"{data_set.split}: {kind.says}", said), said
    assert problems(data_set.root) == [f"[train] {said}"]


def test_an_unknown_split(data_set, extraction, refused):
    for split in ("val", "../train"):
        said = refused(*extraction, "--split", split)
        folder = re.escape("set/ImageSets/Segmentation")
        assert re.fullmatch(f"{folder} has no split '.*': choose one of train", said), said


def test_an_id_with_its_suffix(data_set, extraction, refused, problems):
    data_set.split.write_text("first.png\n")
    said = refused(*extraction)
    assert re.match("set/JPEGImages/first.png .* does not exist: list image ids without a", said)
    assert f"[train] {said}" in problems(data_set.root)


def test_a_split_file_whose_name_cannot_be_printed(data_set, extraction, refused):
    data_set.split.rename(data_set.split.with_name(os.fsdecode(b"tr\xffain.txt")))
    said = refused(*extraction)
    assert said.endswith(r"'tr\udcffain.txt' has control characters in its name: rename it")
    assert refused("data", "check", "set") == said


def test_a_root_whose_name_is_no_text_is_printed(data_set, monkeypatch):
    root = Path(os.fsdecode(b"s\xffet"))
    data_set.root.rename(root)
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, "utf-8", write_through=True))
    assert main(["data", "check", str(root)]) == 0
    assert output.getvalue().startswith(rb"s\udcffet: no problems")


@pytest.mark.parametrize(
    "text",
    [
        b"first\nodd\nlast",
        b"first\r\nodd\r\nlast\r\n",
        b"first\rodd\rlast\r",
        b"\xef\xbb\xbffirst\r\nodd\nlast\n",
        b"\n\n first\t\n\n  odd \nlast\xc2\xa0\n\n",
    ],
    ids=["no end", "CRLF", "CR", "BOM", "blanks"],
)
def test_habits_of_editors_are_understood(text, data_set, extraction):
    data_set.split.write_bytes(text)
    assert main(["data", "check", "set"]) == 0
    assert main(extraction) == 0
    assert FeatureCache("out")["train"].image_ids == ("first", "odd", "last")


def test_names_in_any_script_are_ids(data_set, extraction):
    """Blanks, dots, quotes and what a shell would take for its own are parts of a name like any."""
    names = [
        "Müller 1",
        "图像",
        "صورة",
        "a.b.c",
        "$(touch x)",
        "-rf",
        "~",
        "a'b\"c",
        "*",
        "e\u0301",
    ]
    for name in names:
        for part in ("JPEGImages", "SegmentationClass"):
            source = data_set.root / part / "odd.png"
            (data_set.root / part / f"{name}.png").write_bytes(source.read_bytes())
    data_set.split.write_text("\n".join(names), encoding="utf-8")
    assert main(extraction) == 0
    train = FeatureCache("out")["train"]
    assert train.image_ids == tuple(names)
    assert {train.image(name).shape for name in names} == {(32, 32, 3)}
    assert sorted(path.name for path in Path().iterdir()) == ["out", "set"]


def test_bad_lines_are_skipped_on_request(data_set, extraction, capsys):
    data_set.split.write_text("first\n../odd\nodd\nfirst\n/etc/hosts\nla\x07st\nlast\n")
    assert main([*extraction, "--on-error", "skip"]) == 0
    captured = capsys.readouterr()
    assert " 3 images, 3 computed now, 4 skipped" in captured.out
    assert captured.err.splitlines()[-4:] == [
        "skipped train/train.txt line 2: '../odd' is a path: write the bare image id",
        "skipped train/train.txt line 4: 'first' is listed in line 1 already: remove one of them",
        "skipped train/train.txt line 5: '/etc/hosts' is a path: write the bare image id",
        "skipped train/train.txt line 6: 'la\\x07st' has control characters: type it anew",
    ]
    assert FeatureCache("out")["train"].image_ids == ("first", "odd", "last")
    summary = json.loads(Path("out/manifest.json").read_text())["splits"]["train"]
    assert list(summary["bad_lines"]) == [f"train.txt line {n}" for n in (2, 4, 5, 6)]


def test_a_split_without_a_good_line_is_refused_even_then(data_set, extraction, refused):
    data_set.split.write_text("../first\n")
    said = refused(*extraction, "--on-error", "skip")
    assert said.startswith(f"{data_set.split}: line 1: '../first' is a path")


def test_ids_stay_in_their_folder(tmp_path):
    """Whatever a file says: what is taken for an id is the bare name of a file."""
    path = tmp_path / "train.txt"
    pieces = ["a", ".", "..", "/", "\\", "\0", "~", " ", "\t", "\x0b", "\x1c", "\u2028", "\xa0"]
    text = "\n".join(a + b + c for a in pieces for b in pieces for c in pieces)
    path.write_text(text, encoding="utf-8")
    ids, problems = parse_split(path)
    assert len(ids) > 50
    assert len(problems) > 1000
    for image_id in ids:
        assert (tmp_path / image_id).parent == tmp_path
        assert Path(image_id).name == image_id
        assert image_id == image_id.strip()


BAD_CLASSES = [
    bad("a blank line", content(b"a\n\nb\nc\n"), " line 2 is blank: name a class there, or remove"),
    bad("a name twice", content(b"a\nb\na\n"), ": class names repeat or are empty: give each"),
    bad("void in words", content(b"a\nb\n# void: none\n"), " line 3: void is a number, such as '#"),
    bad("a long void", content(b"a\n# void: " + b"9" * 9000), " line 2: void is a number, such as"),
    bad("void out of range", content(b"a\nb\n# void: 256\n"), ": void is 256: choose a label from"),
    bad("too many", lines(*(f"c{i}" for i in range(257))), ": 257 classes: name between 1 and 256"),
    bad("zero bytes", content(b""), ": 0 classes: name between 1 and 256"),
    bad("Latin-1", content(b"a\n\xe4\n"), r" cannot be read as UTF-8 text \(byte 2\): save it as"),
    bad(
        "control characters", content(b"a\nb\x1b[2J\n"), r": the class name 'b\\x1b\[2J' has contr"
    ),
    *(bad(kind.name, kind.write, f" {kind.says}") for kind in NO_FILES),
]


@pytest.mark.parametrize("kind", BAD_CLASSES, ids=str)
def test_a_bad_list_of_classes(kind, data_set, extraction, refused):
    path = data_set.root / "classes.txt"
    path.unlink()
    kind.write(path)
    said = refused(*extraction)
    assert re.match(f"{path}{kind.says}", said), said
    assert refused("data", "check", "set") == said


def test_too_few_classes(data_set, extraction, refused):
    (data_set.root / "classes.txt").write_text("a\nb\n")
    said = refused(*extraction)
    assert re.match(r"set/.*/first\.png has labels 2, but there are 2 classes and void", said)


def test_habits_of_editors_in_a_list_of_classes(data_set):
    text = b"\xef\xbb\xbf# mine\r\nground\r\n  big cat \r\ndog\r\n# void: 255\r\n\r\n"
    (data_set.root / "classes.txt").write_bytes(text)
    dataset = VocDataset.open("set")
    assert (dataset.classes, dataset.void) == (("ground", "big cat", "dog"), 255)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda root: root.rename("elsewhere"), "set is not a folder: name the folder that holds"),
        (
            lambda root: (root / "JPEGImages").rename("gone"),
            "set has no JPEGImages: name the folder",
        ),
        (lambda root: root.rename("set2") and Path("set").write_text(""), "set is not a folder"),
        (lambda root: root.rename("in") and Path("set").symlink_to("out"), "set is not a folder"),
        (
            lambda root: (root.rename("in") and Path("set").mkdir()) or Path("in").rename("set/in"),
            "set is not the root of the data set: did you mean set/in?",
        ),
    ],
    ids=["gone", "without images", "a file", "a dangling link", "one too high"],
)
def test_a_root_that_is_no_data_set(spoil, says, data_set, extraction, refused):
    spoil(data_set.root)
    assert refused(*extraction).startswith(says)
