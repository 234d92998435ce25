"""Boxes and reading maps at the points of a box, against the plain formulas."""

import numpy as np
import pytest
import torch

from pipeline.boxes.grid import (
    box_overlap,
    expanded,
    interpolation,
    places,
    resampled,
    rescaled,
)
from pipeline.data import Box
from pipeline.hypercolumn.geometry import axis_reads


def test_a_box_grows_about_its_centre_and_ends_with_its_image() -> None:
    assert expanded(Box(10, 20, 20, 40), 1.5, (100, 100)) == Box(7.5, 15, 22.5, 45)
    assert expanded(Box(10, 20, 20, 40), 1.0, (100, 100)) == Box(10, 20, 20, 40)
    assert expanded(Box(1, 20, 21, 40), 2, (45, 30)) == Box(0, 10, 30, 45)
    outside = expanded(Box(-9, 5, -2, 9), 1.1, (20, 20))
    assert outside.width == 0


def test_rescaling_keeps_the_place_in_the_image() -> None:
    assert rescaled(Box(10, 20, 30, 40), (50, 100), (100, 100)) == Box(10, 40, 30, 80)


def test_overlap_of_boxes_counts_the_pixels_of_whole_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        boxes = []
        for _ in range(2):
            (left, right), (top, bottom) = (
                sorted(rng.choice(20, 2, replace=False).tolist()) for _ in range(2)
            )
            boxes.append(Box(left, top, right, bottom))
        drawn = []
        for left, top, right, bottom in boxes:
            drawn.append(np.zeros((20, 20), bool))
            drawn[-1][int(top) : int(bottom), int(left) : int(right)] = True
        expected = (drawn[0] & drawn[1]).sum() / (drawn[0] | drawn[1]).sum()
        assert box_overlap(*boxes) == pytest.approx(expected)


def test_places_are_the_middles_of_equal_parts() -> None:
    assert places(2, 6, 4).tolist() == [2.5, 3.5, 4.5, 5.5]
    assert places(0, 1, 1).tolist() == [0.5]


def bilinear(row: np.ndarray, cells: int, pixels: int, place: float, geometry: str) -> float:
    """One value read along one axis, as it is defined."""
    position = place / pixels * cells - 0.5
    if geometry == "align_corners":
        position = (place - 0.5) / (pixels - 1) * (cells - 1) if pixels > 1 else 0
    position = min(max(position, 0), cells - 1)
    lower = int(np.floor(position))
    upper = min(lower + 1, cells - 1)
    return float((1 - (position - lower)) * row[lower] + (position - lower) * row[upper])


@pytest.mark.parametrize("geometry", ["half_pixel", "align_corners"])
@pytest.mark.parametrize(("cells", "pixels"), [(7, 40), (40, 40), (1, 9), (2, 3), (30, 11), (3, 1)])
def test_interpolation_is_the_bilinear_formula(geometry: str, cells: int, pixels: int) -> None:
    rng = np.random.default_rng(1)
    row = rng.normal(size=cells)
    for at in (places(0, pixels, 5), places(pixels * 0.3, pixels * 0.55, 8)):
        read = interpolation(at, cells, pixels, geometry)
        found = read.weights.double() @ torch.from_numpy(row)[read.cells]
        expected = [bilinear(row, cells, pixels, float(place), geometry) for place in at]
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(read.weights.sum(dim=1), 1, atol=1e-6)


@pytest.mark.parametrize("geometry", ["half_pixel", "align_corners"])
def test_at_pixel_centres_it_reads_what_axis_reads_does(geometry: str) -> None:
    lower, upper, weight = axis_reads(6, 17, geometry)
    read = interpolation(places(0, 17, 17), 6, 17, geometry)
    expected = torch.zeros(17, 6, dtype=torch.float64)
    for pixel in range(17):
        expected[pixel, lower[pixel]] += 1 - weight[pixel]
        expected[pixel, upper[pixel]] += weight[pixel]
    assert torch.equal(read.weights, expected.float())


def test_only_the_cells_of_the_box_are_read() -> None:
    read = interpolation(places(10, 20, 50), 40, 80, "half_pixel")
    assert (read.cells.start, read.cells.stop) == (4, 11)  # the box covers cells 5 to 9
    values = torch.full((2, 40, 40), float("nan"))
    values[:, read.cells, read.cells] = 1
    cut = values[:, read.cells, read.cells]
    torch.testing.assert_close(resampled(cut, read, read), torch.ones(2, 50, 50))
