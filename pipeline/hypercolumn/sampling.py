"""Hypercolumns of a few pixels of an image, read from maps as a cache stores them.

They are those that :func:`~pipeline.hypercolumn.columns.hypercolumns_at` reads from decoded maps
and their contexts. That takes some hundred operations of torch, each of which begins slowly: for a
dozen pixels, more than all the arithmetic. Here compiled loops decode what is read, and no more.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.hypercolumn.features import Features
from pipeline.hypercolumn.geometry import Geometry, corner_reads
from pipeline.hypercolumn.sampling_loops import corners, read_cells, read_windows

_WHOLE = -1
"""The reach of a window that is the whole map."""
_NO_SCALE = np.empty(0, np.float32)


class StoredMap(Protocol):
    """A feature map of which single cells can be had."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        ...

    @property
    def channels(self) -> int:
        """How many channels it has."""
        ...

    def cells(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Give single cells, the n-th of a map ``w`` cells wide being that at (n // w, n % w).

        Parameters
        ----------
        places : array of int64, shape (n,)

        Returns
        -------
        values : array of float16, float32 or int8, shape (C, m)
            Any number of cells, among them those.
        at : array of int64, shape (n,)
            Where they are among them.
        """
        ...

    def all_cells(self) -> NDArray[Any]:
        """Give all cells in order, (C, h * w), in one of these dtypes."""
        ...

    @property
    def scale(self) -> NDArray[np.float32] | None:
        """What the values of each channel are to be multiplied by, (C,), if by anything."""
        ...


def read_columns(
    maps: Sequence[StoredMap],
    taps: Sequence[str],
    features: Features,
    ys: NDArray[np.int64],
    xs: NDArray[np.int64],
    size: tuple[int, int],
    geometry: Geometry,
) -> NDArray[np.float32]:
    """Read the hypercolumns of pixels of an image.

    Parameters
    ----------
    maps : sequence of StoredMap
        The used taps' maps, before ReLU, in the order of :meth:`Features.select`.
    taps : sequence of str
        Their names.
    features : Features
        What is made of them.
    ys, xs : array of int64, shape (n,)
        Pixels of an image of ``size``.
    size : (H, W)
        The image's size in pixels.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.

    Returns
    -------
    array of float32, shape (n, D)

    Raises
    ------
    IndexError
        If a pixel lies outside the image.
    """
    # Maps of one size are read at the same cells.
    sizes = tuple(dict.fromkeys(m.size for m in maps))
    places = np.empty((len(sizes), 4 * len(ys)), np.int64)
    weights = np.empty(places.shape, np.float32)
    top, bottom, down, left, right, across, widths = _tables(sizes, size, geometry)
    corners(top, bottom, down, left, right, across, widths, ys, xs, places, weights)
    of_size = {s: (places[i], weights[i]) for i, s in enumerate(sizes)}
    rectified = features.activation == "relu"
    starts, scopes = _layout(features, tuple(taps), tuple(m.channels for m in maps))
    columns = np.empty((len(ys), starts[-1]), np.float32)
    for m, start, of_map in zip(maps, starts, scopes, strict=False):
        cells, weight = of_size[m.size]
        scale = _NO_SCALE if m.scale is None else m.scale
        values, at = m.cells(cells)
        read_cells(_bare(values), scale, rectified, at, weight, columns, start)
        if of_map is not None:
            values, width = _bare(m.all_cells()), m.size[1]
            read_windows(values, width, scale, rectified, cells, weight, of_map, columns)
    return columns


@lru_cache(maxsize=16)
def _layout(
    features: Features, taps: tuple[str, ...], channels: tuple[int, ...]
) -> tuple[list[int], list[NDArray[np.int64] | None]]:
    """Say where in a column everything begins, and where it ends.

    Returns
    -------
    starts : list of int
        Of each map, each context and, last, of what would come after.
    scopes : list of array of int64, shape (k, 2), or None
        For each map the contexts that are made of it, as :func:`read_windows` takes them.
    """
    pools = features.pools(taps)
    counts = [*channels, *(channels[i] for i, _ in pools)]
    starts = list(accumulate(counts, initial=0))
    scopes: list[NDArray[np.int64] | None] = []
    for number in range(len(channels)):
        found = sorted(
            (_WHOLE if scope == "global" else int(scope) // 2, start)
            for (i, scope), start in zip(pools, starts[len(channels) :], strict=False)
            if i == number
        )
        scopes.append(np.array(found, np.int64) if found else None)
    return starts, scopes


# The images of a data set are of few sizes, if they are resized.
@lru_cache(maxsize=64)
def _tables(
    sizes: tuple[tuple[int, int], ...], size: tuple[int, int], geometry: Geometry
) -> list[NDArray[Any]]:
    """Give what :func:`corner_reads` does, a row for each size, and the widths of the maps."""
    reads = (corner_reads(cells, size, geometry) for cells in sizes)
    tables: list[NDArray[Any]] = [
        np.stack([table.numpy() for table in rows]) for rows in zip(*reads, strict=True)
    ]
    return [*tables, np.array([width for _, width in sizes])]


def _bare(values: NDArray[Any]) -> NDArray[Any]:
    """Give float16 values as the numbers that they are stored as: Numba has no such type."""
    return values.view(np.uint16) if values.dtype == np.float16 else values
