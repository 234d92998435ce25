"""Feature maps as the cache stores them, and the digests that vouch for them.

What converts values imports what it does that with when it is called: looking into a cache needs
neither torch nor compiled loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import CacheOverflowError

BYTES_PER_VALUE = {"float16": 2, "float32": 4, "int8": 1}

_FIRST_TOO_LARGE = {"float16": 65520, "float32": np.inf, "int8": np.inf}
"""What would be stored as infinity."""
_SERIAL = 32_767
"""Values that torch converts without starting threads, which would hang in a forked process."""


@dataclass(frozen=True)
class StoredArray:
    """An array as it lies in a shard.

    Attributes
    ----------
    values : array
        Of the cache's dtype for a feature map (C, h, w), of uint8 for labels and images.
    scale : array of float32, shape (C,), or None
        What ``int8`` maps are multiplied by.
    deflated : bytes-like or None
        The values as they are stored, if they are stored deflated and that is known.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None
    deflated: Any = None

    @property
    def digest(self) -> str:
        """The xxh3 digest (128 bits) of dtype, shape, scale and bytes."""
        hasher = new_digest(self.values.dtype, self.values.shape)
        if self.scale is not None:
            hasher.update(np.ascontiguousarray(self.scale).data)
        hasher.update(np.ascontiguousarray(self.values).data)
        return hasher.hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a feature map."""
        return self.values.shape[1], self.values.shape[2]

    @property
    def channels(self) -> int:
        """How many channels a feature map has."""
        return len(self.values)

    def decoded(self) -> NDArray[np.float32]:
        """Give the float32 feature map (C, h, w); that is ``values`` itself if it is one."""
        if self.values.dtype == np.float32:
            return self.values
        values = _as_float32(self.values)
        if self.scale is not None:
            values *= self.scale[:, None, None]
        return values

    def cells(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Give all cells of a feature map, and the places as they are; see `StoredMap`."""
        return self.all_cells(), places

    def all_cells(self) -> NDArray[Any]:
        """Give all cells of a feature map, (C, h * w), as they are stored."""
        return self.values.reshape(len(self.values), -1)


def new_digest(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> xxhash.xxh3_128:
    """Begin the digest of an array whose bytes are still to come."""
    return xxhash.xxh3_128(f"{dtype.str}{shape}".encode())


def encode(values: NDArray[np.float32], dtype: str, *, image_id: str, tap: str) -> StoredArray:
    """Turn a feature map into what is stored.

    Parameters
    ----------
    values : array of float32, shape (C, h, w)
        The feature map.
    dtype : {"float16", "float32", "int8"}
        ``int8`` is symmetric with one scale per channel, its largest magnitude over 127.
    image_id, tap : str
        For the message of the error.

    Returns
    -------
    StoredArray

    Raises
    ------
    CacheOverflowError
        If a value is not finite, or does not fit ``dtype``.
    """
    from pipeline.cache.encoding_loops import convert

    values = np.asarray(values, np.float32)
    flat = _in_one_piece(values.reshape(len(values), -1))
    scale = _scale(flat) if dtype == "int8" else np.ones(len(flat), np.float32)
    stored = np.empty(flat.shape, dtype)
    # Numba has no float16.
    largest = convert(flat, scale, stored.view(np.uint16) if dtype == "float16" else stored)
    if not largest < _FIRST_TOO_LARGE[dtype] or not np.isfinite(scale).all():
        _require_finite(values, dtype, image_id=image_id, tap=tap)
    return StoredArray(stored.reshape(values.shape), scale if dtype == "int8" else None)


def _in_one_piece(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give values (C, n) of which those of a channel or those of a cell lie side by side."""
    return flat if flat.itemsize in flat.strides else np.ascontiguousarray(flat)


def _scale(flat: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give what the int8 values of each channel are to be multiplied by, (C,)."""
    from pipeline.cache.encoding_loops import peaks

    bits = np.zeros(len(flat), np.int32)
    peaks(flat.view(np.int32), bits)
    peak = bits.view(np.float32)
    # Below the normal numbers a quotient has too few bits left to serve as a scale.
    smallest = 127 * np.finfo(np.float32).tiny
    scale: NDArray[np.float32] = np.where(peak < smallest, np.float32(1), peak / 127)
    return scale


def _require_finite(values: NDArray[np.float32], dtype: str, *, image_id: str, tap: str) -> None:
    """Raise CacheOverflowError, saying why."""
    if not np.isfinite(values).all():
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the backbone gave a value that is not finite; "
            "check its weights"
        )
    raise CacheOverflowError(
        f"image {image_id}, tap {tap}: the value {np.abs(values).max():.6g} does not fit "
        f"{dtype}; extract with --dtype float32, or with --input imagenet if the input was raw"
    )


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Do as ``values.astype(np.float32)`` does, ten times as fast with float16."""
    if values.dtype != np.float16:
        return values.astype(np.float32)
    import torch

    converted = np.empty(values.shape, np.float32)
    target = torch.from_numpy(converted.reshape(-1))
    source = torch.from_numpy(np.ascontiguousarray(values).reshape(-1))
    for start in range(0, values.size, _SERIAL):
        target[start : start + _SERIAL].copy_(source[start : start + _SERIAL])
    return converted
