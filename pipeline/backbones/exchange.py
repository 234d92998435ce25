"""Layers of a network exchanged for those that are faster on the CPU."""

from collections.abc import Collection
from itertools import pairwise

from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

from pipeline.backbones.fire import JoinedFire
from pipeline.backbones.on_cpu import FrozenConv2d
from pipeline.backbones.pointwise import PointwiseConv2d
from pipeline.backbones.winograd import WinogradConv2d


def with_fast_layers(network: nn.Module, tapped: Collection[str] = ()) -> nn.Module:
    """Exchange layers of a frozen network, in place, and return it.

    In an ``nn.Sequential``, and in SqueezeNet's modules, a ReLU becomes part of the convolution
    before it or the pooling behind it, unless what lies between is tapped. In its place is a module
    that hands on what it is given.

    Parameters
    ----------
    network
        Its weights stay what they are.
    tapped
        Names of the modules whose outputs are to be what they were.
    """
    for name, module in list(network.named_modules()):
        if type(module) is nn.Conv2d and module.weight is not None:  # some tap needs it
            for kind in (WinogradConv2d, PointwiseConv2d):
                if kind.replaces(module):
                    _put(network, name, kind.of(module))
    for name, module in list(network.named_modules()):
        start = f"{name}." if name else ""
        if type(module).forward is nn.Sequential.forward:
            for first, second in pairwise(module._modules):
                _merge(network, start + first, start + second, tapped)
        elif type(module) is Fire:
            for part in ("squeeze", "expand1x1", "expand3x3"):
                _merge(network, start + part, f"{start}{part}_activation", tapped)
            if not {f"{start}expand{size}_activation" for size in ("1x1", "3x3")} & {*tapped}:
                _put(network, name, JoinedFire(module))
    return network


class RectifiedMaxPool2d(nn.MaxPool2d):
    """A max-pooling and the ReLU that was before it: it is the same behind it, on fewer values."""

    def forward(self, images: Tensor) -> Tensor:
        """Pool images (N, C, H, W)."""
        pooled: Tensor = super().forward(images)
        return pooled.relu_()


def _merge(network: nn.Module, first: str, second: str, tapped: Collection[str]) -> None:
    """Make a ReLU a part of a convolution before it or of a pooling behind it, if one is there."""
    before, behind = network.get_submodule(first), network.get_submodule(second)
    if first in tapped:
        return
    if isinstance(before, FrozenConv2d) and isinstance(behind, nn.ReLU):
        before.relu = True
        _put(network, second, nn.Identity())
    elif isinstance(before, nn.ReLU) and type(behind) is nn.MaxPool2d and not behind.return_indices:
        own = behind.kernel_size, behind.stride, behind.padding, behind.dilation
        _put(network, first, nn.Identity())
        _put(network, second, RectifiedMaxPool2d(*own, ceil_mode=behind.ceil_mode))


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own_name = name.rpartition(".")
    setattr(network.get_submodule(parent), own_name, module)
