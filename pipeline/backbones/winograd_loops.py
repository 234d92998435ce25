"""The convolution of :mod:`pipeline.backbones.winograd`: all of it in one compiled loop."""

import numpy as np

from pipeline.backbones.on_cpu import Array
from pipeline.backbones.winograd_tiles import (
    kernel_to_products,
    tile_from_products,
    tile_to_products,
)
from pipeline.compiled import Compiled, SharedOut, prange
from pipeline.compiled.panels import ROWS, WIDTH, tile
from pipeline.compiled.writer import BYTES, LANES

_TOGETHER = 2 * ROWS
"""Tiles whose 36 products for a panel fit into the fastest cache, in 27 kB."""
_APART = 16
"""Values between two of 36 arrays: at distances of powers of two they would displace each other."""
_ROWS_OF_A_PART = 4
"""With fewer rows of tiles for each thread some would have much less to do than others; there are
many channels then."""
_TERM, _VECTOR = WIDTH * BYTES, LANES * BYTES


@Compiled
def convolve(
    image: Array,
    kernels: Array,
    bias: Array,
    rectifies: bool,
    padding: tuple[int, int],
    begin: int,
    end: int,
    at_once: int,
    out: Array,
    channel: int,
    wanted: int,
) -> None:
    """Convolve a map with kernels of 3x3.

    Parameters
    ----------
    image
        The map, ``(H, W, C)`` without gaps, for a C that is a multiple of 8.
    kernels
        ``(P, C, 9, 16)``: the weights for each panel of 16 output channels.
    bias
        ``(P, 16)``.
    rectifies
        Whether zero takes the place of what is less.
    padding
        Rows and columns of zeros around the map.
    begin, end
        Which rows of tiles of 4x4 outputs are computed.
    at_once
        Of them, those for which all inputs of products are in memory.
    out
        ``(h, w, C')``, the values of a cell side by side.
    channel, wanted
        The first of its channels to write to, and how many of them.
    """
    channels, across = image.shape[2], -(-out.shape[1] // 4)
    most = -(-min(at_once, end - begin) * across // ROWS) * ROWS
    values = np.zeros((36, most * channels + _APART), np.float32)
    factors = np.empty((36, channels + 1, WIDTH), np.float32)[:, :channels]
    sums = np.empty((36, _TOGETHER, WIDTH), np.float32)
    for top in range(begin, end, at_once):
        tiles = min(at_once, end - top) * across
        _to_products(image, padding, top, across, tiles, values)
        for panel in range(len(kernels)):
            _transform(kernels[panel], factors)
            at, count = channel + panel * WIDTH, min(WIDTH, wanted - panel * WIDTH)
            for first in range(0, tiles, _TOGETHER):
                together = min(_TOGETHER, tiles - first)
                _multiply(values, first, together, factors, channels, sums)
                _from_products(sums, together, bias[panel], rectifies, out, top, first, at, count)


@SharedOut
def convolve_in_parts(
    image: Array,
    kernels: Array,
    bias: Array,
    rectifies: bool,
    padding: tuple[int, int],
    at_once: int,
    out: Array,
    channel: int,
    wanted: int,
    parts: int,
) -> None:
    """Do all of what :func:`convolve` does, in a number of threads."""
    down, panels = -(-out.shape[0] // 4), len(kernels)
    by_rows = down >= _ROWS_OF_A_PART * parts
    for part in prange(parts):
        begin, end, first, last = 0, down, 0, panels
        if by_rows:
            begin, end = down * part // parts, down * (part + 1) // parts
        else:
            first, last = panels * part // parts, panels * (part + 1) // parts
        start, stop = first * WIDTH, min(last * WIDTH, wanted)
        convolve(
            image, kernels[first:last], bias[first:last], rectifies, padding, begin, end, at_once,
            out, channel + start, stop - start,
        )  # fmt: skip


@Compiled
def _to_products(
    image: Array, padding: tuple[int, int], top: int, across: int, tiles: int, values: Array
) -> None:
    """Compute B^T d B for rows of tiles d.

    Parameters
    ----------
    image, padding
        As :func:`convolve` takes them.
    top
        The first row of tiles.
    across, tiles
        How many there are in a row, and in all.
    values
        ``(36, n)``, of which each begins with (tiles, C).
    """
    height, width, channels = image.shape
    edge = np.empty((6, 6, channels), np.float32)
    cell = channels * BYTES
    rows = np.empty(6, np.intp)
    for index in range(tiles):
        y = 4 * (top + index // across) - padding[0]
        x = 4 * (index % across) - padding[1]
        inside = min(y, x) >= 0 and y + 6 <= height and x + 6 <= width
        if not inside:
            for i in range(6):
                for j in range(6):
                    there = 0 <= y + i < height and 0 <= x + j < width
                    for c in range(channels):
                        edge[i, j, c] = image[y + i, x + j, c] if there else 0
        for i in range(6):
            of_image = image.ctypes.data + ((y + i) * width + x) * cell
            rows[i] = of_image if inside else edge[i].ctypes.data
        place = values.ctypes.data + index * cell
        for lane in range(0, cell, _VECTOR):
            tile_to_products(rows.ctypes.data, lane, cell, place + lane, values.strides[0])


@Compiled
def _transform(kernels: Array, factors: Array) -> None:
    """Compute G g G^T for a panel of kernels g.

    Parameters
    ----------
    kernels
        ``(C, 9, 16)``.
    factors
        ``(36, C, 16)``, the values of a term side by side.
    """
    for i in range(len(kernels)):
        kernel, place = kernels[i].ctypes.data, factors[0, i].ctypes.data
        for lane in range(0, _TERM, _VECTOR):
            kernel_to_products(kernel + lane, _TERM, place + lane, factors.strides[0])


@Compiled
def _multiply(
    values: Array, first: int, count: int, factors: Array, channels: int, sums: Array
) -> None:
    """Multiply the inputs of some tiles by a panel's factors, 36 times."""
    zeros, row = np.zeros(WIDTH, np.float32), channels * BYTES
    for i in range(36):
        for start in range(0, count, ROWS):
            tile(
                values[i].ctypes.data + (first + start) * row, row, BYTES,
                factors[i].ctypes.data, _TERM, zeros.ctypes.data, 0,
                sums[i, start].ctypes.data, _TERM, channels, False,
            )  # fmt: skip


@Compiled
def _from_products(
    products: Array,
    count: int,
    bias: Array,
    rectifies: bool,
    out: Array,
    top: int,
    first: int,
    channel: int,
    wanted: int,
) -> None:
    """Compute A^T m A for products m, add the bias, and leave out what is beyond the border.

    Parameters
    ----------
    products
        ``(36, T, 16)``, the values of a tile side by side.
    count
        For how many tiles of T.
    bias
        ``(16,)``.
    rectifies
        Whether zero takes the place of what is less.
    out
        ``(h, w, C')``, the values of a cell side by side.
    top, first
        The row of tiles, and from its beginning the tile, that the first of them is for.
    channel, wanted
        The first of the channels to write to, and how many of them.
    """
    height, width, _ = out.shape
    across = -(-width // 4)
    part = np.empty((4, 4, WIDTH), np.float32)
    for index in range(count):
        y, x = 4 * (top + (first + index) // across), 4 * ((first + index) % across)
        whole = y + 4 <= height and x + 4 <= width and wanted == WIDTH
        down, cell = (out if whole else part).strides[:2]
        target = out[y, x, channel:].ctypes.data if whole else part.ctypes.data
        for lane in range(0, _TERM, _VECTOR):
            tile_from_products(
                products[0, index].ctypes.data + lane, products.strides[0],
                bias.ctypes.data + lane, rectifies, target + lane, down, cell,
            )  # fmt: skip
        if not whole:
            for i in range(min(4, height - y)):
                for j in range(min(4, width - x)):
                    for c in range(wanted):
                        out[y + i, x + j, channel + c] = part[i, j, c]
