"""Annotation files: what is read, what is refused, and that writing and reading agree."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.data.annotations import (
    AnnotatedObject,
    Box,
    Keypoint,
    read_annotation,
    write_annotation,
)
from pipeline.errors import DataError

CAT = """<object><name> cat </name><pose>Left</pose>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>
<bndbox><xmax>3</xmax><xmin>1</xmin><ymin>2</ymin><ymax>4.5000000000000001</ymax></bndbox>
<keypoints><keypoint name="ear" visible="1" x="1" y="2.5" z="0"/></keypoints></object>"""


@pytest.fixture
def annotation(tmp_path: Path):
    """Return a function that writes a file and returns its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "a.xml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_what_is_read(annotation) -> None:
    path = annotation(f"<annotation><folder>VOC</folder>{CAT}</annotation>")
    (cat,) = read_annotation(path)
    assert cat == AnnotatedObject("cat", Box(0, 1, 3, 4.5), {"ear": Keypoint(0.5, 2, True)})
    assert (cat.box.width, cat.box.height) == (3, 3.5)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    objects = (
        AnnotatedObject("a <b> & 'c'", Box(0, 3, 7, 9)),
        AnnotatedObject("d", Box(1, 2, 3, 4), {"e": Keypoint(-2.25, 8, False)}),
    )
    write_annotation(tmp_path / "x.xml", "x.png", (10, 12), objects)
    assert read_annotation(tmp_path / "x.xml") == objects
    root = ElementTree.parse(tmp_path / "x.xml").getroot()  # as other programs read it
    assert root.findtext("filename") == "x.png"
    assert (root.findtext("size/width"), root.findtext("size/height")) == ("12", "10")
    assert root.findtext("object/bndbox/xmin") == "1"


def test_an_image_without_objects(annotation) -> None:
    assert read_annotation(annotation("<annotation/>")) == ()


ENTITIES = """<!DOCTYPE annotation [<!ENTITY a "1111111111"><!ENTITY b "&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
FOREIGN = """<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>"""


def cat(old: str, new: str) -> str:
    """A file of one object in which something is otherwise."""
    assert old in CAT
    return f"<annotation>{CAT.replace(old, new)}</annotation>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not readable as XML"),
        ("<annotation>", "not readable as XML"),
        (b"<annotation>\xff</annotation>", "not readable as XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "not readable as XML"),
        ("<html/>", "is no annotation file"),
        ("<annotation>&b;</annotation>", "not readable as XML"),
        (ENTITIES, "declares a document type, which is not read"),
        (FOREIGN, "declares a document type, which is not read"),
        ("<annotation>" + "<a>" * 20 + "</a>" * 20 + "</annotation>", "more than 16 deep"),
        ("<annotation><object/></annotation>", "object 1 has no <bndbox>"),
        (cat("</object>", "</object><object/>"), "object 2 has no <bndbox>"),
        (cat("<xmin>1", "<xmin>one"), "no number as <xmin>, but 'one'"),
        (cat("<xmin>1", "<xmin>nan"), "no number as <xmin>"),
        (cat("<xmin>1", "<xmin>1e9"), "no number as <xmin>"),
        (cat("<xmin>1", "<xmin>"), "no number as <xmin>"),
        (cat("<xmin>1<", "<xmin>9<"), "end lies before its start"),
        (cat(" cat ", ""), "an object without a name"),
        (cat(" cat ", "c&#10;at"), "an object without a name"),
        (cat("visible", "seen"), "visible is neither 0 nor 1"),
        (cat(" x=", " u="), "no number as x of 'ear'"),
        (cat("</keypoints>", '<keypoint name="ear"/></keypoints>'), "two keypoints named 'ear'"),
    ],
)
def test_what_is_refused_is_one_line(annotation, text: str | bytes, expected: str) -> None:
    path = annotation(text)
    with pytest.raises(DataError, match=expected) as caught:
        read_annotation(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_of_another_size(annotation) -> None:
    with pytest.raises(DataError, match="larger than the 1 MB"):
        read_annotation(annotation(b" " * (2**20 + 1)))
