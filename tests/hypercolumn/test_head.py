"""The dense head and the sampled columns against the full-map formula."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from pipeline.errors import HeadError, ParamsError
from pipeline.hypercolumn import (
    DenseHead,
    Features,
    Target,
    compiled_strip,
    head_loss,
    hypercolumn_map,
    hypercolumns_at,
    strips,
    torch_strip,
)

SIZES = [
    ((33, 47), [(4, 17, 23), (6, 9, 12), (5, 9, 12), (3, 1, 1)]),
    ((20, 20), [(3, 1, 1), (4, 1, 1)]),
    ((1, 37), [(3, 1, 19), (2, 1, 5)]),
    ((1, 1), [(3, 1, 1), (2, 2, 2)]),
    ((16, 24), [(3, 40, 31), (5, 16, 24)]),
    ((16, 24), [(3, 16, 24), (4, 5, 7), (5, 16, 24)]),
]
GEOMETRIES = ["half_pixel", "align_corners"]


def random_head(channels, widths, geometry, activation="relu"):
    sizes = [sum(channels), *widths]
    weights = [torch.randn(o, i) / i**0.5 for i, o in pairwise(sizes)]
    return DenseHead(
        weights,
        [torch.randn(o) for o in widths],
        channels=channels,
        geometry=geometry,
        activation=activation,
    )


PLAIN = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "identity": torch.positive,
}


def plain_logits(head, column):
    """The head on (n, D) hypercolumns, layer after layer."""
    activate = PLAIN[head.activation]
    for layer, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
        column = (activate(column) if layer else column) @ weight.T + bias
    return column


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Compute strips in one way or the other."""
    if request.param == "torch":
        monkeypatch.setattr(compiled_strip, "is_for", lambda weight: False)
    return request.param


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("size", "shapes"), SIZES)
def test_sampled_columns_equal_the_full_map(size, shapes, geometry):
    maps = [torch.randn(s) for s in shapes]
    full = hypercolumn_map(maps, size, geometry)
    ys, xs = (i.flatten() for i in torch.meshgrid(*map(torch.arange, size), indexing="ij"))
    columns = hypercolumns_at(maps, ys, xs, size, geometry)
    torch.testing.assert_close(columns, full.flatten(1).T, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("widths", [(7,), (16, 5), (8, 6, 3)])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("size", "shapes"), SIZES)
def test_classify_then_upsample_equals_the_full_map(size, shapes, geometry, widths):
    maps = [torch.randn(s) for s in shapes]
    head = random_head([s[0] for s in shapes], widths, geometry)
    full = hypercolumn_map(maps, size, geometry)
    expected = plain_logits(head, full.flatten(1).T).T.reshape(-1, *size)
    torch.testing.assert_close(head(maps, size), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("widths", [(7,), (70, 5)])
def test_maps_with_their_channels_last(widths):
    """As a backbone gives them; there are too few columns for torch's products, or enough."""
    maps = [torch.randn(s) for s in [(8, 16, 24), (6, 8, 12), (5, 8, 12), (3, 1, 1)]]
    head = random_head([8, 6, 5, 3], widths, "half_pixel")
    expected = head(maps, (16, 24))
    last = [m.permute(1, 2, 0).contiguous().permute(2, 0, 1) for m in maps]
    torch.testing.assert_close(head(last, (16, 24)), expected, rtol=1e-5, atol=1e-5)
    target = Target(torch.randint(0, 5, (16, 24)), 255, torch.ones(7), torch.zeros(widths[-1]), 1)
    losses = [head_loss(head, [(given, target)]).item() for given in (last, maps)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_maps_of_another_dtype(dtype, last):
    maps = [torch.randn(s).to(dtype) for s in [(8, 16, 24), (6, 8, 12), (3, 1, 1)]]
    if last:
        maps = [m.permute(1, 2, 0).contiguous().permute(2, 0, 1) for m in maps]
    for widths in ((7,), (70, 5)):
        head = random_head([8, 6, 3], widths, "half_pixel")
        expected = head([m.float().contiguous() for m in maps], (16, 24))
        torch.testing.assert_close(head(maps, (16, 24)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("way")
def test_gradients_show_what_is_not_a_number():
    """A loss that is none must not leave a head that looks sound."""
    maps = [torch.randn(4, 6, 7), torch.randn(3, 3, 3)]
    maps[1][1, 1, 1] = torch.nan
    head = random_head([4, 3], (9, 5), "half_pixel")
    target = Target(torch.randint(0, 5, (6, 7)), 255, torch.ones(5), torch.zeros(5), 42)
    loss = head_loss(head, [(maps, target)])
    assert loss.isnan()
    for gradient in torch.autograd.grad(loss, list(head.parameters())):
        assert gradient.isnan().any()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("size", "shapes"), SIZES)
@pytest.mark.parametrize("factor", [1, 3])  # as the loss may be a part of something larger
def test_gradients_equal_the_full_map(size, shapes, geometry, factor, monkeypatch):
    monkeypatch.setitem(
        torch_strip._BLOCK_ELEMENTS, "cpu", 100 if factor == 1 else 1000
    )  # many blocks, few
    monkeypatch.setattr(strips, "_PIXELS", 300 if factor == 1 else 1 << 20)  # many strips, one
    maps = [torch.randn(s) for s in shapes]
    head = random_head([s[0] for s in shapes], (9, 4), geometry)
    label = torch.randint(0, 4, (size[0] * size[1],))
    label[:: max(2, len(label) // 5)] = 255
    label[-1] = 2
    weights = torch.tensor([1.0, 0.5, 2.0, 3.0])
    smoothing = torch.tensor([0.1, 0.0, 0.05, 0.05])

    full = hypercolumn_map(maps, size, geometry)
    target = 0.8 * one_hot(label % 255, 4) + smoothing
    log_p = plain_logits(head, full.flatten(1).T).log_softmax(dim=1)
    loss_of_pixel = -(target * log_p).sum(dim=1) * weights[label % 255]
    expected_loss = factor * loss_of_pixel[label != 255].sum() / 7
    expected = torch.autograd.grad(expected_loss, list(head.parameters()))

    loss = head_loss(head, [(maps, Target(label.reshape(size), 255, weights, smoothing, 7))])
    (loss * factor).backward()
    assert loss.item() == pytest.approx(expected_loss.item() / factor, rel=1e-5)
    for parameter, gradient in zip(head.parameters(), expected, strict=True):
        scale = gradient.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(parameter.grad / scale, gradient / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("pixels", [1 << 10, 1 << 20])  # of many strips, and of one
@pytest.mark.usefixtures("way")
def test_no_bit_depends_on_the_number_of_threads(pixels, monkeypatch):
    monkeypatch.setattr(strips, "_PIXELS", pixels)
    maps = [torch.randn(s) for s in [(8, 64, 96), (64, 32, 48), (128, 16, 24), (96, 8, 12)]]
    head = random_head([8, 64, 128, 96], (96, 5), "half_pixel")
    target = Target(torch.randint(0, 5, (64, 96)), 255, torch.ones(5), torch.zeros(5), 64 * 96)
    found = {}
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        loss = head_loss(head, [(maps, target)])
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        found[threads] = [loss, *gradients, head(maps, (64, 96))]
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    for tensors in (found[2], found[5]):
        assert all(torch.equal(a, b) for a, b in zip(found[1], tensors, strict=True))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("mode", [torch.inference_mode, lambda: torch.autocast("cpu")])
def test_strips_are_computed_alike_in_every_mode(mode, monkeypatch):
    """Torch keeps its modes for each thread."""
    maps = [torch.randn(s) for s in [(8, 64, 96), (64, 32, 48)]]
    head = random_head([8, 64], (16, 5), "half_pixel")
    expected = head(maps, (64, 96))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for pixels in (1 << 10, 1 << 20):
            monkeypatch.setattr(strips, "_PIXELS", pixels)
            with mode():
                torch.testing.assert_close(head(maps, (64, 96)), expected, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("label", [4, -1, 200])
def test_a_label_that_is_none_of_the_classes(label):
    head = random_head([3], (6, 4), "half_pixel")
    labels = torch.full((8, 9), 2)
    labels[5, 5] = label
    target = Target(labels, 255, torch.ones(256), torch.zeros(4), 72)
    with pytest.raises((IndexError, RuntimeError)):
        head_loss(head, [([torch.randn(3, 4, 5)], target)])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("activation", sorted(PLAIN))
def test_gradients_of_every_activation(activation):
    maps = [torch.randn(s) for s in [(4, 17, 23), (6, 9, 12), (3, 1, 1)]]
    head = random_head([4, 6, 3], (9, 5, 4), "half_pixel", activation)
    label = torch.randint(0, 4, (17, 23))

    full = hypercolumn_map(maps, (17, 23)).flatten(1).T
    loss = cross_entropy(plain_logits(head, full), label.flatten())
    expected = torch.autograd.grad(loss, list(head.parameters()))
    target = Target(label, 255, torch.ones(4), torch.zeros(4), 17 * 23)
    found = torch.autograd.grad(head_loss(head, [(maps, target)]), list(head.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_gradients_in_mixed_precision():
    """As on a GPU: products in bfloat16, the loss and the parameters in float32."""
    maps = [torch.randn(s) for s in [(4, 32, 48), (6, 16, 24), (8, 4, 6), (3, 1, 1)]]
    head = random_head([4, 6, 8, 3], (16, 4), "half_pixel")
    target = Target(torch.randint(0, 4, (32, 48)), 255, torch.ones(4), torch.zeros(4), 32 * 48)
    expected = torch.autograd.grad(head_loss(head, [(maps, target)]), list(head.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = head_loss(head, [(maps, target)])
    found = torch.autograd.grad(loss, list(head.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert not torch.equal(one, other)
        assert (one - other).norm() < 0.03 * other.norm()


def test_relu_comes_before_resampling():
    maps = [torch.tensor([[[-1.0, 1.0]]])]
    (used,) = Features(activation="relu", context=()).apply(maps, ["a"])
    middle = hypercolumns_at([used], torch.tensor([0]), torch.tensor([1]), (1, 3))
    assert middle.item() == 0.5  # not relu(0)


@pytest.mark.parametrize("window", [1, 3, 7, 99])
def test_context_is_a_map_s_mean(window):
    a, b = torch.randn(2, 8, 7), torch.randn(3, 5, 4)
    context = ("global", str(window), "a:global", f"a:{window}", f"b:{window}")
    features = Features(activation="relu", context=context)
    found = features.apply([a, b], ["a", "b"])
    assert [tuple(m.shape[1:]) for m in found] == [
        (8, 7), (5, 4), (1, 1), (5, 4), (1, 1), (8, 7), (5, 4),
    ]  # fmt: skip
    reach = window // 2
    for pooled, of in zip(found[2:], (b, b, a, a, b), strict=True):
        of = of.relu()
        if pooled.shape[1:] == (1, 1):
            torch.testing.assert_close(pooled.flatten(), of.flatten(1).mean(1))
            continue
        for y in range(of.shape[1]):
            for x in range(of.shape[2]):
                around = of[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                torch.testing.assert_close(pooled[:, y, x], around.flatten(1).mean(1))
    assert features.channels(["a", "b"], [2, 3]) == [2, 3, 3, 3, 2, 2, 3]


def test_context_of_taps_in_another_order():
    """Names are the cache's, positions are those of the taps that are used."""
    features = Features(taps=("c", "a"), context=("a:3", "c:global", "3"))
    assert features.channels(["a", "b", "c"], [2, 3, 4]) == [4, 2, 2, 4, 2]
    c, a = torch.randn(4, 2, 2), torch.randn(2, 6, 5)
    windows_of_a, mean_of_c, of_the_last = features.apply([c, a], ["c", "a"])[2:]
    assert torch.equal(windows_of_a, of_the_last)
    torch.testing.assert_close(mean_of_c[:, 0, 0], c.relu().mean(dim=(1, 2)))
    assert windows_of_a.shape == a.shape
    with pytest.raises(
        ParamsError, match=r"no tap 'b' to take the context 'b:3' of; used are c, a"
    ):
        Features(taps=("c", "a"), context=("b:3",)).select(["a", "b", "c"])


def test_layers_that_do_not_stack_are_refused():
    with pytest.raises(HeadError, match="do not stack"):
        DenseHead([torch.zeros(3, 4)], [torch.zeros(3)], channels=[5])


def test_without_smoothing_and_weights_it_is_the_usual_cross_entropy():
    logits, label = torch.randn(6, 50, requires_grad=True), torch.randint(0, 6, (50,))
    label[::7] = 255
    for smoothed in (0.0, 0.2):
        smoothing = torch.full((6,), smoothed / 6)
        target = Target(label.reshape(5, 10), 255, torch.ones(6), smoothing, 1)
        expected = cross_entropy(
            logits.T, label, ignore_index=255, reduction="sum", label_smoothing=smoothed
        )
        (gradient,) = torch.autograd.grad(expected, logits)
        first, second = logits.detach().split([20, 30], dim=1)
        parts = [target.loss(first, 0, 2), target.loss(second, 2, 5)]
        torch.testing.assert_close(sum(loss for loss, _ in parts), expected.detach())
        torch.testing.assert_close(torch.cat([part for _, part in parts], dim=1), gradient)
