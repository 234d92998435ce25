"""The sums around the products of :mod:`pipeline.backbones.winograd`, compiled.

Arrays are float32 and have no gaps in memory. The innermost loops run over channels, which lie side
by side, so that the processor takes several at a time; each writes to one array, or to one of known
size, as the compiler would have to prove of others that they do not overlap.
"""

import numpy as np

from pipeline.compiled import Compiled

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

_TWO, _FOUR, _FIVE, _EIGHT = (np.float32(number) for number in (2, 4, 5, 8))
_SIXTH, _QUARTER, _HALF = np.float32(1 / 6), np.float32(1 / 4), np.float32(1 / 2)
_AT_ONCE = 64
"""Channels whose sums for a tile fit into the fastest cache."""


@Compiled
def to_products(image: Array, top: int, left: int, across: int, values: Array) -> None:
    """Compute B^T d B for rows of tiles.

    Parameters
    ----------
    image
        A whole map, ``(H, W, C)``; beyond its border there are zeros.
    top, left
        Where in the map the first tile begins; may be negative.
    across
        How many tiles there are in a row.
    values
        ``(36, T, C)``: what is computed, for each of the T tiles.
    """
    height, width, channels = image.shape
    lines = image.reshape(height, width * channels)
    nothing = np.zeros(width * channels, np.float32)
    margin = -left * channels
    inside = min(width * channels, (4 * across + 2) * channels - margin)
    by_row = np.zeros((6, (4 * across + 2) * channels), np.float32)
    for tile_y in range(values.shape[1] // across):
        y = top + 4 * tile_y
        d0 = lines[y] if 0 <= y < height else nothing
        d1 = lines[y + 1] if 0 <= y + 1 < height else nothing
        d2 = lines[y + 2] if 0 <= y + 2 < height else nothing
        d3 = lines[y + 3] if 0 <= y + 3 < height else nothing
        d4 = lines[y + 4] if 0 <= y + 4 < height else nothing
        d5 = lines[y + 5] if 0 <= y + 5 < height else nothing
        out = by_row[0, margin : margin + inside]
        for i in range(inside):
            out[i] = _FOUR * d0[i] - _FIVE * d2[i] + d4[i]
        out = by_row[1, margin : margin + inside]
        for i in range(inside):
            out[i] = (d4[i] - _FOUR * d2[i]) + (d3[i] - _FOUR * d1[i])
        out = by_row[2, margin : margin + inside]
        for i in range(inside):
            out[i] = (d4[i] - _FOUR * d2[i]) - (d3[i] - _FOUR * d1[i])
        out = by_row[3, margin : margin + inside]
        for i in range(inside):
            out[i] = (d4[i] - d2[i]) + _TWO * (d3[i] - d1[i])
        out = by_row[4, margin : margin + inside]
        for i in range(inside):
            out[i] = (d4[i] - d2[i]) - _TWO * (d3[i] - d1[i])
        out = by_row[5, margin : margin + inside]
        for i in range(inside):
            out[i] = _FOUR * d1[i] - _FIVE * d3[i] + d5[i]
        for row in range(6):
            for tile_x in range(across):
                tile = tile_y * across + tile_x
                first = 4 * tile_x * channels
                d0 = by_row[row, first : first + channels]
                d1 = by_row[row, first + channels : first + 2 * channels]
                d2 = by_row[row, first + 2 * channels : first + 3 * channels]
                d3 = by_row[row, first + 3 * channels : first + 4 * channels]
                d4 = by_row[row, first + 4 * channels : first + 5 * channels]
                d5 = by_row[row, first + 5 * channels : first + 6 * channels]
                out = values[6 * row + 0, tile]
                for i in range(channels):
                    out[i] = _FOUR * d0[i] - _FIVE * d2[i] + d4[i]
                out = values[6 * row + 1, tile]
                for i in range(channels):
                    out[i] = (d4[i] - _FOUR * d2[i]) + (d3[i] - _FOUR * d1[i])
                out = values[6 * row + 2, tile]
                for i in range(channels):
                    out[i] = (d4[i] - _FOUR * d2[i]) - (d3[i] - _FOUR * d1[i])
                out = values[6 * row + 3, tile]
                for i in range(channels):
                    out[i] = (d4[i] - d2[i]) + _TWO * (d3[i] - d1[i])
                out = values[6 * row + 4, tile]
                for i in range(channels):
                    out[i] = (d4[i] - d2[i]) - _TWO * (d3[i] - d1[i])
                out = values[6 * row + 5, tile]
                for i in range(channels):
                    out[i] = _FOUR * d1[i] - _FIVE * d3[i] + d5[i]


@Compiled
def from_products(
    products: Array,
    bias: Array,
    lowest: np.float32,
    across: int,
    top: int,
    out: Array,
    channel: int,
) -> None:
    """Compute A^T m A for rows of tiles, add the bias, and leave out what is beyond the border.

    Parameters
    ----------
    products
        ``(36, T, C)``, for T tiles.
    bias
        ``(C,)``.
    lowest
        What is smaller becomes this: 0 for a ReLU.
    across
        How many tiles there are in a row.
    top
        The row of the map in which the first tile begins.
    out
        A whole map, ``(H, W, C')``, of which C channels are written.
    channel
        The first of them.
    """
    tiles, channels = products.shape[1:]
    height, width, _ = out.shape
    sums = np.empty((4, 6, _AT_ONCE), np.float32)
    for tile in range(tiles):
        y, x = top + 4 * (tile // across), 4 * (tile % across)
        for first in range(0, channels, _AT_ONCE):
            count = min(_AT_ONCE, channels - first)
            for column in range(6):
                m0 = products[column, tile, first : first + count]
                m1 = products[6 + column, tile, first : first + count]
                m2 = products[12 + column, tile, first : first + count]
                m3 = products[18 + column, tile, first : first + count]
                m4 = products[24 + column, tile, first : first + count]
                m5 = products[30 + column, tile, first : first + count]
                for i in range(count):
                    sum_12, difference_12 = m1[i] + m2[i], m1[i] - m2[i]
                    sum_34, difference_34 = m3[i] + m4[i], m3[i] - m4[i]
                    sums[0, column, i] = m0[i] + sum_12 + sum_34
                    sums[1, column, i] = difference_12 + _TWO * difference_34
                    sums[2, column, i] = sum_12 + _FOUR * sum_34
                    sums[3, column, i] = difference_12 + _EIGHT * difference_34 + m5[i]
            added = bias[first : first + count]
            for row in range(min(4, height - y)):
                for column in range(min(4, width - x)):
                    cell = out[y + row, x + column]
                    place = cell[channel + first : channel + first + count]
                    if column == 0:
                        for i in range(count):
                            sum_12 = sums[row, 1, i] + sums[row, 2, i]
                            sum_34 = sums[row, 3, i] + sums[row, 4, i]
                            value = sums[row, 0, i] + sum_12 + sum_34 + added[i]
                            place[i] = lowest if value < lowest else value
                    elif column == 1:
                        for i in range(count):
                            difference_12 = sums[row, 1, i] - sums[row, 2, i]
                            difference_34 = sums[row, 3, i] - sums[row, 4, i]
                            value = difference_12 + _TWO * difference_34 + added[i]
                            place[i] = lowest if value < lowest else value
                    elif column == 2:
                        for i in range(count):
                            sum_12 = sums[row, 1, i] + sums[row, 2, i]
                            sum_34 = sums[row, 3, i] + sums[row, 4, i]
                            value = sum_12 + _FOUR * sum_34 + added[i]
                            place[i] = lowest if value < lowest else value
                    else:
                        for i in range(count):
                            difference_12 = sums[row, 1, i] - sums[row, 2, i]
                            difference_34 = sums[row, 3, i] - sums[row, 4, i]
                            value = difference_12 + _EIGHT * difference_34 + sums[row, 5, i]
                            value += added[i]
                            place[i] = lowest if value < lowest else value


@Compiled
def to_kernels(kernels: Array, transformed: Array) -> None:
    """Compute G g G^T.

    Parameters
    ----------
    kernels
        ``(C_out, 3, 3, C_in)``.
    transformed
        ``(36, C_out, C_in)``: what is computed.
    """
    wanted, _, _, channels = kernels.shape
    sums = np.empty((6, 3, _AT_ONCE), np.float32)
    for k in range(wanted):
        for first in range(0, channels, _AT_ONCE):
            count = min(_AT_ONCE, channels - first)
            for column in range(3):
                g0 = kernels[k, 0, column, first : first + count]
                g1 = kernels[k, 1, column, first : first + count]
                g2 = kernels[k, 2, column, first : first + count]
                for i in range(count):
                    outer, inner = _SIXTH * (g0[i] + g2[i]), _SIXTH * g1[i]
                    sums[0, column, i] = _QUARTER * g0[i]
                    sums[1, column, i] = -outer - inner
                    sums[2, column, i] = -outer + inner
                    outer, inner = _QUARTER * _SIXTH * g0[i] + _SIXTH * g2[i], _HALF * inner
                    sums[3, column, i] = outer + inner
                    sums[4, column, i] = outer - inner
                    sums[5, column, i] = g2[i]
            for row in range(6):
                out = transformed[6 * row, k, first : first + count]
                for i in range(count):
                    out[i] = _QUARTER * sums[row, 0, i]
                out = transformed[6 * row + 1, k, first : first + count]
                for i in range(count):
                    out[i] = -_SIXTH * (sums[row, 0, i] + sums[row, 1, i] + sums[row, 2, i])
                out = transformed[6 * row + 2, k, first : first + count]
                for i in range(count):
                    out[i] = -_SIXTH * (sums[row, 0, i] - sums[row, 1, i] + sums[row, 2, i])
                out = transformed[6 * row + 3, k, first : first + count]
                for i in range(count):
                    outer = _QUARTER * sums[row, 0, i] + sums[row, 2, i]
                    out[i] = _SIXTH * (outer + _HALF * sums[row, 1, i])
                out = transformed[6 * row + 4, k, first : first + count]
                for i in range(count):
                    outer = _QUARTER * sums[row, 0, i] + sums[row, 2, i]
                    out[i] = _SIXTH * (outer - _HALF * sums[row, 1, i])
                out = transformed[6 * row + 5, k, first : first + count]
                for i in range(count):
                    out[i] = sums[row, 2, i]
