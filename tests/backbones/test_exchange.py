"""A network whose layers were exchanged gives what it gave before, wherever its taps lie."""

from copy import deepcopy
from itertools import chain

import pytest
import torch
from torch import nn
from torchvision.models.squeezenet import Fire

from pipeline.backbones import load_backbone
from pipeline.backbones.backbone import Backbone, _join, _with_weights
from pipeline.backbones.exchange import RectifiedMaxPool2d, with_fast_layers
from pipeline.backbones.fire import JoinedFire
from pipeline.backbones.outline import Outline
from pipeline.backbones.pointwise import PointwiseConv2d
from pipeline.backbones.taps import parse_taps
from pipeline.backbones.tracing import TappedNetwork
from pipeline.backbones.winograd import WinogradConv2d

ROUNDING = 1e-4
"""Largest differences, over the standard deviation; seen were 5e-5."""


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < ROUNDING * max(expected.std(), 1e-3)


def small_network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 24, 5, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(24, 40, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d((2, 3), (1, 2), padding=(1, 1)),
        nn.Sequential(nn.Conv2d(40, 32, 1, bias=False), nn.ReLU()),
        Fire(32, 16, 24, 40),
        Fire(64, 24, 32, 32),
        nn.MaxPool2d(2),
    ).requires_grad_(False)


NAMES = [name for name, _ in small_network().named_modules() if name]


def outputs(network, taps, images):
    with torch.no_grad():
        return dict(TappedNetwork(network.eval(), taps)(images))


@pytest.mark.parametrize("taps", [*([name] for name in NAMES), NAMES, NAMES[::2], NAMES[1::2]])
def test_taps_at_every_module(taps):
    plain = small_network()
    fast = with_fast_layers(deepcopy(plain), taps)
    images = torch.randn(2, 3, 90, 101).contiguous(memory_format=torch.channels_last)
    expected, found = outputs(plain, taps, images), outputs(fast, taps, images)
    assert expected.keys() == found.keys() == {*taps}
    for name in taps:
        assert_close(found[name], expected[name])


def test_relus_are_merged_where_nothing_sees_what_lies_between():
    fast = with_fast_layers(small_network(), ["3", "7.expand1x1"])
    left = [name for name, module in fast.named_modules() if isinstance(module, nn.ReLU)]
    assert left == ["7.expand1x1_activation"]
    kinds = [type(module) for module in fast]
    assert kinds[:5] == [nn.Conv2d, nn.Identity, RectifiedMaxPool2d, WinogradConv2d, nn.Identity]
    assert kinds[5:] == [RectifiedMaxPool2d, nn.Sequential, JoinedFire, JoinedFire, nn.MaxPool2d]
    assert [fast.get_submodule(name).relu for name in ("3", "6.0", "7.expand3x3")] == [0, 1, 1]


class Backwards(nn.Sequential):
    """A sequence that does not run in its order."""

    def forward(self, images):
        for module in reversed(self):
            images = module(images)
        return images


def test_modules_of_other_orders_are_not_merged():
    plain = Backwards(nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.MaxPool2d(2))
    plain.requires_grad_(False)
    images = torch.randn(1, 16, 20, 20)
    fast = with_fast_layers(deepcopy(plain))
    assert_close(fast(images), plain(images))
    assert [type(module) for module in fast] == [nn.ReLU, PointwiseConv2d, nn.ReLU, nn.MaxPool2d]


@pytest.mark.parametrize("kind", [WinogradConv2d, PointwiseConv2d])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_part_of_a_map_is_written_and_nothing_else(kind, relu, bias):
    torch.manual_seed(0)
    size = 3 if kind is WinogradConv2d else 1
    plain = nn.Conv2d(32, 48, size, padding=size // 2, bias=bias).requires_grad_(False)
    fast = kind.of(plain)
    fast.relu = relu
    images = torch.randn(2, 32, 21, 18)
    maps = torch.full((2, 21, 18, 100), 7.0)
    found = fast(images, (maps.permute(0, 3, 1, 2), 30))
    expected = plain(images).relu() if relu else plain(images)
    assert_close(found, expected)
    assert maps[..., 30:78].permute(0, 3, 1, 2).equal(found)
    assert (maps[..., :30] == 7).all() and (maps[..., 78:] == 7).all()
    assert_close(fast(images), expected)
    assert fast(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "first"),
    [((2, 100, 21, 18), 53), ((2, 100, 21, 18), -1), ((1, 100, 21, 18), 0), ((2, 100, 18, 21), 0)],
)
def test_a_place_without_room_is_refused(shape, first):
    images = torch.randn(2, 32, 21, 18)
    for size in (1, 3):
        plain = nn.Conv2d(32, 48, size, padding=size // 2).requires_grad_(False)
        (fast,) = with_fast_layers(nn.Sequential(plain))
        place = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
        with pytest.raises(ValueError, match="no place"):
            fast(images, (place, first))
        with pytest.raises(ValueError, match="no place"):
            fast(images, (torch.zeros(2, 100, 21, 18), 0))
        assert not place.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_left_to_torch(dtype):
    plain = small_network().to(dtype)
    images = torch.randn(1, 3, 90, 101).to(dtype)
    fast, merged = with_fast_layers(deepcopy(plain), NAMES), with_fast_layers(deepcopy(plain))
    expected, found = outputs(plain, NAMES, images), outputs(fast, NAMES, images)
    assert all(found[name].equal(expected[name]) for name in NAMES)
    assert merged(images).equal(expected["9"])


def test_autocast_is_left_to_torch():
    plain = small_network()
    fast = with_fast_layers(deepcopy(plain))
    images = torch.randn(1, 3, 90, 101)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = fast(images), plain(images)
    assert found.dtype == torch.bfloat16 and found.equal(expected)


def test_what_is_no_number_stays_so_behind_a_merged_relu():
    plain = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.ReLU(), nn.MaxPool2d(2))
    images = torch.randn(1, 16, 8, 8)
    images[0, :, 3, 4] = torch.nan
    plain.requires_grad_(False)
    found, expected = with_fast_layers(deepcopy(plain))(images), plain(images)
    assert found.isnan().equal(expected.isnan()) and expected.isnan().any()


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "googlenet", "densenet121"])
def test_networks_of_torchvision(name):
    taps = {
        "squeezenet1_1": ["features.0", "features.4", "features.7.expand3x3", "features.12"],
        "resnet18": ["conv1", "layer1.1.conv2", "layer3.0"],
        "googlenet": ["conv2", "inception3b", "inception4a.branch2.1"],
        "densenet121": ["features.transition1", "features.denseblock3"],
    }[name]
    outline = Outline(name, [parse_taps(name, [tap])[0] for tap in taps])
    torch.manual_seed(0)
    state = {
        key: torch.rand_like(t, device="cpu") + 0.5
        if t.ndim < 2
        else torch.randn_like(t, device="cpu") * (2 / t[0].numel()) ** 0.5
        for key, t in outline.tensors.items()
    }
    found = Backbone(outline, state)
    exchanged = {type(module) for module in found._tapped.network.modules()}
    assert {WinogradConv2d, PointwiseConv2d} & exchanged
    plain = TappedNetwork(_with_weights(outline.skeleton, state), outline.modules, outline.last)
    images = torch.randn(1, 3, 224, 224)
    outputs = dict(plain(images))
    for own, tap in zip(found(images), outline.taps, strict=True):
        assert_close(own, torch.cat([outputs[module] for module in tap.modules], 1))


def test_maps_that_lie_side_by_side_are_not_copied(monkeypatch):
    maps = torch.randn(2, 5, 7, 12).permute(0, 3, 1, 2)
    parts = list(maps.split([3, 4, 5], 1))
    joined = _join(parts)
    assert joined.equal(maps) and joined.data_ptr() == maps.data_ptr()
    assert _join(parts[1:]).equal(maps[:, 3:])
    for others in (parts[::-1], parts[::2], [parts[0], parts[0]], [parts[0], parts[1].clone()]):
        assert _join(others).equal(torch.cat(others, 1))
    backbone = load_backbone("squeezenet1_0", weights="random")
    images, copies = torch.randn(1, 3, 224, 224), []
    backbone.feature_shapes(224, 224)  # on the meta device it is torchvision's network
    monkeypatch.setattr(torch, "cat", lambda *given, **_: copies.append(given))
    fires = backbone(images)[1:]
    assert not copies and len(fires) == 5
    assert all(fire.is_contiguous(memory_format=torch.channels_last) for fire in fires)
    assert len({*chain(fire.data_ptr() for fire in fires)}) == 5
