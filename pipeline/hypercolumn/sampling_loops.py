"""The loops of :mod:`pipeline.hypercolumn.sampling`.

Eight channels at a time are worked on in arrays that stay in the processor's own memory, laid out
so that each step is one loop over neighbours, which the compiler turns into vector instructions. A
product is written into an array, and added up by another loop: one that goes straight into a sum
has another last bit on a processor that does both at once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled

_LANES = 8
"""Channels that are worked on together."""


@Compiled
def corners(
    top: NDArray[np.int64],
    bottom: NDArray[np.int64],
    down: NDArray[np.float64],
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    across: NDArray[np.float64],
    widths: NDArray[np.int64],
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
) -> None:
    """Write the places of the four cells around each pixel, and their weights, both (maps, 4 n).

    The top left ones of all pixels come first, then the top right, bottom left, bottom right ones.
    """
    n = len(ys)
    for i in range(n):
        y, x = ys[i], xs[i]
        if not (0 <= y < down.shape[1] and 0 <= x < across.shape[1]):
            raise IndexError("a pixel outside the image")
        for m in range(len(widths)):
            upper, lower = top[m, y] * widths[m], bottom[m, y] * widths[m]
            places[m, i] = upper + left[m, x]
            places[m, n + i] = upper + right[m, x]
            places[m, 2 * n + i] = lower + left[m, x]
            places[m, 3 * n + i] = lower + right[m, x]
            weights[m, i] = (1 - down[m, y]) * (1 - across[m, x])
            weights[m, n + i] = (1 - down[m, y]) * across[m, x]
            weights[m, 2 * n + i] = down[m, y] * (1 - across[m, x])
            weights[m, 3 * n + i] = down[m, y] * across[m, x]


@Compiled
def read_cells(
    values: NDArray[Any],
    scale: NDArray[np.float32],
    rectified: bool,
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    columns: NDArray[np.float32],
    start: int,
) -> None:
    """Write weighted sums of four cells (C, .) for each pixel, into C places of its column."""
    _require_inside(places, values.shape[1])
    n, lowest = len(columns), np.float32(0 if rectified else -np.inf)
    # Corner by corner, channel by channel, pixel by pixel.
    stored = np.zeros(4 * _LANES * n, values.dtype)
    numbers = np.empty(len(stored), np.float32)
    of_each = np.empty(len(stored), np.float32)
    for k in range(4 * _LANES):
        for i in range(n):
            of_each[k * n + i] = weights[k // _LANES * n + i]
    for first in range(0, len(values), _LANES):
        lanes = min(_LANES, len(values) - first)
        for lane in range(lanes):
            for corner in range(4):
                to = (corner * _LANES + lane) * n
                for i in range(n):
                    place = np.uint64(places[corner * n + i])
                    stored[np.uint64(to + i)] = values[first + lane, place]
        _decode(stored, lowest, numbers)
        if len(scale):
            for k in range(4 * _LANES):
                factor = scale[min(first + k % _LANES, len(scale) - 1)]
                for i in range(n):
                    numbers[k * n + i] *= factor
        _multiply(numbers, of_each)
        _add_quarters(numbers)
        for i in range(n):
            for lane in range(lanes):
                columns[i, start + first + lane] = numbers[lane * n + i]


@Compiled
def read_windows(
    values: NDArray[Any],
    width: int,
    scale: NDArray[np.float32],
    rectified: bool,
    places: NDArray[np.int64],
    weights: NDArray[np.float32],
    scopes: NDArray[np.int64],
    columns: NDArray[np.float32],
) -> None:
    """Do as :func:`read_cells` does with means of a map (C, h * w), over windows around its cells.

    ``scopes`` (k, 2) are the reaches of windows to every side, in rising order, and where in the
    columns their means begin. A negative reach is that of the whole map.
    """
    cells = values.shape[1]
    height, lowest = cells // width, np.float32(0 if rectified else -np.inf)
    _require_inside(places, cells)
    most = min(max(scopes[-1, 0], 0), width - 1)
    beside = np.empty((2 * most + 1, len(places)), np.uint64)
    count = np.empty((len(scopes), len(places) * _LANES), np.float32)
    _look_around(places, height, width, scopes, beside, count)
    of_each = np.empty(len(places) * _LANES, np.float32)
    for k in range(len(of_each)):
        of_each[k] = weights[k // _LANES]
    stored = np.zeros(_LANES * cells, values.dtype)
    numbers = np.empty(len(stored), np.float32)
    turned = np.empty(len(stored), np.float32)
    summed = np.zeros((cells + 1, _LANES), np.float32)  # the last ones are what lies outside
    flat = summed.reshape(summed.size)[: len(turned)]
    means = np.empty((len(places), _LANES), np.float32)
    others = np.empty(means.shape, np.float32)
    for first in range(0, len(values), _LANES):
        lanes = min(_LANES, len(values) - first)
        for lane in range(lanes):
            for k in range(cells):
                stored[np.uint64(lane * cells + k)] = values[first + lane, k]
        _decode(stored, lowest, numbers)
        _turn(numbers, turned)
        if len(scale):
            for k in range(len(turned)):
                turned[k] *= scale[min(first + k % _LANES, len(scale) - 1)]
        if scopes[0, 0] < 0:
            _copy(turned, flat)
            _add_halves(flat, cells)
            for lane in range(_LANES):
                flat[lane] /= np.float32(cells)
        for k in range(len(scopes)):
            if scopes[k, 0] < 0:
                for i in range(len(columns)):
                    for lane in range(lanes):
                        columns[i, scopes[k, 1] + first + lane] = flat[lane]
        _copy(turned, flat)
        rows = 0
        for k in range(len(scopes)):
            reach, column = scopes[k, 0], scopes[k, 1] + first
            if reach < 0:
                continue
            # Cells above and below one are added up first, for all of them: the deepest map has not
            # many more than there are in the windows around a few pixels.
            while rows < min(reach, height - 1):
                rows += 1
                step = rows * width * _LANES
                _add(turned[step:], flat)
                _add(turned[: len(turned) - step], flat[step:])
            _gather(summed, beside[0], means)
            found = means.reshape(means.size)
            for step in range(1, 2 * min(reach, width - 1) + 1):
                _gather(summed, beside[step], others)
                _add(others.reshape(others.size), found)
            _divide(found, count[k])
            _multiply(found, of_each)
            _add_quarters(found)
            for i in range(len(columns)):
                for lane in range(lanes):
                    columns[i, column + lane] = means[i, lane]


@Compiled
def _require_inside(places: NDArray[np.int64], cells: int) -> None:
    for place in places:
        if not 0 <= place < cells:
            raise IndexError("a cell outside the map")


@Compiled
def _look_around(
    places: NDArray[np.int64],
    height: int,
    width: int,
    scopes: NDArray[np.int64],
    beside: NDArray[np.uint64],
    count: NDArray[np.float32],
) -> None:
    """Write where the cells to the right and the left are, and how many a window has (k, n * 8)."""
    for i in range(len(places)):
        y, x = places[i] // width, places[i] % width
        beside[0, i] = places[i]
        for step in range(1, len(beside) // 2 + 1):
            beside[2 * step - 1, i] = places[i] + step if x + step < width else height * width
            beside[2 * step, i] = places[i] - step if x >= step else height * width
        for k in range(len(scopes)):
            reach = scopes[k, 0]
            rows = min(y + reach, height - 1) - max(y - reach, 0) + 1
            cells = rows * (min(x + reach, width - 1) - max(x - reach, 0) + 1)
            for lane in range(_LANES):
                count[k, i * _LANES + lane] = cells


@Compiled
def _decode(stored: NDArray[Any], lowest: np.float32, numbers: NDArray[np.float32]) -> None:
    """Write float32 numbers for stored ones, which are float16 if they have two bytes.

    What is lower than ``lowest`` becomes that; scales, which come later, are positive.
    """
    if stored.itemsize == 2:
        for i in range(len(stored)):
            number = _from_half(np.uint16(stored[i]))
            numbers[i] = lowest if number < lowest else number
    else:
        for i in range(len(stored)):
            number = np.float32(stored[i])
            numbers[i] = lowest if number < lowest else number


@Compiled
def _from_half(half: np.uint16) -> np.float32:
    """Turn the bits of a float16 into a float32, in what a processor does with many at a time."""
    sign = np.uint32(np.uint32(half & 0x8000) << 16)
    bits = np.uint32(np.uint32(half & 0x7FFF) << 13)
    # Their exponents begin elsewhere. Numbers below the normal ones get one for the subtraction.
    infinite, subnormal = bits >= 0x0F800000, bits < 0x00800000
    shift = np.uint32(0x70000000 if infinite else 0x38800000 if subnormal else 0x38000000)
    excess = np.float32(2**-14) if subnormal else np.float32(0)
    number = np.float32(np.uint32(bits + shift).view(np.float32) - excess)
    return np.uint32(number.view(np.uint32) | sign).view(np.float32)


@Compiled
def _turn(numbers: NDArray[np.float32], turned: NDArray[np.float32]) -> None:
    """Put the values of a cell side by side, those of (8, n) into (n, 8), both flat."""
    cells = len(numbers) // _LANES
    for k in range(cells):
        for lane in range(_LANES):
            turned[k * _LANES + lane] = numbers[lane * cells + k]


@Compiled
def _copy(numbers: NDArray[np.float32], target: NDArray[np.float32]) -> None:
    for i in range(len(numbers)):
        target[i] = numbers[i]


@Compiled
def _multiply(numbers: NDArray[np.float32], factors: NDArray[np.float32]) -> None:
    for i in range(len(numbers)):
        numbers[i] *= factors[i]


@Compiled
def _divide(numbers: NDArray[np.float32], divisors: NDArray[np.float32]) -> None:
    for i in range(len(numbers)):
        numbers[i] /= divisors[i]


@Compiled
def _add(numbers: NDArray[np.float32], total: NDArray[np.float32]) -> None:
    """Add numbers to as many of the first ones of a total."""
    for i in range(len(numbers)):
        total[i] += numbers[i]


@Compiled
def _add_quarters(numbers: NDArray[np.float32]) -> None:
    """Add to the first quarter of numbers the second one, the third one and the last one."""
    n = len(numbers) // 4
    for quarter in range(1, 4):
        _add(numbers[quarter * n : (quarter + 1) * n], numbers)


@Compiled
def _add_halves(numbers: NDArray[np.float32], cells: int) -> None:
    """Add up all of (n, 8), flat, in the first ones: half of them to the other half, and so on."""
    left = cells
    while left > 1:
        half = (left + 1) // 2
        _add(numbers[half * _LANES : left * _LANES], numbers)
        left = half


@Compiled
def _gather(
    values: NDArray[np.float32], places: NDArray[np.uint64], found: NDArray[np.float32]
) -> None:
    """Write values (n, 8) that lie at places (n,) of others (., 8)."""
    for i in range(len(places)):
        at = places[i]
        # Side by side, and all loads before all stores: so the compiler makes one of eight.
        a, b, c, d = values[at, 0], values[at, 1], values[at, 2], values[at, 3]
        e, f, g, h = values[at, 4], values[at, 5], values[at, 6], values[at, 7]
        found[i, 0], found[i, 1], found[i, 2], found[i, 3] = a, b, c, d
        found[i, 4], found[i, 5], found[i, 6], found[i, 7] = e, f, g, h
