"""Winograd's convolution against the plain formula, in float64."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from pipeline.backbones import load_backbone, winograd
from pipeline.backbones.exchange import with_fast_layers
from pipeline.backbones.winograd import WinogradConv2d
from pipeline.backbones.winograd_loops import convolve, convolve_in_parts
from pipeline.compiled import threads_to_share

# Largest differences seen, over the standard deviation of the outputs: 3e-5, and torch's own 6e-6.
LARGEST, AS_A_RULE = 1e-4, 5e-6


def fast_and_plain(channels=(64, 64), padding=(1, 1), bias=True):
    torch.manual_seed(0)
    plain = nn.Conv2d(*channels, 3, padding=padding, bias=bias).requires_grad_(False)
    network = with_fast_layers(nn.Sequential(plain))
    assert isinstance(network[0], WinogradConv2d)
    return network[0], plain


def in_float64(plain, images):
    bias = None if plain.bias is None else plain.bias.double()
    return conv2d(images.double(), plain.weight.double(), bias, padding=plain.padding)


def assert_close(found, expected):
    difference = (found - expected).abs() / expected.std()
    assert difference.max() < LARGEST
    assert difference.square().mean().sqrt() < AS_A_RULE


@pytest.fixture
def taken(monkeypatch):
    """Count how many images are computed the fast way."""
    calls = []

    def counted(function):
        return lambda *given: (calls.append(1), function(*given))[1]

    for name in ("convolve", "convolve_in_parts"):
        monkeypatch.setattr(winograd, name, counted(getattr(winograd, name)))
    return calls


@pytest.mark.parametrize("size", [(28, 28), (27, 30), (40, 23), (4, 197), (1, 196)])
@pytest.mark.parametrize("padding", [(1, 1), (0, 2), (2, 0), (3, 1)])
def test_every_size_and_padding(size, padding, taken):
    fast, plain = fast_and_plain(padding=padding)
    size = (max(size[0], 3 - 2 * padding[0]), size[1])
    images = torch.randn(2, 64, *size)
    found = fast(images)
    assert len(taken) == 2
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, in_float64(plain, images))


@pytest.mark.parametrize("channels", [(64, 80), (96, 64), (24, 37), (16, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_channels_and_bias(channels, bias, taken):
    fast, plain = fast_and_plain(channels, bias=bias)
    images = torch.randn(1, channels[0], 33, 45).relu()
    found = fast(images.contiguous(memory_format=torch.channels_last))
    assert len(taken) == 1
    assert_close(found, in_float64(plain, images))


def test_bits_do_not_depend_on_how_many_tiles_are_computed_at_once(monkeypatch):
    images = torch.randn(1, 64, 33, 45)
    found = []
    for tiles in (1, 24, 1000):
        monkeypatch.setattr(winograd, "_VALUES_AT_ONCE", 0)
        monkeypatch.setattr(winograd, "_TILES_AT_ONCE", tiles - 16)
        found.append(fast_and_plain()[0](images))
    assert found[0].equal(found[1]) and found[0].equal(found[2])


@pytest.mark.parametrize("size", [(56, 40), (9, 13)])
def test_bits_do_not_depend_on_the_number_of_threads(size):
    """Rows are shared out, or where there are few of them channels."""
    fast, _ = fast_and_plain((24, 90))
    image = torch.randn(*size, 24).numpy()
    given = image, fast._kernels, fast.bias_panels, True, (1, 1)
    whole = np.zeros((*size, 95), np.float32)
    convolve(*given, 0, -(-size[0] // 4), 2, whole, 3, 90)
    assert whole[..., 3:93].any() and not whole[..., :3].any() and not whole[..., 93:].any()
    for parts in (1, 2, 3, 20):
        found = np.zeros_like(whole)
        convolve_in_parts(*given, 2, found, 3, 90, parts)
        assert np.array_equal(found, whole)


def test_several_callers_with_several_threads_each():
    fast, _ = fast_and_plain()
    images = [torch.randn(1, 64, 40, 40) for _ in range(6)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = [fast(image) for image in images]
        torch.set_num_threads(2)
        if threads_to_share() == 1:
            pytest.skip("there is one core, or no OpenMP")
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(fast, images))
    finally:
        torch.set_num_threads(threads)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_only_its_own_channels_are_written_and_nothing_outside_the_image_is_read():
    fast, plain = fast_and_plain((24, 37))
    around = torch.full((3, 30, 29, 24), torch.nan)
    images = around[1:2]
    images.copy_(torch.randn(1, 30, 29, 24))
    maps = torch.full((1, 30, 29, 60), 7.0)
    fast(images.permute(0, 3, 1, 2), (maps.permute(0, 3, 1, 2), 11))
    expected = in_float64(plain, images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert_close(maps[..., 11:48], expected)
    assert (maps[..., :11] == 7).all() and (maps[..., 48:] == 7).all()


def test_a_relu_in_it():
    fast, plain = fast_and_plain((24, 37))
    fast.relu = True
    images = torch.randn(1, 24, 28, 30)
    assert_close(fast(images), in_float64(plain, images).relu())
    images[0, 3, 9, 9] = torch.nan
    assert fast(images)[0, :, 9, 9].isnan().all()


@pytest.mark.parametrize("channels", [8, 15, 32])
@pytest.mark.parametrize("size", [1, 3])
def test_images_of_another_number_of_channels_are_refused(channels, size):
    fast = with_fast_layers(nn.Sequential(nn.Conv2d(16, 16, size, padding=size // 2)))
    assert type(fast[0]) is not nn.Conv2d
    with pytest.raises(RuntimeError, match=f"to have 16 channels, but got {channels} channels"):
        fast(torch.randn(1, channels, 40, 40))


def test_what_does_not_pay_or_is_not_float32_is_left_to_torch(taken):
    fast, plain = fast_and_plain()
    small, large = torch.randn(1, 64, 4, 12), torch.randn(1, 64, 28, 28)
    assert fast(small).equal(plain(small))
    assert fast.double()(large.double()).equal(plain.double()(large.double()))
    assert not taken


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.Conv2d(64, 64, 3, dilation=2, padding=2),
        nn.Conv2d(64, 64, 3, groups=2, padding=1),
        nn.Conv2d(64, 64, 5, padding=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 64, 3, padding="same"),
        nn.Conv2d(3, 64, 3, padding=1),
        nn.Conv2d(28, 64, 3, padding=1),
    ],
)
def test_other_convolutions_stay_what_they_are(module):
    assert with_fast_layers(nn.Sequential(module))[0] is module


def test_large_and_small_values_keep_their_digits():
    fast, plain = fast_and_plain()
    for factor in (1e-12, 1e12):
        images = factor * torch.randn(1, 64, 28, 28)
        plain.bias.zero_()
        assert_close(fast(images), in_float64(plain, images))


def test_behind_several_layers_it_is_as_exact_as_torch_s_convolutions(monkeypatch):
    images = torch.randn(1, 3, 224, 230, generator=torch.Generator().manual_seed(1))
    backbone = load_backbone("vgg11", weights="random")
    network = backbone._tapped.network
    assert any(isinstance(module, WinogradConv2d) for module in network.modules())
    found = backbone(images)
    monkeypatch.setattr(winograd, "_FEWEST_TILES", 10**9)
    plain = backbone(images)
    network.double()
    exact = backbone(images.double())

    def error(maps, tap):
        return (maps[tap] - exact[tap]).square().mean().sqrt() / exact[tap].std()

    assert not found[1].equal(plain[1])
    assert error(found, 1) < 5 * error(plain, 1)
    for tap in (2, 3):
        assert error(found, tap) < 2 * error(plain, tap)
