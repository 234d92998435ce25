"""Bilinear resampling of many channels at once, a few rows of the image at a time.

Either step of :mod:`pipeline.hypercolumn.reads` gives a row that is a weighted sum of two rows, for
all channels alike. On the CPU, of many channels in float32, that is done by compiled loops, over
the channels innermost; what lies between the steps stays in the processor's caches. Otherwise
:func:`torch.nn.functional.embedding_bag` computes the same sums by gathering rows.
"""

from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compiled import Compiled
from pipeline.hypercolumn.gathered import GatheringResampler
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.reads import Reads, Rows, Size

NARROW = 64
"""With fewer channels a compiled loop over them is hardly begun when it ends."""


class Resampler(Protocol):
    """Resamples a table of stacked cells onto a strip of an image, block by block."""

    reads: Reads

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Compute the pixels of some rows of the image, in row-major order.

        Parameters
        ----------
        table : Tensor of shape (cells, K)
            The cells of all maps that the strip reads.
        start, stop : int
            A block of :attr:`reads`.

        Returns
        -------
        Tensor of shape ((stop - start) * W, K)
        """

    def add_adjoint(self, table: Tensor, pixels: Tensor, start: int, stop: int) -> None:
        """Add the product of the transposed matrix with the pixels of some rows.

        Parameters
        ----------
        table : Tensor of shape (cells, K)
            What is added to.
        pixels : Tensor of shape ((stop - start) * W, K)
        start, stop : int
            A block of :attr:`reads`.
        """


@lru_cache(maxsize=32)
def resampler(
    cells: tuple[Size, ...],
    size: Size,
    geometry: Geometry,
    strip: Rows,
    height: int,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Resampler:
    """Give the :class:`Resampler` of these sizes, from a small memory of recent ones.

    Parameters
    ----------
    cells, size, geometry, strip, height
        As :meth:`Reads.of` takes them.
    width : int
        K.
    device, dtype
        Of the table.
    """
    reads = Reads.of(cells, size, geometry, strip, height)
    if device.type == "cpu" and dtype == torch.float32 and width >= NARROW:
        return CompiledResampler(reads)
    return GatheringResampler(reads, device)


class CompiledResampler:
    """A :class:`Resampler` for float32 on the CPU; it computes on the calling thread."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads
        self._indices = reads.first.numpy(), reads.down.numpy(), reads.across.numpy()
        self._weights = reads.down_weights.numpy(), reads.across_weights.numpy()

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        """See :class:`Resampler`."""
        pixels = table.new_empty((stop - start) * self.reads.width, table.shape[1])
        rows = start - self.reads.strip[0], stop - self.reads.strip[0]
        _resample(*self._indices, *self._weights, table.numpy(), pixels.numpy(), *rows)
        return pixels

    def add_adjoint(self, table: Tensor, pixels: Tensor, start: int, stop: int) -> None:
        """See :class:`Resampler`."""
        rows = start - self.reads.strip[0], stop - self.reads.strip[0]
        _add_adjoint(*self._indices, *self._weights, table.numpy(), pixels.numpy(), *rows)


Indices = NDArray[np.int64]
Values = NDArray[np.float32]


@Compiled
def _resample(
    first: Indices,
    down: Indices,
    across: Indices,
    down_weights: Values,
    across_weights: Values,
    table: Values,
    pixels: Values,
    start: int,
    stop: int,
) -> None:
    width, maps = across.shape[:2]
    channels = table.shape[1]
    between = np.empty((first[maps], channels), np.float32)
    for y in range(start, stop):
        for m in range(maps):
            top, bottom = down[y, m, 0], down[y, m, 1]
            above, below = down_weights[y, m, 0], down_weights[y, m, 1]
            for x in range(first[m + 1] - first[m]):
                column = first[m] + x
                for k in range(channels):
                    between[column, k] = above * table[top + x, k] + below * table[bottom + x, k]
        for x in range(width):
            pixel = (y - start) * width + x
            for m in range(maps):
                left, right = across[x, m, 0], across[x, m, 1]
                before, beyond = across_weights[x, m, 0], across_weights[x, m, 1]
                if m == 0:
                    for k in range(channels):
                        pixels[pixel, k] = before * between[left, k] + beyond * between[right, k]
                else:
                    for k in range(channels):
                        pixels[pixel, k] += before * between[left, k] + beyond * between[right, k]


@Compiled
def _add_adjoint(
    first: Indices,
    down: Indices,
    across: Indices,
    down_weights: Values,
    across_weights: Values,
    table: Values,
    pixels: Values,
    start: int,
    stop: int,
) -> None:
    width, maps = across.shape[:2]
    channels = table.shape[1]
    between = np.empty((first[maps], channels), np.float32)
    for y in range(start, stop):
        between[:] = 0
        for x in range(width):
            pixel = (y - start) * width + x
            for m in range(maps):
                left, right = across[x, m, 0], across[x, m, 1]
                before, beyond = across_weights[x, m, 0], across_weights[x, m, 1]
                for k in range(channels):
                    between[left, k] += before * pixels[pixel, k]
                for k in range(channels):  # of its own, as left and right may be the same
                    between[right, k] += beyond * pixels[pixel, k]
        for m in range(maps):
            top, bottom = down[y, m, 0], down[y, m, 1]
            above, below = down_weights[y, m, 0], down_weights[y, m, 1]
            for x in range(first[m + 1] - first[m]):
                column = first[m] + x
                for k in range(channels):
                    table[top + x, k] += above * between[column, k]
                for k in range(channels):
                    table[bottom + x, k] += below * between[column, k]
