"""Products of matrices whose second factor is prepared: it lies in memory in panels of columns.

For factors that stay the same, as the weights of a network do. On one core they take 0.8 to 1 times
as long as torch's, with the bias and the ReLU in them.
"""

import numpy as np
from numba import prange
from numpy.typing import NDArray

from pipeline.compiled.function import Compiled, SharedOut
from pipeline.compiled.vectors import product_tile
from pipeline.compiled.writer import BYTES

Values = NDArray[np.float32]

WIDTH = 16
"""Columns of a panel: two vectors."""

ROWS = 6
"""Of a tile, whose twelve vectors of sums then take twelve of sixteen registers."""

tile, tile_row = product_tile(ROWS, WIDTH), product_tile(1, WIDTH)


def in_panels(matrix: Values) -> Values:
    """Put a matrix in panels of columns.

    Parameters
    ----------
    matrix : array of float32, shape (..., n)

    Returns
    -------
    array of float32, shape (P, ..., 16)
        The last panel is filled with zeros.
    """
    *others, columns = matrix.shape
    count = -(-columns // WIDTH)
    filled = np.zeros((*others, count * WIDTH), np.float32)
    filled[..., :columns] = matrix
    panels = np.moveaxis(filled.reshape(*others, count, WIDTH), -2, 0)
    return np.ascontiguousarray(panels)


@Compiled
def multiply_by_panels(
    a: Values,
    panels: Values,
    begin: Values,
    rectifies: bool,
    c: Values,
    first: int,
    columns: int,
) -> None:
    """Compute ``c[:, first : first + n] = begin + a @ b``; each sum in the order of its terms.

    Parameters
    ----------
    a : array of float32, shape (m, k)
        The values of a row lie side by side.
    panels : array of float32, shape (P, k, 16)
        What :func:`in_panels` makes of b, (k, n).
    begin : array of float32, shape (P, 16)
        What it makes of one row, which is added to every row.
    rectifies : bool
        Whether zero takes the place of what would be less.
    c : array of float32, shape (m, first + n or more)
        The values of a row lie side by side.
    first, columns : int
        Where in ``c`` the product is put, and n.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a row is not in one piece.
    """
    _require_fit(a, panels, begin, c, first, columns)
    length, depth = a.shape
    a_row, c_row, of_term = a.strides[0], c.strides[0], WIDTH * BYTES
    part = np.empty((ROWS, WIDTH), np.float32)
    of_part = part.ctypes.data
    for panel in range(len(panels)):
        at, count = first + panel * WIDTH, min(WIDTH, columns - panel * WIDTH)
        of_panel, added = panels[panel].ctypes.data, begin[panel].ctypes.data
        for start in range(0, length, ROWS):
            rows = min(ROWS, length - start)
            of_a, of_c = a.ctypes.data + start * a_row, c.ctypes.data + start * c_row
            whole = rows == ROWS and count == WIDTH
            target, row = (of_c + at * BYTES, c_row) if whole else (of_part, of_term)
            if rows == ROWS:
                tile(
                    of_a, a_row, BYTES, of_panel, of_term, added, 0,
                    target, row, depth, rectifies,
                )  # fmt: skip
            else:
                for i in range(rows):
                    tile_row(
                        of_a + i * a_row, a_row, BYTES, of_panel, of_term, added, 0,
                        of_part + i * of_term, of_term, depth, rectifies,
                    )  # fmt: skip
            if not whole:
                for i in range(rows):
                    for j in range(count):
                        c[start + i, at + j] = part[i, j]


@SharedOut
def multiply_in_parts(
    a: Values,
    panels: Values,
    begin: Values,
    rectifies: bool,
    c: Values,
    first: int,
    columns: int,
    parts: int,
) -> None:
    """Do what :func:`multiply_by_panels` does, in a number of threads."""
    _require_fit(a, panels, begin, c, first, columns)  # what is raised in a thread is lost
    rows = len(a)
    for part in prange(parts):
        start, stop = rows * part // parts, rows * (part + 1) // parts
        multiply_by_panels(a[start:stop], panels, begin, rectifies, c[start:stop], first, columns)


@Compiled
def _require_fit(
    a: Values, panels: Values, begin: Values, c: Values, first: int, columns: int
) -> None:
    length, depth = a.shape
    if panels.shape[1] != depth or len(c) != length or c.shape[1] < first + columns:
        raise ValueError("matrices whose shapes do not fit")
    if len(begin) != len(panels) or not 0 <= len(panels) * WIDTH - columns < WIDTH or first < 0:
        raise ValueError("panels of another number of columns")
    if length and (a.strides[1] != BYTES or c.strides[1] != BYTES):
        raise ValueError("a matrix with rows that are not in one piece")
