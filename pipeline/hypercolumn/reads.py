"""Which cells of several maps some rows of an image are read from, and with what weights.

With the cells of all maps stacked as the rows of one table ``(cells, K)``, resampling the maps and
adding them up is the product of a sparse ``(pixels, cells)`` matrix with that table. Bilinear
weights are those of the rows times those of the columns, so the product is done in two steps, each
with half the reads: for a row of the image first the rows of all maps, then their columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pipeline.hypercolumn.geometry import Geometry, axis_reads

Size = tuple[int, int]
Rows = tuple[int, int]
"""The first of some rows, and the row behind the last."""


@dataclass(frozen=True, eq=False)
class Reads:
    """The reads of a strip of an image: of some of its rows, over the whole width.

    Attributes
    ----------
    strip : (start, stop)
        Rows of the image.
    width : int
        W, the pixels of a row.
    spans : tuple of slice
        For each map the cells that the strip reads, which lie one after the other in it, row by
        row. They are what the table is made of.
    rows : tuple of slice
        The rows of the table that belong to each map.
    first : Tensor of int64, shape (maps + 1,)
        Where the columns of each map begin in a row of all maps, and how many columns it has.
    down : Tensor of int64, shape (strip rows, maps, 2)
        The rows of the table that hold the first cells of the two rows of each map.
    down_weights : Tensor of float32, shape (strip rows, maps, 2)
    across : Tensor of int64, shape (W, maps, 2)
        The two columns of each map, in a row of all maps.
    across_weights : Tensor of float32, shape (W, maps, 2)
    """

    strip: Rows
    width: int
    spans: tuple[slice, ...]
    rows: tuple[slice, ...]
    first: Tensor
    down: Tensor
    down_weights: Tensor
    across: Tensor
    across_weights: Tensor

    @classmethod
    def of(cls, cells: Sequence[Size], size: Size, geometry: Geometry, strip: Rows) -> "Reads":
        """Find them.

        Parameters
        ----------
        cells : sequence of (h, w)
            Sizes of the maps.
        size : (H, W)
            The image's size in pixels.
        geometry : {"half_pixel", "align_corners"}
            How maps lie on the image.
        strip : (start, stop)
            Rows of the image.
        """
        spans, rows = [], []
        down, down_weights, across, across_weights = [], [], [], []
        row = column = 0
        for h, w in cells:
            top, bottom, below = (
                reads[slice(*strip)] for reads in axis_reads(h, size[0], geometry)
            )
            left, right, beyond = axis_reads(w, size[1], geometry)
            begin, end = int(top[0]), int(bottom[-1]) + 1
            spans.append(slice(begin * w, end * w))
            rows.append(slice(row, row + (end - begin) * w))
            down.append(row + (torch.stack([top, bottom], dim=1) - begin) * w)
            down_weights.append(torch.stack([1 - below, below], dim=1))
            across.append(column + torch.stack([left, right], dim=1))
            across_weights.append(torch.stack([1 - beyond, beyond], dim=1))
            row, column = rows[-1].stop, column + w
        return cls(
            strip,
            size[1],
            tuple(spans),
            tuple(rows),
            torch.tensor([0, *(w for _, w in cells)]).cumsum(0),
            torch.stack(down, dim=1),
            torch.stack(down_weights, dim=1).float(),
            torch.stack(across, dim=1),
            torch.stack(across_weights, dim=1).float(),
        )

    @property
    def columns(self) -> int:
        """Columns of all maps."""
        return int(self.first[-1])

    def pixels(self, start: int, stop: int) -> slice:
        """Give the pixels of some rows of the image, among those of the strip."""
        return slice((start - self.strip[0]) * self.width, (stop - self.strip[0]) * self.width)

    def blocks(self, height: int) -> Iterator[Rows]:
        """Divide the strip into blocks of rows, the last of which may be lower than the others."""
        start, stop = self.strip
        return ((at, min(at + height, stop)) for at in range(start, stop, height))


# The images of a data set are of few sizes, if they are resized.
reads_of = lru_cache(maxsize=32)(Reads.of)
