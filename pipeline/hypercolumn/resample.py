"""Bilinear resampling of many channels at once, as compiled loops over a few pixels of a row.

Either step of :mod:`pipeline.hypercolumn.reads` gives a row of values that is the weighted sum of
two others, for all channels alike. What lies between the steps stays in the processor's caches.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled
from pipeline.compiled.vectors import blend, share_weighted_sum, weighted_sum
from pipeline.compiled.writer import BYTES

Indices = NDArray[np.int64]
Values = NDArray[np.float32]


class ReadArrays(NamedTuple):
    """What compiled loops are told of :class:`~pipeline.hypercolumn.reads.Reads`; see there."""

    first: Indices
    down: Indices
    across: Indices
    down_weights: Values
    across_weights: Values


@Compiled
def find_sides(
    reads: ReadArrays, x: int, count: int, between: Values
) -> tuple[NDArray[np.intp], Values]:
    """Find what some pixels of any row read of :func:`resample`'s columns.

    Parameters
    ----------
    reads : ReadArrays
    x, count : int
        The first pixel, and how many.
    between : array
        See :func:`resample`.

    Returns
    -------
    rows : array of intp, shape (count, 2 * maps)
        Addresses of the columns, left and right for one map after the other.
    weights : array of float32, shape (count, 2 * maps)
    """
    length, maps = between.shape[1] * BYTES, reads.across.shape[1]
    rows, weights = np.empty((count, 2 * maps), np.intp), np.empty((count, 2 * maps), np.float32)
    place = between.ctypes.data
    for m in range(maps):
        begin, end = reads.across[x, m, 0], reads.across[x + count - 1, m, 1] + 1
        for i in range(count):
            for side in range(2):
                column = reads.across[x + i, m, side] - begin
                rows[i, 2 * m + side] = place + column * length
                weights[i, 2 * m + side] = reads.across_weights[x + i, m, side]
        place += (end - begin) * length
    return rows, weights


@Compiled
def resample(
    reads: ReadArrays,
    y: int,
    x: int,
    table: Values,
    between: Values,
    sides: tuple[NDArray[np.intp], Values],
    pixels: Values,
    adds: bool,
    rectifies: bool,
) -> None:
    """Compute some pixels of a row of the image.

    Parameters
    ----------
    reads : ReadArrays
    y, x : int
        The row of the strip, and the first pixel in it.
    table : array of float32, shape (cells, K)
        The cells of all maps that the strip reads. K is a multiple of
        :data:`~pipeline.compiled.vectors.PANEL`, and nothing lies between the rows of this and of
        what follows.
    between : array of float32, shape (columns, K)
        Overwritten. There are as many columns as in a row of all maps.
    sides : tuple
        What :func:`find_sides` gives for these pixels.
    pixels : array of float32, shape (n, K)
        Overwritten with the result.
    adds : bool
        Whether the result is added to what is there.
    rectifies : bool
        Whether zero takes the place of what would be less.
    """
    length, count = table.shape[1] * BYTES, len(pixels)
    place = between.ctypes.data
    for m in range(reads.across.shape[1]):
        top, bottom = reads.down[y, m, 0] - reads.first[m], reads.down[y, m, 1] - reads.first[m]
        above, below = reads.down_weights[y, m, 0], reads.down_weights[y, m, 1]
        for column in range(reads.across[x, m, 0], reads.across[x + count - 1, m, 1] + 1):
            upper = table.ctypes.data + (top + column) * length
            lower = table.ctypes.data + (bottom + column) * length
            blend(upper, lower, place, above, below, length)
            place += length
    rows, weights = sides
    for i in range(count):
        weighted_sum(
            rows[i].ctypes.data, weights[i].ctypes.data, rows.shape[1],
            pixels.ctypes.data + i * length, length, adds, rectifies,
        )  # fmt: skip


@Compiled
def add_adjoint(reads: ReadArrays, y: int, x: int, table: Values, pixels: Values) -> None:
    """Add the product of the transposed matrix of :func:`resample` with the pixels to the table."""
    length, count = table.shape[1] * BYTES, len(pixels)
    rows, weights = np.empty(count, np.intp), np.empty(count, np.float32)
    for i in range(count):
        rows[i] = pixels.ctypes.data + i * length
    for m in range(reads.across.shape[1]):
        top, bottom = reads.down[y, m, 0] - reads.first[m], reads.down[y, m, 1] - reads.first[m]
        above, below = reads.down_weights[y, m, 0], reads.down_weights[y, m, 1]
        start = stop = 0  # of the pixels that read a column: they lie side by side
        for column in range(reads.across[x, m, 0], reads.across[x + count - 1, m, 1] + 1):
            while reads.across[x + start, m, 1] < column:
                start += 1
            while stop < count and reads.across[x + stop, m, 0] <= column:
                stop += 1
            for i in range(start, stop):
                weights[i] = 0
                for side in range(2):
                    if reads.across[x + i, m, side] == column:
                        weights[i] += reads.across_weights[x + i, m, side]
            share_weighted_sum(
                rows[start:].ctypes.data, weights[start:].ctypes.data, stop - start,
                table.ctypes.data + (top + column) * length,
                table.ctypes.data + (bottom + column) * length,
                above, below, length,
            )  # fmt: skip
