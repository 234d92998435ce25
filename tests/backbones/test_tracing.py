"""Capturing outputs, on networks small enough to compute by hand."""

import pytest
import torch
from torch import nn

from pipeline.backbones.tracing import TappedNetwork, last_to_run, tensors_used
from pipeline.errors import BackboneError


class Small(nn.Module):
    """Uses weights in every way that a network may: called, handed on, and behind the last tap."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 2.0))
        self.borrowed = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 1)
        self.third = nn.Conv2d(5, 2, 1)
        self.unused = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.first(x)
        x = nn.functional.relu(x, inplace=True)
        x = nn.functional.conv2d(x * self.scale, self.borrowed.weight)
        x = self.relu(self.norm(x))
        return self.relu(self.third(self.second(x)))


def test_outputs_are_those_before_an_in_place_relu():
    torch.manual_seed(0)
    network = Small().eval()
    images = torch.randn(2, 3, 6, 5)
    expected = network.first(images).detach()
    outputs = dict(TappedNetwork(network, ["first", "second"], "second")(images))
    assert expected.min() < 0
    torch.testing.assert_close(outputs["first"], expected, rtol=0, atol=0)


def test_only_what_a_function_overwrites_is_run_again_and_copied():
    torch.manual_seed(0)
    network = Small().eval()
    passes = []
    network.register_forward_pre_hook(lambda *_: passes.append(1))
    tapped = TappedNetwork(network, ["first", "norm", "second"], "second")
    images = torch.randn(2, 3, 6, 5)
    one, other = tapped(images), tapped(images)
    assert len(passes) == 3  # "first" is overwritten by a function, "norm" no longer by a module
    for (name, got), (_, again) in zip(one, other, strict=True):
        torch.testing.assert_close(got, again, rtol=0, atol=0)
        assert (got.min() < 0).all(), name


def test_inference_mode_around_it_changes_nothing():
    torch.manual_seed(0)
    tapped = TappedNetwork(Small().eval(), ["first", "second"], "second")
    with torch.inference_mode():
        images = torch.randn(2, 3, 6, 5)
        found = dict(tapped(images))
    for name, expected in tapped(images.clone()):
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0)


def test_a_pass_ends_behind_the_last_module():
    network = Small().eval()
    network.third.register_forward_hook(lambda *_: pytest.fail("the pass went on"))
    outputs = TappedNetwork(network, ["second", "first"], "second")(torch.randn(1, 3, 4, 4))
    assert [name for name, _ in outputs] == ["first", "second"]


def test_what_the_taps_depend_on():
    skeleton = Small().eval().to("meta")
    assert tensors_used(TappedNetwork(skeleton, ["second"], "second"), 8) == {
        "first.weight",
        "first.bias",
        "scale",
        "borrowed.weight",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "second.weight",
        "second.bias",
    }


def test_the_last_to_run_is_found_whatever_the_order_given():
    skeleton = Small().eval().to("meta")
    assert last_to_run(skeleton, ["second", "first", "norm"], 8, backbone="small") == "second"


def test_modules_without_one_output_are_refused():
    with pytest.raises(BackboneError, match="small: module 'unused' is not used"):
        last_to_run(Small().eval().to("meta"), ["unused"], 8, backbone="small")
    with pytest.raises(BackboneError, match="small: module 'relu' runs 2 times"):
        last_to_run(Small().eval().to("meta"), ["relu"], 8, backbone="small")
