"""The convolution of :mod:`pipeline.backbones.winograd`: all of it in one compiled loop."""

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones.winograd_tiles import (
    kernel_to_products,
    tile_from_products,
    tile_to_products,
)
from pipeline.compiled import Compiled
from pipeline.compiled.panels import ROWS, WIDTH, tile
from pipeline.compiled.writer import BYTES, LANES

Array = NDArray[np.float32]

_TOGETHER = 2 * ROWS
"""Tiles whose 36 products for a panel fit into the fastest cache, in 27 kB."""
_APART = 16
"""Values between two of the 36: at distances of powers of two they would displace each other."""
_TERM, _VECTOR = WIDTH * BYTES, LANES * BYTES


@Compiled
def convolve(
    image: Array,
    kernels: Array,
    bias: Array,
    rectifies: bool,
    padding: tuple[int, int],
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
    at_once
        Rows of tiles for which all inputs of products are in memory.
    out
        ``(h, w, C')``, the values of a cell side by side.
    channel, wanted
        The first of its channels to write to, and how many of them.
    """
    height, width, _ = out.shape
    channels = image.shape[2]
    down, across = -(-height // 4), -(-width // 4)
    most = -(-min(at_once, down) * across // ROWS) * ROWS
    values = np.zeros((36, most * channels + _APART), np.float32)
    factors = np.empty((36, channels * WIDTH + _APART), np.float32)
    sums = np.empty((36, _TOGETHER, WIDTH), np.float32)
    edge, part = np.empty((6, 6, channels), np.float32), np.empty((4, 4, WIDTH), np.float32)
    for top in range(0, down, at_once):
        tiles = min(at_once, down - top) * across
        _take(image, padding, top, across, tiles, values, edge)
        for panel in range(len(kernels)):
            _transform(kernels[panel], factors)
            at, count = channel + panel * WIDTH, min(WIDTH, wanted - panel * WIDTH)
            for first in range(0, tiles, _TOGETHER):
                together = min(_TOGETHER, tiles - first)
                _multiply(values, first, together, factors, channels, sums)
                for i in range(together):
                    y, x = 4 * (top + (first + i) // across), 4 * ((first + i) % across)
                    _put(sums, i, bias[panel], rectifies, out, y, x, at, count, part)


@Compiled
def _take(
    image: Array,
    padding: tuple[int, int],
    top: int,
    across: int,
    tiles: int,
    values: Array,
    edge: Array,
) -> None:
    """Compute B^T d B for rows of tiles d, as 36 times (T, C)."""
    height, width, channels = image.shape
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
    """Compute G g G^T for kernels (C, 9, 16), as 36 times (C, 16)."""
    for i in range(len(kernels)):
        kernel, place = kernels[i].ctypes.data, factors.ctypes.data + i * _TERM
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
def _put(
    sums: Array,
    index: int,
    bias: Array,
    rectifies: bool,
    out: Array,
    y: int,
    x: int,
    channel: int,
    count: int,
    part: Array,
) -> None:
    """Compute A^T m A for the products m of a tile, add the bias, and leave out what is beyond."""
    height, width, _ = out.shape
    whole = y + 4 <= height and x + 4 <= width and count == WIDTH
    down, across = (out if whole else part).strides[:2]
    target = out[y, x, channel:].ctypes.data if whole else part.ctypes.data
    for lane in range(0, _TERM, _VECTOR):
        tile_from_products(
            sums[0, index].ctypes.data + lane, sums.strides[0], bias.ctypes.data + lane, rectifies,
            target + lane, down, across,
        )  # fmt: skip
    if not whole:
        for i in range(min(4, height - y)):
            for j in range(min(4, width - x)):
                for c in range(count):
                    out[y + i, x + j, channel + c] = part[i, j, c]
