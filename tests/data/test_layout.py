"""Where the files of a data set lie."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.layout import IMAGES, require_layout
from pipeline.errors import DataError

MakeVoc = Callable[..., Path]


@pytest.mark.parametrize("given_root", [".", "..", "../..", "JPEGImages", "ImageSets/Segmentation"])
def test_a_root_nearby_is_suggested(tmp_path: Path, given_root: str) -> None:
    root = tmp_path / "disk" / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    if given_root == ".":
        require_layout(root)
        return
    with pytest.raises(DataError, match=r"did you mean .*VOC2012\?") as caught:
        require_layout((root / given_root).resolve())
    assert str(root.resolve()) in str(caught.value)


def test_a_root_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "set" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(DataError, match="set has no ImageSets/Segmentation"):
        require_layout(tmp_path / "set")
    with pytest.raises(DataError, match="gone is not a folder"):
        require_layout(tmp_path / "gone")


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".jPg"])
def test_image_suffixes_in_any_case(make_voc: MakeVoc, suffix: str) -> None:
    root = make_voc({"train": ["a"]})
    stored = root / "JPEGImages" / "a.png"
    stored.rename(stored.with_suffix(suffix))
    assert IMAGES.holds(root, "a") == (suffix in IMAGES.suffixes)
    path = IMAGES.path(root, "a")
    assert path.is_file()
    assert path.name.lower() == f"a{suffix.lower()}"
