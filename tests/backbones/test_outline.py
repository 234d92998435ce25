"""Taps and shapes, without weights."""

import pytest

from pipeline.backbones import Tap, TapInfo, parse_taps
from pipeline.backbones.outline import Outline
from pipeline.errors import BackboneError


def outline(name, *spellings):
    return Outline(name, parse_taps(name, spellings or None))


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("vgg11", [64, 128, 256, 512, 512], [1, 2, 4, 8, 16]),
        ("squeezenet1_0", [96, 128, 128, 256, 384, 512], [2, 4, 4, 8, 8, 16]),
        ("alexnet", [192, 256, 4096], [16, 16, 32]),
    ],
)
def test_named_taps(name, channels, strides):
    taps = outline(name).taps
    assert [tap.channels for tap in taps] == channels
    assert [tap.stride for tap in taps] == strides


def test_totals_of_the_mission():
    assert sum(tap.channels for tap in outline("vgg11").taps) == 1472
    assert sum(tap.channels for tap in outline("squeezenet1_0").taps) == 1504


def test_a_fire_stands_for_its_expand_convolutions():
    (tap,) = outline("squeezenet1_0", "fire2=features.3").taps
    assert tap == TapInfo("fire2", ("features.3.expand1x1", "features.3.expand3x3"), 128, 4)
    (spelled_out,) = outline(
        "squeezenet1_0", "fire2=features.3.expand1x1+features.3.expand3x3"
    ).taps
    assert spelled_out == tap


def test_shapes_of_an_odd_size():
    # By hand: conv 7/2 gives 45x62, the pools (rounding up) 22x31, 11x15 and 5x7.
    assert outline("squeezenet1_0").feature_shapes(95, 129) == [
        (96, 45, 62),
        (128, 22, 31),
        (128, 22, 31),
        (256, 11, 15),
        (384, 11, 15),
        (512, 5, 7),
    ]


def test_a_map_of_constant_size_is_a_tap_too():
    shapes = outline("resnet18", "layer4", "avgpool")
    assert shapes.feature_shapes(100, 130) == [(512, 4, 5), (512, 1, 1)]
    assert [tap.stride for tap in shapes.taps] == [32, 224]


def test_regnet_whose_builder_computes_with_tensors():
    (tap,) = outline("regnet_y_400mf", "stem").taps
    assert (tap.channels, tap.stride) == (32, 2)


def test_too_small_an_image_is_named():
    with pytest.raises(BackboneError, match="vgg11 cannot take an image of 8x11 pixels"):
        outline("vgg11").feature_shapes(8, 11)


def test_a_network_of_one_size_serves_at_that_size():
    vit = outline("vit_b_16", "conv_proj")
    assert vit.feature_shapes(224, 224) == [(768, 14, 14)]
    with pytest.raises(BackboneError, match="224x256"):
        vit.feature_shapes(224, 256)


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("vit_b_16", "encoder.layers.encoder_layer_0"),  # (N, tokens, C)
        ("vit_b_16", "encoder.layers.encoder_layer_0.self_attention"),  # a tuple
        ("swin_t", "features.1"),  # (N, h, w, C)
        ("convnext_tiny", "features.1.0.block.1"),  # (N, h, w, C)
        ("vgg11", "classifier.0"),  # (N, C)
    ],
)
def test_what_is_no_feature_map_is_refused(name, tap):
    with pytest.raises(BackboneError, match="gives no feature map"):
        outline(name, tap)


def test_maps_of_different_sizes_are_not_joined():
    with pytest.raises(BackboneError, match="different sizes"):
        outline("vgg11", "a=features.0+features.3")


def test_unknown_names_are_answered_with_close_ones():
    with pytest.raises(BackboneError, match=r"'resnet19' is unknown.*resnet18"):
        Outline("resnet19", [Tap("a", ("a",))])
    with pytest.raises(BackboneError, match=r"resnet18 has no module 'layer1\.0\.conv3'.*conv2"):
        outline("resnet18", "layer1.0.conv3")


def test_detection_networks_are_unknown():
    with pytest.raises(BackboneError, match="unknown"):
        Outline("fasterrcnn_resnet50_fpn", [Tap("a", ("a",))])
