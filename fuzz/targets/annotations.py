"""Annotation files."""

import tempfile
from pathlib import Path

from pipeline.data.annotations import (
    AnnotatedObject,
    Box,
    Keypoint,
    read_annotation,
    write_annotation,
)

PACKAGES = "pipeline.data"


def seeds() -> list[bytes]:
    """Give a file as the scenes have it, and XML that expands, nests, or is none."""
    corner = {"top left": Keypoint(3.5, 4.25, True), "end": Keypoint(-2, 9, False)}
    objects = (
        AnnotatedObject("cat", Box(0, 1, 5, 9), corner),
        AnnotatedObject("d", Box(2, 2, 3, 3)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.xml"
        write_annotation(path, "a.png", (9, 9), objects)
        written = path.read_bytes()
    return [
        written,
        b'<?xml version="1.0" encoding="utf-16"?><annotation/>',
        b'<!DOCTYPE a [<!ENTITY a "1"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>',
        b"<annotation>" + b"<object>" * 20 + b"</object>" * 20 + b"</annotation>",
        b"<annotation><object><name>a&#0;</name></object></annotation>",
        b"",
    ]


def check(data: bytes, folder: Path) -> None:
    """Read a file; names can be printed, and boxes have an extent."""
    path = folder / "a.xml"
    path.write_bytes(data)
    for found in read_annotation(path):
        assert found.box.width > 0 and found.box.height > 0
        assert all(abs(edge) <= 1e9 for edge in found.box)
        for name in (found.name, *found.keypoints):
            assert name and "\n" not in name and "\x1b" not in name
