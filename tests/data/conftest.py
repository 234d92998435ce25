from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.palette import write_mask


@pytest.fixture
def make_voc(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a small data set in the VOC layout and returns its root."""

    def make(splits: dict[str, list[str]], *, classes: str | None = "ground\ncat\ndog\n") -> Path:
        root = tmp_path / "set"
        for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / part).mkdir(parents=True)
        for split, ids in splits.items():
            listing = "".join(f"{image_id}\n" for image_id in ids)
            (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(listing)
        for number, image_id in enumerate(sorted({i for ids in splits.values() for i in ids})):
            rng = np.random.default_rng(number)
            height, width = 6 + number, 9
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / "JPEGImages" / f"{image_id}.png")
            mask = rng.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
            write_mask(root / "SegmentationClass" / f"{image_id}.png", mask)
        if classes is not None:
            (root / "classes.txt").write_text(classes)
        return root

    return make
