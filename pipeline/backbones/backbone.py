"""A frozen network with taps."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbones.networks import check_name
from pipeline.backbones.outline import Outline, Shape
from pipeline.backbones.taps import parse_taps
from pipeline.backbones.tracing import TappedNetwork
from pipeline.backbones.weights import fit_weights, load_weights, weights_digest
from pipeline.errors import BackboneError


class Backbone:
    """A network with frozen weights that gives the feature maps of its taps.

    Calling it with images ``(N, 3, H, W)``, preprocessed and on the backbone's device, gives one
    tensor ``(N, C, h, w)`` per tap: a copy of what the tap's modules themselves put out, joined
    along the channels. A convolution's is the value before any ReLU, even where the network
    overwrites it in place. Nothing behind the last tap is computed or kept in memory. Several
    threads may call it at a time. Channels-last images and a surrounding ``torch.autocast`` work.

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

    Attributes
    ----------
    source, seed
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
    ) -> None:
        what = f"{source} weights do not fit {outline.name}"
        needed = fit_weights(state, outline.tensors, what=what)
        network = _with_weights(outline.skeleton, needed)

        self.name = outline.name
        self.taps = outline.taps
        self.source = source
        self.seed = seed
        self.weights_digest = weights_digest(needed)
        self._outline = outline
        self._tapped = TappedNetwork(network, outline.modules, outline.last)
        self._device = torch.device("cpu")

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps of float images ``(N, 3, H, W)``, ``(N, C, h, w)`` per tap.

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
        outputs = dict(self._tapped(images))
        return [_join([outputs[module] for module in tap.modules]) for tap in self.taps]

    def one_by_one(self, images: Iterable[Tensor], *, at_once: int) -> Iterator[list[Tensor]]:
        """Compute the feature maps of images so that no bit depends on anything but the image.

        Convolutions add up in an order that torch chooses by the number of images in the batch and
        by the number of threads. Here each image goes through the network alone and on one thread,
        several of them at a time; on one kind of CPU that gives the same bits for every ``at_once``
        and every number of threads, and with one image per core it takes no longer.

        Parameters
        ----------
        images
            Float images ``(3, H, W)`` of any sizes, preprocessed and on the backbone's device.
            They are taken as they are needed.
        at_once
            How many images are in work at a time.

        Yields
        ------
        list of Tensor
            ``(C, h, w)`` per tap, in the order of the images.

        Raises
        ------
        BackboneError
            If an image is too small for the network.
        """
        threads = torch.get_num_threads()
        waiting = iter(images)
        with ThreadPoolExecutor(at_once, initializer=_compute_on_one_thread) as pool:
            try:
                running = deque(pool.submit(self, i[None]) for i in islice(waiting, at_once))
                while running:
                    maps = running.popleft().result()
                    running.extend(pool.submit(self, i[None]) for i in islice(waiting, 1))
                    yield [m[0] for m in maps]
            finally:
                # What the pool's threads set for themselves is also what later threads start with.
                torch.set_num_threads(threads)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    @property
    def takes_batches(self) -> bool:
        """Whether batches gain enough to give up :meth:`one_by_one`: on a GPU, not on the CPU."""
        return self._device.type != "cpu"

    def to(self, device: str | torch.device) -> "Backbone":
        """Move the weights to a device, in place, and return the backbone."""
        self._tapped.network.to(device)
        self._device = torch.device(device)
        return self

    def feature_shapes(self, height: int, width: int) -> list[Shape]:
        """Return each tap's ``(C, h, w)`` for an image of this size, without computing the maps.

        Raises
        ------
        BackboneError
            If the network cannot take such an image.
        """
        return self._outline.feature_shapes(height, width)

    def identity(self) -> dict[str, Any]:
        """Return all that decides a feature's value but the image, ready for JSON."""
        return {
            "name": self.name,
            "weights_digest": self.weights_digest,
            "taps": [{"name": tap.name, "modules": list(tap.modules)} for tap in self.taps],
        }


def load_backbone(
    name: str,
    *,
    weights: str | Path = "DEFAULT",
    taps: Sequence[str] | None = None,
    seed: int = 0,
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
    return Backbone(outline, state, source=str(weights), seed=seed).to(device)


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


def _join(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)


def _compute_on_one_thread() -> None:
    """Have the calling thread compute alone; torch keeps the number for each thread."""
    torch.get_num_threads()  # sets it when first called, which would undo what is set before
    torch.set_num_threads(1)
