"""Products of matrices for compiled loops.

Of large matrices torch computes them as fast. Inside a loop that goes over an image a few pixels at
a time, with other things to do to them before and after, a call of torch costs more than the
product, and where a factor has few columns, as many as there are classes, torch reaches half of
what this does.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled.function import Compiled
from pipeline.compiled.vectors import PANEL, product_tile
from pipeline.compiled.writer import BYTES

Values = NDArray[np.float32]

NARROW = 64
"""Products with fewer columns are computed here in half of the time that torch needs."""

_ROWS = 4
"""Of a tile: with three vectors of a panel, twelve sums, the factors of one term, and no register
left of sixteen."""

_COLUMNS = 256
"""Transposed together: a row's are read in one go, and their columns are in a cache until the next
row's follow."""

_tile, _single = product_tile(_ROWS, PANEL), product_tile(1, PANEL)


def padded(length: int) -> int:
    """Give the next multiple of :data:`PANEL`."""
    return -(-length // PANEL) * PANEL


@Compiled
def multiply(a: Values, b: Values, c: Values, adds: bool = False, rectifies: bool = False) -> None:
    """Compute ``c = a @ b``; each sum is taken in the order of its terms.

    Parameters
    ----------
    a : array of float32, shape (m, k)
        With any strides.
    b : array of float32, shape (k, n)
        n is a multiple of :data:`PANEL`. The values of a row lie side by side, as those of ``c``.
    c : array of float32, shape (m, n)
    adds : bool
        Whether the product is added to what is in ``c``.
    rectifies : bool
        Whether zero takes the place of what would be less.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not of four bytes, or a row of b or c is not in one
        piece.
    """
    rows, columns = c.shape
    depth = len(b)
    if a.shape != (rows, depth) or b.shape[1] != columns or columns % PANEL:
        raise ValueError("matrices whose shapes do not fit")
    if a.itemsize != BYTES or (depth and b.strides[1] != BYTES) or (rows and c.strides[1] != BYTES):
        raise ValueError("a matrix of another dtype, or with rows that are not in one piece")
    (a_row, a_term), b_term, c_row = a.strides, b.strides[0], c.strides[0]
    of_a, of_b, of_c = a.ctypes.data, b.ctypes.data, c.ctypes.data
    in_tiles = rows - rows % _ROWS
    zeros = np.zeros(PANEL, np.float32)
    for column in range(0, columns * BYTES, PANEL * BYTES):
        for row in range(0, in_tiles, _ROWS):
            _tile(
                of_a + row * a_row, a_row, a_term, of_b + column, b_term,
                of_c + row * c_row + column if adds else zeros.ctypes.data, c_row if adds else 0,
                of_c + row * c_row + column, c_row, depth, rectifies,
            )  # fmt: skip
        for row in range(in_tiles, rows):
            _single(
                of_a + row * a_row, a_row, a_term, of_b + column, b_term,
                of_c + row * c_row + column if adds else zeros.ctypes.data, c_row if adds else 0,
                of_c + row * c_row + column, c_row, depth, rectifies,
            )  # fmt: skip


@Compiled
def multiply_narrow(a: Values, b: Values, c: Values, adds: bool = False) -> None:
    """Compute ``c[:, :n] = a.T @ b.T`` for a b of few rows.

    Parameters
    ----------
    a : array of float32, shape (k, m)
        The values of a row lie side by side.
    b : array of float32, shape (n, k)
        With any strides.
    c : array of float32, shape (m, n or more)
    adds : bool
        Whether the product is added to what is in ``c``.

    Raises
    ------
    ValueError
        As :func:`multiply` does.
    """
    (terms, length), columns = a.shape, len(b)
    if len(c) != length or c.shape[1] < columns:
        raise ValueError("matrices whose shapes do not fit")
    transposed = np.empty((columns, PANEL), np.float32)
    rest = np.zeros((terms, PANEL), np.float32)
    for start in range(0, length, PANEL):
        count = min(PANEL, length - start)
        if count == PANEL:
            multiply(b, a[:, start : start + PANEL], transposed)
        else:
            for k in range(terms):
                for i in range(count):
                    rest[k, i] = a[k, start + i]
            multiply(b, rest, transposed)
        for i in range(count):
            for j in range(columns):
                c[start + i, j] = transposed[j, i] + (c[start + i, j] if adds else 0)


@Compiled
def transpose(a: Values, b: Values) -> None:
    """Compute ``b = a.T`` for arrays of any strides, in two fifths of the time that torch needs."""
    rows, columns = a.shape
    for start in range(0, columns, _COLUMNS):
        for row in range(rows):
            for column in range(start, min(start + _COLUMNS, columns)):
                b[column, row] = a[row, column]
