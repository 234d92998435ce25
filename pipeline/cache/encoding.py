"""Feature maps as the cache stores them, and the digests that vouch for them."""

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import CacheOverflowError

DTYPES = ("float16", "float32", "int8")
BYTES_PER_VALUE = {"float16": 2, "float32": 4, "int8": 1}


def encode(
    values: NDArray[np.float32], dtype: str, *, image_id: str, tap: str
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
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
    stored : array of ``dtype``, shape (C, h, w)
    scale : array of float32, shape (C,), or None
        What ``int8`` values are multiplied by.

    Raises
    ------
    CacheOverflowError
        If a value is not finite, or does not fit ``dtype``.
    """
    peak = np.abs(values).max(axis=(1, 2))
    if not np.isfinite(peak).all():
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the backbone gave a value that is not finite; "
            "check its weights"
        )
    if dtype == "int8":
        # Below the normal numbers a quotient has too few bits left to serve as a scale.
        smallest = 127 * np.finfo(np.float32).tiny
        scale = np.where(peak >= smallest, peak / 127, 1).astype(np.float32)
        return np.rint(values / scale[:, None, None]).astype(np.int8), scale
    if dtype == "float16" and peak.max() > np.finfo(np.float16).max:
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the value {peak.max():.6g} does not fit float16; "
            "extract with --dtype float32, or with --input imagenet if the input was raw"
        )
    return values.astype(dtype), None


def decode(stored: NDArray[np.generic], scale: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Turn what is stored back into a float32 feature map (C, h, w)."""
    if scale is None:
        return stored.astype(np.float32)
    return stored.astype(np.float32) * scale[:, None, None]


def digest(array: NDArray[np.generic], scale: NDArray[np.float32] | None = None) -> str:
    """Give the xxh3 digest (128 bits) of an array's dtype, shape, scale and bytes."""
    hasher = xxhash.xxh3_128(f"{array.dtype.str}{array.shape}".encode())
    if scale is not None:
        hasher.update(np.ascontiguousarray(scale).data)
    hasher.update(np.ascontiguousarray(array).data)
    return hasher.hexdigest()
