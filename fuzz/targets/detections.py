"""Files of detections."""

import json
import math
from pathlib import Path

from pipeline.data import read_detections

PACKAGES = "pipeline.data"
CLASSES = ("ground", "cat", "dog")


def seeds() -> list[bytes]:
    """Give lists as detectors write them, and JSON that is none."""
    one = {"image_id": "a", "category_id": 2, "bbox": [1, 2.5, 3, 4], "score": 0.5}
    return [
        json.dumps([one, {**one, "image_id": 7, "segmentation": [], "category_id": 1}]).encode(),
        json.dumps([{**one, "bbox": [1e308, 0, 1e-320, math.inf]}]).encode(),
        b'[{"image_id": 99999999999999999999999999, "category_id": 1e0}]',
        b"[[[[",
        b"{}",
    ]


def check(data: bytes, folder: Path) -> None:
    """Read a file; what is read can be reckoned with."""
    path = folder / "d.json"
    path.write_bytes(data)
    for image_id, found in read_detections(path, CLASSES).items():
        for detection in found:
            assert str(detection.image_id) == image_id
            assert 0 < detection.label < len(CLASSES)
            assert math.isfinite(detection.score) and detection.score >= 0
            assert detection.box.right > detection.box.left - 1e-9
            assert all(math.isfinite(edge) for edge in detection.box)
