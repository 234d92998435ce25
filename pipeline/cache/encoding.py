"""Feature maps as the cache stores them, and the digests that vouch for them.

What converts values imports torch when it is called: looking into a cache does not need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import CacheOverflowError

if TYPE_CHECKING:
    from torch import Tensor

BYTES_PER_VALUE = {"float16": 2, "float32": 4, "int8": 1}

_PIECE = 1_048_576
"""Values that are converted in one go."""
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
    import torch

    scale = _scale(values) if dtype == "int8" else None
    stored = StoredArray(_stored_values(values, np.dtype(dtype), scale), scale)
    # One of these two is not finite if any value is not.
    looked_at = stored.values if scale is None else scale
    if not torch.stack(torch.from_numpy(looked_at).aminmax()).isfinite().all():
        _require_finite(values, looked_at, image_id=image_id, tap=tap)
    return stored


def _scale(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give what the int8 values of each channel are to be multiplied by, (C,)."""
    import torch

    flat = torch.from_numpy(values.reshape(len(values), -1))
    peak = torch.maximum(flat.amax(dim=1), -flat.amin(dim=1)).numpy()
    # Below the normal numbers a quotient has too few bits left to serve as a scale.
    smallest = 127 * np.finfo(np.float32).tiny
    scale: NDArray[np.float32] = np.where(peak < smallest, np.float32(1), peak / 127)
    return scale


def _stored_values(
    values: NDArray[np.float32], dtype: np.dtype[Any], scale: NDArray[np.float32] | None
) -> NDArray[Any]:
    """Give a map in C order and another dtype, over its scale if there is one.

    It is done in pieces, which stay in the processor's own memory from one step to the next.
    """
    import torch

    flat = values.reshape(len(values), -1)
    stored = np.empty(flat.shape, dtype)
    target = torch.from_numpy(stored)
    step = max(1, _PIECE // len(values))
    for start in range(0, flat.shape[1], step):
        some = slice(start, start + step)
        piece = _by_channel(torch.from_numpy(flat[:, some]))
        if scale is not None:
            piece = (piece / torch.from_numpy(scale)[:, None]).round_()
        target[:, some] = piece
    return stored.reshape(values.shape)


def _by_channel(piece: Tensor) -> Tensor:
    """Put the values of a channel side by side, where those of a cell are: (C, n).

    A backbone on the CPU leaves them so. Of all that torch and NumPy have for it, shuffling the
    channels of a single cell is alone in transposing with vector instructions, in half of the time.
    """
    from torch.nn.functional import channel_shuffle

    channels, cells = piece.shape
    count = channels * cells
    if piece.stride() != (1, channels) or cells == 1:
        return piece
    as_cell = piece.as_strided((1, count, 1, 1), (count, 1, count, count))
    return channel_shuffle(as_cell, cells).reshape(channels, cells)


def _require_finite(
    values: NDArray[np.float32], stored: NDArray[Any], *, image_id: str, tap: str
) -> None:
    """Raise CacheOverflowError, saying why, if there is a value that is not finite."""
    if not np.isfinite(values).all():
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the backbone gave a value that is not finite; "
            "check its weights"
        )
    if not np.isfinite(stored).all():
        raise CacheOverflowError(
            f"image {image_id}, tap {tap}: the value {np.abs(values).max():.6g} does not fit "
            f"{stored.dtype}; extract with --dtype float32, or with --input imagenet if the input "
            "was raw"
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
