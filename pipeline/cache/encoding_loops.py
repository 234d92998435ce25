"""Turning feature maps into what is stored, in one pass over their values, compiled."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled
from pipeline.compiled.blocks import conversion
from pipeline.compiled.writer import BYTES

_BLOCK = 8
"""Channels and cells that are converted together."""
_CELLS = 64
"""Whose channels are converted before other cells', so that lines of memory are written whole."""

_copy, _copy_across = conversion("float32", False), conversion("float32", True)
_halve, _halve_across = conversion("float16", False), conversion("float16", True)
_scale, _scale_across = conversion("int8", False), conversion("int8", True)


@Compiled
def convert(
    values: NDArray[np.float32], scales: NDArray[np.float32], out: NDArray[Any]
) -> np.float32:
    """Write a map by channels in another dtype.

    Parameters
    ----------
    values : array of float32, shape (C, n)
        Those of a channel or those of a cell lie side by side.
    scales : array of float32, shape (C,)
        What the values of a channel are divided by, if they become int8.
    out : array of float32, uint16 or int8, shape (C, n)
        Those of a channel lie side by side. In uint16 the bits of a float16 are put.

    Returns
    -------
    float32
        The largest magnitude; NaN if there is one. Of int8 it means nothing.
    """
    channels, cells = values.shape
    of_channel, of_cell = values.strides
    across = of_channel == BYTES and channels > 1
    row = of_cell if across else of_channel
    largest = np.zeros(_BLOCK, np.int32)
    edge, filled = np.zeros((_BLOCK, _BLOCK), np.float32), np.empty((_BLOCK, _BLOCK), out.dtype)
    edge_scales, of_scales = np.ones(_BLOCK, np.float32), scales.ctypes.data
    for start in range(0, cells, _CELLS):
        for channel in range(0, channels, _BLOCK):
            rows = min(_BLOCK, channels - channel)
            for cell in range(start, min(start + _CELLS, cells), _BLOCK):
                columns = min(_BLOCK, cells - cell)
                source = values.ctypes.data + channel * of_channel + cell * of_cell
                target = out.ctypes.data + channel * out.strides[0] + cell * out.itemsize
                scale, source_row, target_row = of_scales + channel * BYTES, row, out.strides[0]
                whole = rows == columns == _BLOCK
                if not whole:
                    for i in range(rows):
                        edge_scales[i] = scales[channel + i]
                        for j in range(columns):
                            at = (j, i) if across else (i, j)
                            edge[at] = values[channel + i, cell + j]
                    source, source_row = edge.ctypes.data, _BLOCK * BYTES
                    target, target_row = filled.ctypes.data, _BLOCK * out.itemsize
                    scale = edge_scales.ctypes.data
                _convert(
                    source, source_row, scale, largest.ctypes.data, target, target_row,
                    out.itemsize, across,
                )  # fmt: skip
                if not whole:
                    for i in range(rows):
                        for j in range(columns):
                            out[channel + i, cell + j] = filled[i, j]
    greatest: np.float32 = largest.view(np.float32)[largest.argmax()]
    return greatest


@Compiled
def _convert(
    values: int,
    row: int,
    scales: int,
    largest: int,
    out: int,
    out_row: int,
    size: int,
    across: bool,
) -> None:
    """Convert a block to values of so many bytes."""
    if size == 4:
        if across:
            _copy_across(values, row, scales, largest, out, out_row)
        else:
            _copy(values, row, scales, largest, out, out_row)
    elif size == 2:
        if across:
            _halve_across(values, row, scales, largest, out, out_row)
        else:
            _halve(values, row, scales, largest, out, out_row)
    elif across:
        _scale_across(values, row, scales, largest, out, out_row)
    else:
        _scale(values, row, scales, largest, out, out_row)


@Compiled
def peaks(values: NDArray[np.int32], largest: NDArray[np.int32]) -> None:
    """Give the largest magnitude in each channel.

    Parameters
    ----------
    values : array of int32, shape (C, n)
        The bits of a map of float32; those of a channel or those of a cell lie side by side.
    largest : array of int32, shape (C,)
        Zeros, which become the bits of the largest without its sign; NaN is larger than infinity.
    """
    channels, cells = values.shape
    if values.strides[0] == BYTES:
        for cell in range(cells):
            for channel in range(channels):
                largest[channel] = max(largest[channel], values[channel, cell] & 0x7FFFFFFF)
    else:
        for channel in range(channels):
            peak = largest[channel]
            for cell in range(cells):
                peak = max(peak, values[channel, cell] & 0x7FFFFFFF)
            largest[channel] = peak
