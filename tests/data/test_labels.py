"""Which labels a mask has, found wherever they are."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.labels import require_labels
from pipeline.errors import DataError


def check(mask: np.ndarray) -> None:
    require_labels(Path("mask.png"), mask, n_classes=3, void=255)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (0, 6), (2, 3), (4, 0), (4, 6)])
@pytest.mark.parametrize("around", [0, 2, 255])
def test_a_single_strange_pixel_is_found(place: tuple[int, int], around: int) -> None:
    mask = np.full((5, 7), around, np.uint8)
    mask[place] = 3
    with pytest.raises(DataError, match="has labels 3, but there are 3 classes and void is 255"):
        check(mask)


def test_all_strange_labels_are_named() -> None:
    mask = np.random.default_rng(0).integers(0, 7, (30, 40)).astype(np.uint8)
    with pytest.raises(DataError, match="has labels 3, 4, 5, 6, but"):
        check(mask)


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 6)])
def test_one_pixel_that_counts_is_enough(place: tuple[int, int]) -> None:
    mask = np.full((5, 7), 255, np.uint8)
    with pytest.raises(DataError, match="no label but void"):
        check(mask)
    mask[place] = 1
    check(mask)


@pytest.mark.parametrize("label", [0, 2])
def test_a_mask_of_one_pixel(label: int) -> None:
    check(np.array([[label]], np.uint8))
