"""The head's first layer on a strip of an image, up to where the pixels begin.

Every map is multiplied at its own size and the results are resampled and added. Three kinds of
maps need no resampling: those of the image's own size are multiplied where the pixels are at hand;
those of a single cell are the same for all pixels, as is the bias. A pixel reads each map with
weights that sum to one, so what is the same for all is added to the cells of the smallest map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.reads import Reads, Rows, Size, reads_of

Multiply = Callable[[Tensor, Tensor, Tensor, bool], None]
"""Puts the product of cells (C, n) and a weight (K, C) into the first K columns of a table (n, .),
or adds it to what is there."""


@dataclass(frozen=True)
class Map:
    """A map, and where its part of the weight lies.

    Attributes
    ----------
    values : Tensor of shape (C, h * w)
        Of a map with its channels last in memory, the transpose of what lies there.
    columns : slice
        Of the weight.
    """

    values: Tensor
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

    Attributes
    ----------
    reads : Reads
        How the pixels are read from the table.
    own : list of Map
        Maps of the image's size, of which the strip's part is multiplied at its pixels.
    """

    def __init__(self, maps: Sequence[Tensor], size: Size, geometry: Geometry, strip: Rows) -> None:
        levels = _by_size(maps)
        self._single = levels.pop((1, 1), []) if len(levels) > 1 else []
        own = levels.pop(size, []) if len(levels) > 1 else []
        pixels = slice(strip[0] * size[1], strip[1] * size[1])
        self.own = [Map(m.values[:, pixels], m.columns) for m in own]
        self.reads: Reads = reads_of(tuple(levels), size, geometry, strip)
        self._parts = list(zip(levels.values(), self.reads.spans, self.reads.rows, strict=True))
        self._smallest = min(self.reads.rows, key=lambda rows: rows.stop - rows.start)
        self._channels = sum(map(len, maps))

    def table(
        self, weight: Tensor, bias: Tensor, width: int, multiply: Multiply | None = None
    ) -> Tensor:
        """Multiply every cell that is to be resampled.

        Parameters
        ----------
        weight : Tensor of shape (K, D)
        bias : Tensor of shape (K,)
        width : int
            Columns of the table, K or more; what is in the others is zero.
        multiply : optional
            What computes the products; by default torch does.

        Returns
        -------
        Tensor of shape (cells, width)
        """
        multiply = multiply or _multiply
        for single in self._single:
            bias = bias + weight[:, single.columns] @ single.values[:, 0]
        table = weight.new_empty(self.reads.rows[-1].stop, width)
        table[:, len(weight) :] = 0
        for level, span, rows in self._parts:
            for n, m in enumerate(level):
                multiply(m.values[:, span], weight[:, m.columns], table[rows], n > 0)
        table[self._smallest, : len(weight)] += bias
        return table

    def gradient(self, of_table: Tensor, of_own: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Turn gradients of what this gives into those of the layer's parameters.

        Parameters
        ----------
        of_table : Tensor of shape (cells, K)
        of_own : sequence of Tensor, each (C, K)
            Of the parts of the weight, transposed, that belong to :attr:`own`.

        Returns
        -------
        weight : Tensor of shape (K, D)
        bias : Tensor of shape (K,)
        """
        weight = of_table.new_empty(of_table.shape[1], self._channels)
        for level, span, rows in self._parts:
            for m in level:
                torch.mm(of_table[rows].T, m.values[:, span].T, out=weight[:, m.columns])
        for own, part in zip(self.own, of_own, strict=True):
            weight[:, own.columns] = part.T
        bias = of_table[self._smallest].sum(dim=0)
        for single in self._single:
            torch.mul(bias[:, None], single.values[:, 0], out=weight[:, single.columns])
        return weight, bias


def _multiply(cells: Tensor, weight: Tensor, table: Tensor, adds: bool) -> None:
    """See :data:`Multiply`."""
    out = table[:, : len(weight)]
    if adds:
        out.addmm_(cells.T, weight.T)
    else:
        torch.mm(cells.T, weight.T, out=out)


def _by_size(maps: Sequence[Tensor]) -> dict[Size, list[Map]]:
    """Sort maps by size, the sizes in the order of their first maps."""
    found: dict[Size, list[Map]] = {}
    first = 0
    for m in maps:
        last = m.permute(1, 2, 0)
        values = last.flatten(0, 1).T if last.is_contiguous() else m.flatten(1)
        part = Map(values, slice(first, first + len(m)))
        found.setdefault((m.shape[1], m.shape[2]), []).append(part)
        first += len(m)
    return found
