"""What the arrays of an image can be, whatever their digests say: a file may come from anywhere."""

from collections.abc import Set
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.layout import (
    BIAS,
    DEFLATED,
    KERNEL,
    MOST_DEFLATE,
    PLAIN,
    VALUES,
    Form,
    array_names,
    shard_names,
)
from pipeline.cache.shards import RESERVED
from pipeline.identity import Identity

_MOST_PIXELS = 100_000_000
"""As many as an image may have that is read in."""

_MOST_KNOWN = 4096


_NO_MAPS = frozenset(RESERVED)


def is_needed(name: str, asked_for: Set[str]) -> bool:
    """Tell whether an array is asked for, or is needed for maps that are."""
    return name in asked_for or (name == "scales" and not asked_for <= _NO_MAPS)


class Forms:
    """The forms that the arrays of a cache can have.

    Parameters
    ----------
    identity : Identity
        Of the cache.

    Attributes
    ----------
    names : tuple of str
        Of the arrays of an image, in order.
    of_shard : tuple of str
        Of those that belong to no image.
    """

    def __init__(self, identity: Identity) -> None:
        self.names = tuple(array_names(identity))
        self.of_shard = tuple(shard_names(identity))
        self._identity = identity
        self._known: dict[tuple[str, bytes], Form] = {}

    def of(self, name: str, packed: bytes) -> Form:
        """Read a form, and refuse what can be none, before memory is taken for it.

        Raises
        ------
        ValueError
            If the dtype, the shape or the number of bytes cannot be.
        """
        form = self._known.get((name, packed))
        if form is None:
            form = Form.unpack(packed)
            self._require(name, form)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[name, packed] = form
        return form

    def _require(self, name: str, form: Form) -> None:
        identity, shape = self._identity, form.shape
        if name in RESERVED:
            pixels, kind, most = shape[:2], "uint8", _MOST_PIXELS
            fits = shape[2:] == ((3,) if name == "image" else ())
        elif name == "scales":
            pixels, kind, most = (1, *shape), "float32", _MOST_PIXELS
            fits = shape == (sum(tap.channels for tap in identity.stored_taps),)
        elif name in self.of_shard:
            pixels, kind, most = (1, *shape)[:2], "float32", _MOST_PIXELS
            fits = shape == self._shard_shape(name)
        else:
            # A map may be a little larger than its image, by the padding of its convolutions.
            pixels, kind, most = shape[1:], identity.dtype, 4 * _MOST_PIXELS
            fits = shape[0] == identity.tap_channels[identity.tap_names.index(name)]
        size = prod(shape) * form.dtype.itemsize
        if not (fits and form.dtype == kind and len(pixels) == 2 and 0 < prod(pixels) <= most):
            raise ValueError(f"{form.dtype} values of shape {shape}")
        if form.filter not in (PLAIN, DEFLATED):
            raise ValueError(f"values behind the filter {form.filter}")
        if form.bytes != size if form.filter == PLAIN else size > form.bytes * MOST_DEFLATE:
            raise ValueError(f"{shape} values in {form.bytes} bytes")

    def _shard_shape(self, name: str) -> tuple[int, ...]:
        channels, geometry = self._identity.tap_channels[0], self._identity.recompute_first
        cells = 0 if geometry is None else prod(geometry.kernel)
        return {KERNEL: (channels, 3, cells), BIAS: (channels,), VALUES: (3, 256)}[name]

    def require_values(self, name: str, values: NDArray[Any]) -> None:
        """Refuse labels that are no classes, and scales that are no positive numbers.

        Raises
        ------
        ValueError
            If there are such.
        """
        identity = self._identity
        if name in ("label", "label_original"):
            strange = (values >= len(identity.classes)) & (values != identity.void)
            if strange.any():
                raise ValueError(f"the label {values[strange][0]} is no class")
        if name == "scales" and not (np.isfinite(values) & (values > 0)).all():
            raise ValueError("a scale is not a positive number")
