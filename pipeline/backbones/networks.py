"""The networks behind the backbones: torchvision's, and AlexNet made fully convolutional."""

import difflib
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire

from pipeline.errors import BackboneError

# The published weights of these two were trained on inputs scaled to -1..1, and torchvision
# rescales inside the network whenever it loads them. Always doing so keeps a file of those
# weights equal to the download.
_BUILD_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "init_weights": True},
    "inception_v3": {"transform_input": True, "init_weights": True},
}


# Longer ones are no slips, and comparing them with others takes its time.
_LONGEST_NAME = 80


def check_name(name: str) -> None:
    """Check that ``name`` is one of torchvision's classification networks.

    Raises
    ------
    BackboneError
        If it is not; the message offers names that look alike.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        asked = name[:_LONGEST_NAME]
        raise BackboneError(f"backbone {asked!r} is unknown; {_suggestion(asked.lower(), names)}")


def torchvision_network(name: str) -> nn.Module:
    """Build torchvision's network of that name, newly initialised, on torch's current device."""
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, **_BUILD_OPTIONS.get(name, {})
    )
    return network


def build_skeleton(name: str) -> nn.Module:
    """Build the network that serves as the backbone, in evaluation mode, without any weights.

    It lies on torch's ``meta`` device: shapes can be computed with it at no cost. Its modules have
    torchvision's names.

    Raises
    ------
    BackboneError
        If there is no such network.
    """
    check_name(name)
    try:
        with torch.device("meta"):
            network = torchvision_network(name)
    except NotImplementedError:
        # RegNets compute their widths with tensors, which must have values.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            network = torchvision_network(name).to("meta")
    if name == "alexnet":
        with torch.device("meta"):
            network = FullyConvolutionalAlexNet(network)
    return network.eval().requires_grad_(False)


class FullyConvolutionalAlexNet(nn.Module):
    """AlexNet with fc6 and fc7 as convolutions over the whole image.

    ``classifier.1`` (fc6) is a 6x6 convolution and ``classifier.4`` (fc7) a 1x1 one, both without
    padding and with the weights of the layers they stand for: at 224x224 pixels the fc7 map is one
    cell, equal to the original network's fc7; on a larger image each cell is what that network
    computes from its own 6x6 window of pool5 (Long et al., CVPR 2015, section 3.1). A pool5 map
    smaller than 6x6 is padded to 6x6 by repeating its border, split evenly between both sides,
    the odd one to the right and the bottom. fc8, the class scores, is left out.
    """

    window = 6

    def __init__(self, alexnet: nn.Module) -> None:
        super().__init__()
        self.features = alexnet.get_submodule("features")
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Conv2d(256, 4096, kernel_size=self.window),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Conv2d(4096, 4096, kernel_size=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Compute the fc7 map, after its ReLU, ``(N, 4096, h, w)``."""
        pool5: Tensor = self.features(images)
        down, right = (max(0, self.window - side) for side in pool5.shape[2:])
        if down or right:
            around = (right // 2, right - right // 2, down // 2, down - down // 2)
            pool5 = nn.functional.pad(pool5, around, mode="replicate")
        fc7: Tensor = self.classifier(pool5)
        return fc7


def expand_module(network: nn.Module, name: str, *, backbone: str) -> tuple[str, ...]:
    """Return the names of the modules whose joined outputs the module ``name`` stands for.

    That is the module itself, except for SqueezeNet's fire: a fire's own output is behind a ReLU,
    so it stands for its two expand convolutions.

    Raises
    ------
    BackboneError
        If the network has no such module; the message offers names that look alike.
    """
    names = [known for known, _ in network.named_modules() if known]
    if name not in names:
        asked = name[:_LONGEST_NAME]
        raise BackboneError(f"{backbone} has no module {asked!r}; {_suggestion(asked, names)}")
    if isinstance(network.get_submodule(name), Fire):
        return f"{name}.expand1x1", f"{name}.expand3x3"
    return (name,)


def _suggestion(name: str, names: Sequence[str]) -> str:
    return f"the closest are {', '.join(difflib.get_close_matches(name, names, n=4, cutoff=0))}"
