"""Feature maps against torchvision's own networks, run layer by layer."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from pipeline.backbones import load_backbone
from pipeline.errors import BackboneError


@pytest.fixture(scope="module")
def squeezenet():
    return load_backbone("squeezenet1_0", weights="random", seed=1)


def plain_network(name, **options):
    """Torchvision's own network with the weights of seed 1, no ReLU in place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = torchvision.models.get_model(name, weights=None, **options)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return network.eval()


def images(height, width, count=2):
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(count, 3, height, width, generator=generator)


def assert_same(maps, expected, tolerance=1e-5):
    assert len(maps) == len(expected)
    for got, want in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().max())


@torch.no_grad()
def test_vgg11_equals_its_layers_one_by_one(tmp_path):
    # Only the convolutions: to initialise the classifier, which no tap needs, takes seconds.
    with torch.device("meta"):
        features = torchvision.models.vgg11(weights=None).features
    generator = torch.Generator().manual_seed(1)
    state = {}
    for key, value in features.state_dict().items():
        scale = (2 / value[0].numel()) ** 0.5 if value.ndim == 4 else 0.1
        state[key] = torch.randn(value.shape, generator=generator) * scale
    safetensors.torch.save_file(
        {f"features.{key}": value for key, value in state.items()}, tmp_path / "w.safetensors"
    )
    backbone = load_backbone("vgg11", weights=tmp_path / "w.safetensors")
    for size in [(32, 32), (45, 71)]:
        x = images(*size)
        expected = []
        for index, layer in enumerate(features):
            if isinstance(layer, nn.Conv2d):
                weight, bias = state[f"{index}.weight"], state[f"{index}.bias"]
                x = nn.functional.conv2d(x, weight, bias, padding=1)
                if index in (0, 3, 8, 13, 18):
                    expected.append(x)
            elif isinstance(layer, nn.ReLU):
                x = x.clamp(min=0)
            else:
                x = nn.functional.max_pool2d(x, 2)
        maps = backbone(images(*size))
        assert_same(maps, expected)
        assert [tuple(m.shape[1:]) for m in maps] == backbone.feature_shapes(*size)
        assert all(m.min() < 0 for m in maps)


@torch.no_grad()
def test_squeezenet_equals_its_layers_one_by_one(squeezenet):
    network = plain_network("squeezenet1_0")
    for size in [(64, 64), (53, 97)]:
        x = images(*size)
        expected = []
        for index, layer in enumerate(network.features):
            if index == 0:
                x = layer(x)
                before_relu = x
            elif hasattr(layer, "squeeze"):
                squeezed = layer.squeeze(x).clamp(min=0)
                before_relu = torch.cat([layer.expand1x1(squeezed), layer.expand3x3(squeezed)], 1)
                x = before_relu.clamp(min=0)
            else:
                x = layer(x)
            if index in (0, 3, 4, 7, 9, 12):
                expected.append(before_relu)
        maps = squeezenet(images(*size))
        assert_same(maps, expected)
        assert [tuple(m.shape[1:]) for m in maps] == squeezenet.feature_shapes(*size)
        assert all(m.min() < 0 for m in maps)


@pytest.mark.parametrize(
    ("name", "taps", "options"),
    [
        ("resnet18", ["layer1.0.conv1", "layer2.0.bn2", "layer4"], {}),
        ("densenet121", ["features.conv0", "features.denseblock2.denselayer3.conv2"], {}),
        ("mobilenet_v3_small", ["features.0.0", "features.4.block.2.fc2", "features.9"], {}),
        # The options are what torchvision itself sets with the published weights.
        (
            "googlenet",
            ["conv1.conv", "inception3a", "inception4e.branch2"],
            {"transform_input": True, "init_weights": True},
        ),
        ("convnext_tiny", ["features.0.0", "features.3.1.block.0", "features.5"], {}),
    ],
)
@torch.no_grad()
def test_any_network_by_module_names(name, taps, options):
    backbone = load_backbone(name, weights="random", seed=1, taps=taps)
    network = plain_network(name, **options)
    outputs = {}
    for tap in taps:  # copies, because a residual network adds to its maps in place
        network.get_submodule(tap).register_forward_hook(
            lambda _module, _inputs, output, tap=tap: outputs.update({tap: output.clone()})
        )
    x = images(65, 90)
    network(x)
    assert_same(backbone(x), [outputs[tap] for tap in taps])


@torch.no_grad()
def test_a_map_that_a_function_overwrites_in_place():
    # DenseNet ends in F.relu(features, inplace=True).
    backbone = load_backbone("densenet121", weights="random", seed=1, taps=["features.norm5"])
    x = images(48, 70)
    (got,) = backbone(x)
    assert got.min() < 0
    assert_same([got], [plain_network("densenet121").features(x)])


def test_taps_come_in_the_order_asked_for(squeezenet):
    x = images(50, 41)
    conv1, fire2, *_ = squeezenet(x)
    reordered = load_backbone(
        "squeezenet1_0", weights="random", seed=1, taps=["fire2", "mine=features.0"]
    )
    assert_same(reordered(x), [fire2, conv1], tolerance=0)
    assert [tap.name for tap in reordered.taps] == ["fire2", "mine"]


def test_maps_are_fresh_and_need_no_gradient(squeezenet):
    x = images(40, 40)
    first = squeezenet(x)
    kept = [m.clone() for m in first]
    for m in first:
        assert not m.requires_grad
        m.zero_()
    assert_same(squeezenet(x), kept, tolerance=0)


def test_the_images_are_left_as_they_are(squeezenet):
    x = images(40, 40)
    squeezenet(x)
    assert torch.equal(x, images(40, 40))


def test_a_failed_pass_leaves_no_trace(squeezenet):
    x = images(40, 40)
    before = squeezenet(x)
    with pytest.raises(RuntimeError):
        squeezenet(x.double())
    assert_same(squeezenet(x), before, tolerance=0)


def test_several_threads_at_a_time(squeezenet):
    batches = [images(40, 40 + i, count=1) for i in range(12)]
    expected = [squeezenet(x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(squeezenet, batches), expected, strict=True):
            assert_same(got, want)


def test_neither_layout_nor_a_surrounding_autocast_change_a_bit(squeezenet):
    x = images(50, 41)
    expected = squeezenet(x)
    assert_same(squeezenet(x.to(memory_format=torch.channels_last)), expected, tolerance=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(squeezenet(x), expected, tolerance=0)


def test_computing_in_bfloat16_is_what_autocast_does(squeezenet):
    x = images(50, 41)
    reduced = load_backbone("squeezenet1_0", weights="random", seed=1, compute="bfloat16")
    assert reduced.weights_digest == squeezenet.weights_digest
    assert reduced.identity() != squeezenet.identity()
    found = reduced(x)
    assert all(m.dtype == torch.float32 for m in found)
    assert_same(found, squeezenet(x), tolerance=0.02)
    network = plain_network("squeezenet1_0").to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        conv1 = network.features[0](x.contiguous(memory_format=torch.channels_last))
    assert conv1.dtype == torch.bfloat16
    assert torch.equal(found[0], conv1.float())


def test_moving_returns_the_backbone_itself(squeezenet):
    assert squeezenet.to("cpu") is squeezenet
    assert squeezenet.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(squeezenet):
    x = images(50, 41)
    on_gpu = load_backbone("squeezenet1_0", weights="random", seed=1, device="cuda")
    assert on_gpu.weights_digest == squeezenet.weights_digest
    assert_same([m.cpu() for m in on_gpu(x.cuda())], squeezenet(x), tolerance=1e-2)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 40, 40),
        torch.zeros(1, 1, 40, 40),
        torch.zeros(1, 40, 40, 3),
        torch.zeros(1, 3, 40, 40, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(squeezenet, wrong):
    with pytest.raises(BackboneError, match="takes float images"):
        squeezenet(wrong)


def test_too_small_images_are_refused(squeezenet):
    with pytest.raises(BackboneError, match="9x40 pixels"):
        squeezenet(torch.zeros(1, 3, 9, 40))


def test_identity_is_the_same_however_the_taps_are_spelled(squeezenet):
    spelled = load_backbone(
        "squeezenet1_0",
        weights="random",
        seed=1,
        taps=["conv1=features.0", "fire2=features.3.expand1x1+features.3.expand3x3"],
    )
    named = load_backbone("squeezenet1_0", weights="random", seed=1, taps=["conv1", "fire2"])
    assert json.loads(json.dumps(spelled.identity())) == named.identity()
    assert squeezenet.identity() != named.identity()


def test_a_misspelt_tap_costs_no_download(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(BackboneError, match=r"features\.0"):
        load_backbone("vgg11", taps=["feature.0"])
    with pytest.raises(BackboneError, match="'vgg' is unknown"):
        load_backbone("vgg")
