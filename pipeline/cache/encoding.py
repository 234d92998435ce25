"""Feature maps as the cache stores them, and the digests that vouch for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from pipeline.errors import CacheOverflowError

BYTES_PER_VALUE = {"float16": 2, "float32": 4, "int8": 1}

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
    """

    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None

    @property
    def digest(self) -> str:
        """The xxh3 digest (128 bits) of dtype, shape, scale and bytes."""
        hasher = new_digest(self.values.dtype, self.values.shape)
        if self.scale is not None:
            hasher.update(np.ascontiguousarray(self.scale).data)
        hasher.update(np.ascontiguousarray(self.values).data)
        return hasher.hexdigest()

    def decoded(self) -> NDArray[np.float32]:
        """Give the float32 feature map (C, h, w)."""
        values: NDArray[np.float32] = _converted(self.values, np.dtype(np.float32))
        if self.scale is not None:
            values *= self.scale[:, None, None]
        return values

    def cells_at(self, ys: NDArray[np.int64], xs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give float32 values (C, n) of single cells of a feature map, decoding nothing else."""
        values = self.values[:, ys, xs].astype(np.float32)
        if self.scale is not None:
            values *= self.scale[:, None]
        return values


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
    # The largest magnitude of each channel, without a copy of all values in between.
    peak = np.maximum(values.max(axis=(1, 2)), -values.min(axis=(1, 2)))
    if not np.isfinite(peak).all():
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the backbone gave a value that is not finite; "
            "check its weights"
        )
    if dtype == "int8":
        # Below the normal numbers a quotient has too few bits left to serve as a scale.
        smallest = 127 * np.finfo(np.float32).tiny
        scale = np.where(peak >= smallest, peak / 127, 1).astype(np.float32)
        return StoredArray(np.rint(values / scale[:, None, None]).astype(np.int8), scale)
    if dtype == "float16" and peak.max() > np.finfo(np.float16).max:
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the value {peak.max():.6g} does not fit float16; "
            "extract with --dtype float32, or with --input imagenet if the input was raw"
        )
    return StoredArray(_converted(values, np.dtype(dtype)))


def _converted(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Do as ``values.astype(dtype)`` does, ten times as fast where one of the two is float16."""
    if np.float16 not in (values.dtype, dtype):
        return values.astype(dtype)
    converted = np.empty(values.shape, dtype)
    target = torch.from_numpy(converted).flatten()
    source = torch.from_numpy(np.ascontiguousarray(values)).flatten()
    for start in range(0, len(source), _SERIAL):
        target[start : start + _SERIAL].copy_(source[start : start + _SERIAL])
    return converted
