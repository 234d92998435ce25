"""A backbone without its weights: which taps it has and what shapes they give."""

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from pipeline.backbones.networks import build_skeleton, expand_module
from pipeline.backbones.taps import Tap, TapInfo
from pipeline.backbones.tracing import (
    TappedNetwork,
    blank_image,
    last_to_run,
    takes_the_image,
    tensors_used,
)
from pipeline.errors import BackboneError

Shape = tuple[int, int, int]

# Every torchvision network takes the first size. The second is larger by a multiple of any stride,
# so that a map grows by exactly 256 / stride.
_PROBE_SIZE = 224
_LARGER_SIZE = 224 + 256


class Outline:
    """The taps of a network, checked, and the shapes of their maps.

    All is computed on torch's ``meta`` device: no weights are needed and no arithmetic is done.

    Parameters
    ----------
    name
        The network, by torchvision's name.
    taps
        What to keep of it.

    Attributes
    ----------
    taps
        The taps in the order given, a :class:`~pipeline.backbones.taps.TapInfo` each.
    modules
        The modules behind all taps, each once.
    last
        The one of them that runs last.
    skeleton
        The network on the ``meta`` device, without hooks.
    tensors
        The parameters and buffers that the taps depend on, on the ``meta`` device.

    Raises
    ------
    BackboneError
        If the network or a module does not exist, or gives no feature map.
    """

    def __init__(self, name: str, taps: Sequence[Tap]) -> None:
        self.name = name
        self.skeleton = build_skeleton(name)
        resolved = [self._resolve(tap) for tap in taps]
        self.modules = tuple(dict.fromkeys(m for tap in resolved for m in tap.modules))
        self.last = last_to_run(
            copy.deepcopy(self.skeleton), self.modules, _PROBE_SIZE, backbone=name
        )
        self._tapped = TappedNetwork(copy.deepcopy(self.skeleton), self.modules, self.last)
        self._shapes: dict[tuple[int, int], list[Shape]] = {}
        self.taps = self._describe(resolved)
        used = tensors_used(self._tapped, _PROBE_SIZE)
        self.tensors = {k: v for k, v in self.skeleton.state_dict().items() if k in used}

    def feature_shapes(self, height: int, width: int) -> list[Shape]:
        """Return each tap's ``(C, h, w)`` for an image of this height and width.

        Raises
        ------
        BackboneError
            If the network cannot take such an image, for instance because it is too small.
        """
        size = (height, width)
        if size not in self._shapes:
            shapes = self._compute_shapes(self.taps, height, width)
            for tap, (channels, *_) in zip(self.taps, shapes, strict=True):
                if channels != tap.channels:
                    raise self._not_a_map(tap)
            self._shapes[size] = shapes
        return list(self._shapes[size])

    def takes_the_image(self, module: str) -> bool:
        """Tell whether a module of a tap is applied to the image, and to nothing else."""
        return takes_the_image(copy.deepcopy(self.skeleton), module, _PROBE_SIZE)

    def _resolve(self, tap: Tap) -> Tap:
        """Replace modules that stand for several by those."""
        expanded = [expand_module(self.skeleton, m, backbone=self.name) for m in tap.modules]
        return Tap(tap.name, tuple(chain.from_iterable(expanded)))

    def _describe(self, taps: Sequence[Tap]) -> tuple[TapInfo, ...]:
        """Find the channels and strides of the taps, and that they are maps at all."""
        shapes = self._compute_shapes(taps, _PROBE_SIZE, _PROBE_SIZE)
        try:
            larger = self._compute_shapes(taps, _LARGER_SIZE, _LARGER_SIZE)
        except BackboneError:
            larger = shapes  # A network of one input size, as vision transformers are.
        infos = []
        for tap, shape, large in zip(taps, shapes, larger, strict=True):
            channels, height, width = shape
            # Transformers keep (N, h, w, C) or windows in four dimensions too. A square image
            # gives a square map, and a larger image gives no more channels.
            if height != width or large[0] != channels:
                raise self._not_a_map(tap)
            grown = large[1] - height
            stride = (_LARGER_SIZE - _PROBE_SIZE) / grown if grown else _PROBE_SIZE / height
            infos.append(TapInfo(tap.name, tap.modules, channels, round(stride)))
        return tuple(infos)

    def _compute_shapes(
        self, taps: Sequence[Tap] | Sequence[TapInfo], height: int, width: int
    ) -> list[Shape]:
        try:
            outputs = dict(self._tapped(blank_image(height, width)))
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise BackboneError(
                f"{self.name} cannot take an image of {height}x{width} pixels ({reason}); "
                "choose another input size"
            ) from error
        return [self._joined_shape(tap, [outputs[m] for m in tap.modules]) for tap in taps]

    def _joined_shape(self, tap: Tap | TapInfo, outputs: Sequence[Any]) -> Shape:
        for output in outputs:
            if not (isinstance(output, Tensor) and output.ndim == 4 and output.shape[0] == 1):
                raise self._not_a_map(tap)
        sizes = {tuple(output.shape[2:]) for output in outputs}
        if len(sizes) > 1:
            raise BackboneError(
                f"{self.name}: tap {tap.name!r} joins maps of different sizes; make them two taps"
            )
        ((height, width),) = sizes
        return sum(output.shape[1] for output in outputs), height, width

    def _not_a_map(self, tap: Tap | TapInfo) -> BackboneError:
        return BackboneError(
            f"{self.name}: tap {tap.name!r} gives no feature map (N, C, h, w); tap a convolution"
        )
