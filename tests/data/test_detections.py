"""Files of detections in the form of COCO's results."""

import json
from pathlib import Path

import pytest

from pipeline.data import Box, read_detections
from pipeline.errors import DataError

CLASSES = ("ground", "cat", "dog")
ONE = {"image_id": "a", "category_id": 2, "bbox": [1, 2.5, 3, 4], "score": 0.5}


def test_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    numbered = ONE | {"image_id": 17, "area": 3, "score": 2}
    path.write_text(json.dumps([ONE, numbered, ONE | {"category_id": 1}]))
    found = read_detections(path, CLASSES)
    assert list(found) == ["a", "17"]
    assert [d.label for d in found["a"]] == [2, 1]
    assert found["a"][0].box == Box(1, 2.5, 4, 6.5)
    assert found["17"][0].score == 2
    path.write_text("[]")
    assert read_detections(path, CLASSES) == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is no list of detections"),
        ("[" * 100_000, "is no list of detections"),
        ("{}", "is no list of detections"),
        (json.dumps([{**ONE, "category_id": 3}]), "detection 0 has category_id 3.* from 1 to 2"),
        (json.dumps([ONE, {**ONE, "category_id": 0}]), "detection 1 has category_id 0"),
        (json.dumps([{**ONE, "category_id": True}]), r"\(0\.category_id: "),
        (json.dumps([{**ONE, "bbox": [1, 2, 3]}]), r"\(0\.bbox.*: "),
        (json.dumps([{**ONE, "bbox": [1, 2, 0, 3]}]), r"\(0\.bbox\.2: .*greater than 0"),
        (json.dumps([{**ONE, "bbox": [1e9, 2, 1, 3]}]), r"\(0\.bbox\.0: .*less than"),
        (json.dumps([{**ONE, "bbox": [float("nan"), 2, 1, 3]}]), r"\(0\.bbox\.0: "),
        (json.dumps([{**ONE, "score": -1}]), r"\(0\.score: "),
        (json.dumps([{**ONE, "score": "high"}]), r"\(0\.score: "),
        (json.dumps([{k: v for k, v in ONE.items() if k != "score"}]), r"\(0\.score: "),
    ],
)
def test_what_is_refused_is_one_line(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    with pytest.raises(DataError, match=expected) as caught:
        read_detections(path, CLASSES)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_detections(tmp_path / "d.json", CLASSES)
