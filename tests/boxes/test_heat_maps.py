"""Heat maps against the plain formulas, point by point."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.boxes.heat_maps import (
    box_columns,
    box_logits,
    interpolated,
    own_cells,
    own_logits,
    splat,
)
from pipeline.data import Box
from pipeline.hypercolumn import hypercolumn_map

SIZE = (36, 44)
SHAPES = [(3, 36, 44), (4, 18, 22), (5, 5, 6), (2, 1, 1)]
GEOMETRIES = ["half_pixel", "align_corners"]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_columns_at_pixel_centres_are_those_of_the_full_map(maps, geometry) -> None:
    """A box of N x N whole pixels has its points on the pixels' centres."""
    full = hypercolumn_map(maps, SIZE, geometry)
    box = Box(9, 5, 29, 25)
    found = box_columns(maps, box=box, size=SIZE, geometry=geometry, points=20)
    torch.testing.assert_close(found, full[:, 5:25, 9:29], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "box", [Box(9.3, 5.1, 30.7, 35.9), Box(0, 0, 44, 36), Box(20, 20, 20.5, 21)]
)
@pytest.mark.parametrize("points", [1, 7, 50])
def test_logits_are_the_linear_layer_on_columns(maps, geometry, box, points) -> None:
    """Whichever of the two comes first: a box covers more cells of a map than points, or fewer."""
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(6, 14, generator=generator), torch.randn(6, generator=generator)
    where = {"box": box, "size": SIZE, "geometry": geometry, "points": points}
    columns = box_columns(maps, **where)
    expected = torch.einsum("rd,dyx->ryx", weight, columns) + bias[:, None, None]
    found = box_logits(maps, weight, bias, **where)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_gradients_are_those_of_the_linear_layer(maps) -> None:
    where = {"box": Box(3, 2, 41, 33), "size": SIZE, "geometry": "half_pixel", "points": 12}
    columns = box_columns(maps, **where)
    weight, bias = torch.randn(2, 14, requires_grad=True), torch.zeros(2, requires_grad=True)
    target = torch.randn(2, 12, 12)
    (box_logits(maps, weight, bias, **where) * target).sum().backward()
    torch.testing.assert_close(
        weight.grad, torch.einsum("ryx,dyx->rd", target, columns), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(bias.grad, target.sum(dim=(1, 2)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("points", "k"), [(50, 5), (50, 10), (50, 1), (7, 3), (4, 4)])
def test_heat_interpolates_between_the_outputs_of_classifiers(points: int, k: int) -> None:
    """``p_i = sum_k alpha_ik g_k(f_i)``, with alpha as bilinear weights between cells' centres."""
    logits = torch.randn(2, k * k, points, points, dtype=torch.float64)
    found = interpolated(logits, k)
    centres = (np.arange(k) + 0.5) / k
    for y in range(0, points, 3):
        for x in range(0, points, 2):
            at = (np.array([y, x]) + 0.5) / points
            # Beyond the outermost centres only the nearest classifier counts.
            clipped = np.clip(at, centres[0], centres[-1])
            # A hat around each centre, as wide as the distance to the next.
            alpha = np.clip(1 - np.abs(clipped[:, None] - centres) * k, 0, None)
            outputs = logits[:, :, y, x].sigmoid().reshape(2, k, k).numpy()
            expected = np.einsum("a,b,tab->t", alpha[0], alpha[1], outputs)
            np.testing.assert_allclose(found[:, y, x], expected, atol=1e-6)


def test_one_classifier_is_a_plain_sigmoid() -> None:
    logits = torch.randn(3, 1, 9, 9)
    assert torch.equal(interpolated(logits, 1), logits[:, 0].sigmoid())


def test_every_point_has_its_own_cell() -> None:
    cells = own_cells(50, 5)
    assert torch.equal(torch.bincount(cells.flatten()), torch.full((25,), 100))
    assert (cells[0, 0], cells[9, 10], cells[49, 0], cells[49, 49]) == (0, 1, 20, 24)
    # Uneven division: a point belongs to the cell that its middle lies in.
    middles = (np.arange(7) + 0.5) / 7
    assert own_cells(7, 3)[0].tolist() == np.floor(middles * 3).astype(int).tolist()
    logits = torch.randn(2, 9, 7, 7)
    own = own_logits(logits, 3)
    for y, x in ((0, 0), (3, 6), (6, 2)):
        assert torch.equal(own[:, y, x], logits[:, own_cells(7, 3)[y, x], y, x])


@pytest.mark.parametrize("box", [Box(4, 2, 24, 32), Box(0, 0, 30, 40), Box(29, 39, 30, 40)])
def test_splat_into_whole_pixels_is_interpolate(box) -> None:
    heat = torch.rand(13, 13)
    image = splat(heat, box, (40, 30))
    left, top, right, bottom = map(int, box)
    expected = torch.zeros(40, 30)
    expected[top:bottom, left:right] = interpolate(
        heat[None, None], size=(bottom - top, right - left), mode="bilinear"
    )[0, 0]
    torch.testing.assert_close(image, expected, atol=1e-6, rtol=1e-5)


def test_splat_into_any_box_point_by_point() -> None:
    heat, box = torch.rand(6, 6), Box(3.3, 1.6, 12.49, 9.5)
    image = splat(heat, box, (12, 15)).numpy()
    for row in range(12):
        for column in range(15):
            y, x = row + 0.5, column + 0.5
            if not (box.top <= y < box.bottom and box.left <= x < box.right):
                assert image[row, column] == 0
                continue
            v = np.clip((y - box.top) / box.height * 6 - 0.5, 0, 5)
            u = np.clip((x - box.left) / box.width * 6 - 0.5, 0, 5)
            v0, u0 = int(v), int(u)
            v1, u1 = min(v0 + 1, 5), min(u0 + 1, 5)
            above = heat[v0, u0] * (1 - (u - u0)) + heat[v0, u1] * (u - u0)
            below = heat[v1, u0] * (1 - (u - u0)) + heat[v1, u1] * (u - u0)
            expected = above * (1 - (v - v0)) + below * (v - v0)
            assert image[row, column] == pytest.approx(float(expected), abs=1e-6)


def test_a_box_between_pixel_centres_has_no_pixels() -> None:
    assert not splat(torch.ones(5, 5), Box(2.6, 3, 3.4, 9), (10, 10)).any()
    assert not splat(torch.ones(5, 5), Box(0, 0, 0, 0), (10, 10)).any()
