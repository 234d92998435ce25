"""The head's first layer on a strip of an image, and its gradient, block by block.

Every map is multiplied at its own size and the results are resampled and added. Three kinds of
maps need no resampling: those of the image's own size are multiplied in the block that is at hand;
those of a single cell are the same for all pixels, as is the bias. A pixel reads each map with
weights that sum to one, so what is the same for all is added to the cells of the smallest map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.reads import Rows, Size
from pipeline.hypercolumn.resample import resampler

_BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Hidden values computed at a time: 2 MiB in float32, small enough for a CPU's caches; a GPU is
better served by few large pieces."""


@dataclass(frozen=True)
class _Map:
    """A map, and where its part of the weight lies."""

    values: Tensor
    """(C, h * w)"""
    columns: slice


class Projection:
    """The first layer of a head on some rows of one image.

    Parameters
    ----------
    maps : sequence of Tensor, each (C_t, h_t, w_t)
        What hypercolumns are made of, in the dtype to compute in.
    size : (H, W)
        The image's size in pixels.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.
    strip : (start, stop)
        Rows of the image.
    width : int
        Outputs of the layer, K.
    """

    def __init__(
        self, maps: Sequence[Tensor], size: Size, geometry: Geometry, strip: Rows, width: int
    ) -> None:
        self._size, self._width = size, width
        levels = _by_size(maps)
        self._single = levels.pop((1, 1), []) if len(levels) > 1 else []
        self._own = levels.pop(size, []) if len(levels) > 1 else []
        self._levels = list(levels.values())
        values = self._levels[0][0].values
        height = max(1, _BLOCK_ELEMENTS[values.device.type] // (width * size[1]))
        self._plan = resampler(
            tuple(levels), size, geometry, strip, height, width, values.device, values.dtype
        )
        self._parts = list(
            zip(self._levels, self._plan.reads.spans, self._plan.reads.rows, strict=True)
        )
        self._smallest = min(self._plan.reads.rows, key=lambda rows: rows.stop - rows.start)

    def blocks(self, weight: Tensor, bias: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Compute the layer's outputs.

        Parameters
        ----------
        weight : Tensor of shape (K, D)
        bias : Tensor of shape (K,)

        Yields
        ------
        start, stop : int
            Rows of the image.
        pixels : Tensor of shape ((stop - start) * W, K)
            Outputs, row by row. They may be overwritten.
        """
        table = self._table(weight, bias)
        for start, stop in self._plan.reads.blocks():
            pixels = self._plan.pixels(table, start, stop)
            for own in self._own:
                pixels.addmm_(own.values[:, self._span(start, stop)].T, weight[:, own.columns].T)
            yield start, stop, pixels

    def _table(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Multiply every cell that is to be resampled: (cells, K)."""
        for single in self._single:
            bias = bias + weight[:, single.columns] @ single.values[:, 0]
        table = weight.new_empty(self._plan.reads.rows[-1].stop, self._width)
        for (first, *others), cells, rows in self._parts:
            torch.mm(first.values[:, cells].T, weight[:, first.columns].T, out=table[rows])
            for m in others:
                table[rows].addmm_(m.values[:, cells].T, weight[:, m.columns].T)
        table[self._smallest] += bias
        return table

    def _span(self, start: int, stop: int) -> slice:
        return slice(start * self._size[1], stop * self._size[1])

    def gradient(self) -> "ProjectionGradient":
        """Begin to sum a gradient."""
        return ProjectionGradient(self)


class ProjectionGradient:
    """The gradient of a loss with respect to the first layer, summed block by block."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        values = projection._levels[0][0].values
        cells = projection._plan.reads.rows[-1].stop
        self._of_table = values.new_zeros(cells, projection._width)
        self._of_own = [
            values.new_zeros(len(own.values), projection._width) for own in projection._own
        ]

    def add(self, pixels: Tensor, start: int, stop: int) -> None:
        """Add what a block has: the gradient ((stop - start) * W, K) of its outputs."""
        projection = self._projection
        projection._plan.add_adjoint(self._of_table, pixels, start, stop)
        for own, gradient in zip(projection._own, self._of_own, strict=True):
            gradient.addmm_(own.values[:, projection._span(start, stop)], pixels)

    def sums(self, channels: int) -> tuple[Tensor, Tensor]:
        """Give the gradients of the weight (K, D) and of the bias (K,)."""
        projection, table = self._projection, self._of_table
        weight = table.new_empty(channels, projection._width)
        for level, cells, rows in projection._parts:
            for m in level:
                torch.mm(m.values[:, cells], table[rows], out=weight[m.columns])
        for own, gradient in zip(projection._own, self._of_own, strict=True):
            weight[own.columns] = gradient
        bias = table[projection._smallest].sum(dim=0)
        for single in projection._single:
            torch.mul(single.values, bias, out=weight[single.columns])
        return weight.T, bias


def _by_size(maps: Sequence[Tensor]) -> dict[Size, list[_Map]]:
    """Sort maps by size, the sizes in the order of their first maps."""
    found: dict[Size, list[_Map]] = {}
    first = 0
    for m in maps:
        part = _Map(m.flatten(1), slice(first, first + len(m)))
        found.setdefault((m.shape[1], m.shape[2]), []).append(part)
        first += len(m)
    return found
