"""A frozen network with taps."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.backbones.exchange import with_fast_layers
from pipeline.backbones.networks import check_name
from pipeline.backbones.outline import Outline, Shape
from pipeline.backbones.taps import parse_taps
from pipeline.backbones.tracing import TappedNetwork
from pipeline.backbones.weights import fit_weights, load_weights, weights_digest
from pipeline.errors import BackboneError

Compute = Literal["float32", "bfloat16"]


class Backbone:
    """A network with frozen weights that gives the feature maps of its taps.

    Calling it with images ``(N, 3, H, W)``, preprocessed and on the backbone's device, gives one
    tensor ``(N, C, h, w)`` per tap: what the tap's modules themselves put out, joined along the
    channels. A convolution's is the value before any ReLU, even where the network overwrites it in
    place. Nothing behind the last tap is computed or kept in memory. Several threads may call it at
    a time.

    On the CPU the channels of a cell lie side by side in memory (torch's *channels last*), in the
    maps as well: torch's convolutions and poolings are faster so. There, in float32, some layers
    are exchanged for faster ones, see :mod:`pipeline.backbones.exchange`.

    Parameters
    ----------
    outline
        The network and its taps.
    state
        Weights by torchvision's parameter names, on the CPU; those that no tap needs may be
        missing.
    source
        Where the weights are from: ``DEFAULT``, ``random``, a file.
    seed
        Of random weights.
    compute
        ``"bfloat16"`` for products of numbers with 8 bits before they are added up in float32,
        as ``torch.autocast`` does it: faster on GPUs and on CPUs that have instructions for it.

    Attributes
    ----------
    source, seed, compute
        As given.
    name
        The network, by torchvision's name.
    taps
        A :class:`~pipeline.backbones.taps.TapInfo` per tap, in the order of the maps.
    weights_digest
        Hash of the weights that the taps depend on, equal wherever they are loaded from.

    Raises
    ------
    WeightsError
        If a weight that a tap needs is missing or has the wrong shape.
    """

    def __init__(
        self,
        outline: Outline,
        state: Mapping[str, Tensor],
        *,
        source: str = "given",
        seed: int = 0,
        compute: Compute = "float32",
    ) -> None:
        what = f"{source} weights do not fit {outline.name}"
        needed = fit_weights(state, outline.tensors, what=what)
        network = _with_weights(outline.skeleton, needed)

        self.name = outline.name
        self.taps = outline.taps
        self.source = source
        self.seed = seed
        self.compute = compute
        self.weights_digest = weights_digest(needed)
        self._outline = outline
        if compute == "bfloat16":
            _round_weights(network)
        else:
            with_fast_layers(network, outline.modules)
        self._tapped = TappedNetwork(network, outline.modules, outline.last)
        self.to("cpu")

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps of float images ``(N, 3, H, W)``, ``(N, C, h, w)`` per tap.

        They are float32 unless the images are of another dtype.

        Raises
        ------
        BackboneError
            If the images are of another kind, or too small for the network.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise BackboneError(
                f"{self.name} takes float images (N, 3, H, W), not {images.dtype} of shape "
                f"{tuple(images.shape)}; preprocess them first"
            )
        # Sizes that the network cannot take are found here, without catching what else may fail.
        self._outline.feature_shapes(images.shape[2], images.shape[3])
        reduced = self.compute == "bfloat16"
        images = images.contiguous(memory_format=self._layout)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=reduced):
            outputs = dict(self._tapped(images))
        return [
            _join([outputs[module] for module in tap.modules]).to(images.dtype) for tap in self.taps
        ]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def takes_batches(self) -> bool:
        """Whether batches gain anything: on a GPU, not on the CPU."""
        return self._device.type != "cpu"

    def to(self, device: str | torch.device) -> "Backbone":
        """Move the weights to a device, in place, and return the backbone."""
        self._device = torch.device(device)
        on_cpu = self._device.type == "cpu"
        self._layout = torch.channels_last if on_cpu else torch.contiguous_format
        network: Any = self._tapped.network
        network.to(self._device, memory_format=self._layout)
        return self

    def feature_shapes(self, height: int, width: int) -> list[Shape]:
        """Return each tap's ``(C, h, w)`` for an image of this size, without computing the maps.

        Raises
        ------
        BackboneError
            If the network cannot take such an image.
        """
        return self._outline.feature_shapes(height, width)

    def first_module(self) -> nn.Conv2d | None:
        """Return the module of the first tap, if it is one convolution of the image itself."""
        name, *others = self.taps[0].modules
        if others or not self._outline.takes_the_image(name):
            return None
        network: Any = self._tapped.network
        module = network.get_submodule(name)
        return module if isinstance(module, nn.Conv2d) else None

    def identity(self) -> dict[str, Any]:
        """Return all that decides a feature's value but the image, ready for JSON."""
        return {
            "name": self.name,
            "weights_digest": self.weights_digest,
            "taps": [{"name": tap.name, "modules": list(tap.modules)} for tap in self.taps],
            "compute": self.compute,
        }


def load_backbone(
    name: str,
    *,
    weights: str | Path = "DEFAULT",
    taps: Sequence[str] | None = None,
    seed: int = 0,
    compute: Compute = "float32",
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Backbone:
    """Load a backbone: its network, its weights and its taps.

    Parameters
    ----------
    name
        A classification network, by torchvision's name.
    weights, seed, progress
        As :func:`~pipeline.backbones.weights.load_weights` takes them.
    taps
        As :func:`~pipeline.backbones.taps.parse_taps` reads them; ``vgg11``, ``squeezenet1_0``
        and ``alexnet`` need none.
    compute
        As :class:`Backbone` takes it.
    device
        Where it computes.

    Raises
    ------
    BackboneError
        If the network, a tap or a module does not exist or cannot serve.
    WeightsError
        If the weights cannot be had or belong to another network.
    """
    check_name(name)
    # The taps come first: a misspelt one should not cost a download.
    outline = Outline(name, parse_taps(name, taps))
    state = load_weights(name, weights, seed=seed, progress=progress)
    backbone = Backbone(outline, state, source=str(weights), seed=seed, compute=compute)
    return backbone.to(device)


def _with_weights(skeleton: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Copy a skeleton, put these tensors in, and leave out all others."""
    network = deepcopy(skeleton)
    for prefix, module in network.named_modules():
        start = f"{prefix}." if prefix else ""
        for key, _ in list(module.named_parameters(recurse=False)):
            value = state.get(start + key)
            frozen = None if value is None else nn.Parameter(value, requires_grad=False)
            setattr(module, key, frozen)
        for key, _ in list(module.named_buffers(recurse=False)):
            setattr(module, key, state.get(start + key))
    return network


def _round_weights(network: nn.Module) -> None:
    """Round the matrices to bfloat16 once, which autocast would do again in every pass."""
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and weight is not None:
            module.weight = nn.Parameter(weight.bfloat16(), requires_grad=False)


def _join(outputs: list[Tensor]) -> Tensor:
    """Join maps (N, C, h, w) along their channels; those that are side by side already stay."""
    first = outputs[0]
    size, stride, start = list(first.shape), first.stride(), first.storage_offset()
    size[1] = 0
    for output in outputs:
        beside = output.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not beside or output.stride() != stride or output.storage_offset() != start + size[1]:
            return torch.cat(outputs, dim=1)
        size[1] += output.shape[1]
    return first.as_strided(size, stride)
