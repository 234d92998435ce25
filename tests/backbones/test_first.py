"""Which taps are the network's first convolution of the image, and what they are computed with."""

import numpy as np
import pytest
import torch

from pipeline.backbones import Preprocessing, first_convolution, load_backbone
from pipeline.errors import BackboneError, WeightsError

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 75, 3), dtype=np.uint8)


def load(name, taps, **settings):
    return load_backbone(name, weights="random", taps=taps, **settings)


@pytest.mark.parametrize("normalization", ["imagenet", "raw"])
@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("vgg11", "features.0"),
        ("squeezenet1_0", "features.0"),
        ("alexnet", "features.0"),
        ("resnet18", "conv1"),  # which has no bias
        ("densenet121", "features.conv0"),
    ],
)
def test_it_gives_what_the_network_gives(name, tap, normalization):
    backbone, preprocessing = load(name, [tap]), Preprocessing(normalization, "native")
    (expected,) = backbone(torch.from_numpy(preprocessing.normalize(PIXELS))[None])
    found = first_convolution(backbone, preprocessing)
    largest = expected.abs().max().item()
    np.testing.assert_allclose(found.map(PIXELS), expected[0], rtol=0, atol=1e-5 * largest)


def test_with_bfloat16_its_factors_are_rounded_as_those_of_the_network():
    preprocessing = Preprocessing(input_size="native")
    exact = first_convolution(load("vgg11", ["conv1_1"]), preprocessing)
    backbone = load("vgg11", ["conv1_1"], compute="bfloat16")
    (expected,) = backbone(torch.from_numpy(preprocessing.normalize(PIXELS))[None])
    found = first_convolution(backbone, preprocessing).map(PIXELS)
    # What remains is that the network rounds its sums as well, to half a step of 2^-7 at most.
    np.testing.assert_allclose(found, expected[0], rtol=2**-8, atol=1e-5)
    assert np.abs(found - exact.map(PIXELS)).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("alexnet", None),
        ("vgg11", ["conv2_1", "conv1_1"]),
        ("vgg11", ["features.1"]),
        ("squeezenet1_0", ["features.0+features.0"]),
        ("resnet18", ["bn1", "conv1"]),
        ("resnet18", ["layer1.0.conv1"]),
    ],
)
def test_any_other_tap_is_one_line(name, taps):
    backbone = load(name, taps)
    with pytest.raises(BackboneError, match=r"first tap, .* leave out --recompute-first") as caught:
        first_convolution(backbone, Preprocessing())
    assert "\n" not in str(caught.value)
    assert backbone.taps[0].name in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_weights_that_give_no_finite_map_are_refused(value):
    backbone = load("vgg11", ["conv1_1"])
    module = backbone.first_module()
    assert module is not None
    module.weight.data[3, 1] = value
    with pytest.raises(WeightsError, match=r"the weights of conv1_1 are not finite or far too"):
        first_convolution(backbone, Preprocessing())
