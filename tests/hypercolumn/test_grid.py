"""Grids of location-specific classifiers against the direct formula, pixel by pixel."""

from itertools import pairwise, product

import pytest
import torch
from torch.nn.functional import interpolate, one_hot

from pipeline.errors import HeadError
from pipeline.hypercolumn import (
    DenseHead,
    Target,
    compiled_strip,
    head_loss,
    hypercolumn_map,
    torch_strip,
)
from pipeline.hypercolumn.grid import (
    block_weights,
    cross_entropy_gradient,
    grid_weights,
    log_probability,
)

SIZE = (13, 18)
SHAPES = [(3, 13, 18), (4, 6, 9), (5, 3, 4), (2, 1, 1)]
CLASSES = 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def slow_weight(y, x, size, row, column, grid):
    """The bilinear weight of a cell at a pixel: both hat functions, their tops at the centres."""

    def along(pixel, length, cell):
        # In cells; before the first centre and behind the last one it is as at that centre.
        position = min(max((pixel + 0.5) / length * grid, 0.5), grid - 0.5)
        return max(0.0, 1 - abs(position - (cell + 0.5)))

    return along(y, size[0], row) * along(x, size[1], column)


def random_head(widths, grid, geometry="half_pixel"):
    channels = [s[0] for s in SHAPES]
    widths = [*widths, grid * grid * CLASSES]
    weights = [torch.randn(o, i) / i**0.5 for i, o in pairwise([sum(channels), *widths])]
    biases = [torch.randn(o) for o in widths]
    return DenseHead(weights, biases, channels=channels, geometry=geometry, grid=grid)


def slow_probability(head, maps):
    """Equation 2 of the paper, one pixel and one classifier at a time: (n_classes, H, W)."""
    column = hypercolumn_map(maps, SIZE, head.geometry)
    of_pixels = []
    for y, x in product(*map(range, SIZE)):
        value = column[:, y, x]
        for weight, bias in list(zip(head.weights, head.biases, strict=True))[:-1]:
            value = (weight @ value + bias).relu()
        p = torch.zeros(CLASSES)
        for k, (row, cell) in enumerate(product(range(head.grid), repeat=2)):
            own = slice(k * CLASSES, (k + 1) * CLASSES)
            g = (head.weights[-1][own] @ value + head.biases[-1][own]).softmax(0)
            p = p + slow_weight(y, x, SIZE, row, cell, head.grid) * g
        of_pixels.append(p)
    return torch.stack(of_pixels, dim=1).reshape(-1, *SIZE)


@pytest.mark.parametrize("grid", [1, 2, 5, 20])
@pytest.mark.parametrize("size", [SIZE, (1, 7), (40, 3)])
def test_weights_are_bilinear_between_the_centres_of_the_cells(size, grid):
    ys, xs = (i.flatten() for i in torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    found = grid_weights(ys, xs, *map(torch.tensor, size), grid)
    slow = [
        [slow_weight(int(y), int(x), size, row, column, grid) for y, x in zip(ys, xs, strict=True)]
        for row, column in product(range(grid), repeat=2)
    ]
    torch.testing.assert_close(found, torch.tensor(slow))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(len(ys)))
    # Enlarging a map that is one at a single cell gives that cell's weights.
    cells = torch.eye(grid * grid).reshape(1, -1, grid, grid)
    enlarged = interpolate(cells, size=size, mode="bilinear")[0].flatten(1)
    torch.testing.assert_close(found, enlarged, rtol=0, atol=2e-6)
    spans = [(0, size[0] // 2), (size[0] // 2, size[0])]
    parts = [block_weights(size, grid, *span, torch.device("cpu")) for span in spans]
    assert torch.equal(torch.cat(parts, dim=1), found)


def test_every_image_has_its_own_size():
    ys, xs = torch.tensor([3, 3]), torch.tensor([2, 2])
    found = grid_weights(ys, xs, torch.tensor([8, 5]), torch.tensor([4, 30]), 3)
    for n, size in enumerate([(8, 4), (5, 30)]):
        alone = grid_weights(ys[:1], xs[:1], *map(torch.tensor, size), 3)
        assert torch.equal(found[:, n], alone[:, 0])
    assert not torch.equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize("geometry", ["half_pixel", "align_corners"])
@pytest.mark.parametrize("widths", [(), (6,)], ids=["linear", "perceptron"])
@pytest.mark.parametrize("grid", [2, 5])
@pytest.mark.parametrize("compiled", [True, False])
def test_probabilities_are_those_of_the_direct_formula(
    grid, widths, geometry, compiled, monkeypatch
):
    monkeypatch.setattr(compiled_strip, "is_for", lambda weight: compiled)
    monkeypatch.setitem(torch_strip._BLOCK_ELEMENTS, "cpu", 4000)
    maps = [torch.randn(s) for s in SHAPES]
    head = random_head(widths, grid, geometry)
    assert head.n_classes == CLASSES
    scores = head(maps, SIZE)
    assert scores.shape == (CLASSES, *SIZE)
    with torch.no_grad():
        expected = slow_probability(head, maps)
    torch.testing.assert_close(scores.exp(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widths", [(), (6,)], ids=["linear", "perceptron"])
@pytest.mark.parametrize("grid", [2, 3])
def test_gradients_are_those_of_the_direct_formula(grid, widths, monkeypatch):
    monkeypatch.setitem(torch_strip._BLOCK_ELEMENTS, "cpu", 4000)
    maps = [torch.randn(s) for s in SHAPES]
    head = random_head(widths, grid)
    label = torch.randint(0, CLASSES, SIZE)
    label[2:5, 3:9] = 255
    weights = torch.tensor([1.0, 0.5, 2.0, 3.0])
    smoothing = torch.tensor([0.1, 0.0, 0.05, 0.05])

    target = 0.8 * one_hot(label % 255, CLASSES) + smoothing
    log_p = slow_probability(head, maps).log().permute(1, 2, 0)
    loss_of_pixel = -(target * log_p).sum(dim=2) * weights[label % 255]
    expected_loss = loss_of_pixel[label != 255].sum() / 7
    expected = torch.autograd.grad(expected_loss, list(head.parameters()))

    loss = head_loss(head, [(maps, Target(label, 255, weights, smoothing, 7))])
    found = torch.autograd.grad(loss, list(head.parameters()))
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * float(other.abs().max()))


def test_a_grid_of_one_classifier_is_that_classifier():
    """Of one cell, and of many cells with the same weights."""
    maps = [torch.randn(s) for s in SHAPES]
    one = random_head((6,), 1)
    log_p = one(maps, SIZE).log_softmax(dim=0)
    logits = torch.randn(CLASSES, 30)
    everywhere = torch.ones(1, 30)
    assert torch.equal(log_probability(logits, everywhere), logits.log_softmax(0))
    many = DenseHead(
        [one.weights[0], one.weights[1].repeat(9, 1)],
        [one.biases[0], one.biases[1].repeat(9)],
        channels=one.channels,
        grid=3,
    )
    torch.testing.assert_close(many(maps, SIZE), log_p, rtol=1e-5, atol=1e-5)


def test_nothing_vanishes_however_sure_the_classifiers_are():
    logits = torch.tensor([[5000.0], [-5000.0], [3000.0], [-1e4]])  # two classifiers of two classes
    weights = torch.tensor([[0.25], [0.75]])
    target = torch.tensor([[0.0], [1.0]])
    log_p, gradient = cross_entropy_gradient(logits, weights, target)
    assert log_p.isfinite().all()
    assert log_p[1].item() == pytest.approx(-1e4, rel=1e-3)
    # All the blame is on the first, which is less wrong.
    torch.testing.assert_close(gradient, torch.tensor([[1.0], [-1.0], [0.0], [0.0]]))


def test_outputs_that_do_not_divide_are_refused():
    with pytest.raises(HeadError, match="10 outputs are none for a grid of 2 x 2"):
        DenseHead([torch.zeros(10, 3)], [torch.zeros(10)], channels=[3], grid=2)
