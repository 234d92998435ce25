"""Bilinear resampling of many channels at once, a few rows of the image at a time.

Every output pixel is a weighted sum of a few cells; the weights are the same for all channels. With
the cells of all maps stacked as the rows of one table ``(cells, K)``, resampling and adding up the
maps is the product of a sparse ``(pixels, cells)`` matrix with that table, and its gradient the
product with the transposed matrix. Bilinear weights are those of the rows times those of the
columns, so either product is done in two steps, each with half the reads: first the rows of all
maps, then the columns. :func:`torch.nn.functional.embedding_bag` computes exactly such products, by
gathering rows, on the CPU and on a GPU. What lies between the steps stays in a CPU's caches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.hypercolumn.geometry import Geometry, axis_reads


class Resampler:
    """The resampling of stacked maps of given sizes onto one image.

    Parameters
    ----------
    cells : sequence of (h, w)
        Sizes of the maps, in the order in which their cells are stacked, row by row.
    size : (H, W)
        The image's size in pixels.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.
    device : torch.device
        Where the tables live.
    height : int
        Rows of the image in one block.
    """

    def __init__(
        self,
        cells: Sequence[tuple[int, int]],
        size: tuple[int, int],
        geometry: Geometry,
        device: torch.device,
        height: int,
    ) -> None:
        self.size, self._device = size, device
        self._height = min(height, size[0])
        self.rows = sum(h * w for h, w in cells)
        self._width = sum(w for _, w in cells)
        reads_y, weights_y, reads_x, weights_x = [], [], [], []
        first = column = 0
        for h, w in cells:
            top, bottom, down = axis_reads(h, size[0], geometry)
            left, right, across = axis_reads(w, size[1], geometry)
            at = first + torch.arange(w)
            reads_y.append(torch.stack([top[:, None] * w + at, bottom[:, None] * w + at], dim=2))
            weights_y.append(torch.stack([1 - down, down], dim=1)[:, None].expand(-1, w, -1))
            reads_x += [column + left, column + right]
            weights_x += [1 - across, across]
            first, column = first + h * w, column + w
        # The rows of an image between the cells' rows: (H, columns of all maps, 2).
        self._reads_y = torch.cat(reads_y, dim=1)
        self._weights_y = torch.cat(weights_y, dim=1).float()
        # The pixels of one such row: (W, 2 * maps); and of all rows of a block.
        one_row = torch.stack(reads_x, dim=1)
        self._columns = one_row, torch.stack(weights_x, dim=1).float()
        self._forward = self._of_block()
        self._adjoint: tuple[_Bags, list[_Bags]] | None = None

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Divide the image: the first row of every block, and the row behind its last."""
        starts = range(0, self.size[0], self._height)
        return ((start, min(start + self._height, self.size[0])) for start in starts)

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Compute the pixels of a block of rows, in row-major order.

        Parameters
        ----------
        table : Tensor of shape (rows, K)
            The stacked cells of all maps.
        start, stop : int
            As :meth:`blocks` gives them.

        Returns
        -------
        Tensor of shape ((stop - start) * W, K)
        """
        reads_y, weights_y, reads_x, weights_x = self._forward
        count = (stop - start) * self.size[1]
        between = _weighted(reads_y[start:stop].flatten(0, 1), weights_y[start:stop], table)
        return _weighted(reads_x[:count], weights_x[:count], between)

    def add_adjoint(self, gradient: Tensor, pixels: Tensor, start: int, stop: int) -> None:
        """Add the product of the transposed matrix with the pixels of a block.

        Parameters
        ----------
        gradient : Tensor of shape (rows, K)
            What is added to.
        pixels : Tensor of shape ((stop - start) * W, K)
        start, stop : int
            As :meth:`blocks` gives them.
        """
        if self._adjoint is None:
            self._adjoint = self._transposed()
        columns, rows = self._adjoint
        of_block = rows[start // self._height]
        between = columns.head((stop - start) * self._width).of(pixels)
        gradient.index_add_(0, of_block.targets, of_block.of(between).to(gradient.dtype))

    def _of_block(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        reads, weights = self._columns
        row = torch.arange(self._height)[:, None, None] * self._width
        reads_x = (reads + row).flatten(0, 1)
        weights_x = weights.repeat(self._height, 1)
        tables = self._reads_y.int(), self._weights_y, reads_x.int(), weights_x
        reads_y, weights_y, reads_x, weights_x = (t.to(self._device) for t in tables)
        return reads_y, weights_y, reads_x, weights_x

    def _transposed(self) -> "tuple[_Bags, list[_Bags]]":
        reads, weights = self._columns
        row = torch.arange(self._height)[:, None, None]
        pixel = row * self.size[1] + torch.arange(self.size[1])[:, None]
        columns = _transpose(
            (reads + row * self._width).flatten(),
            pixel.expand(-1, -1, reads.shape[1]).flatten(),
            weights.repeat(self._height, 1).flatten(),
            torch.arange(self._height * self._width),
        )
        rows = []
        for start, stop in self.blocks():
            cells, weights = self._reads_y[start:stop], self._weights_y[start:stop]
            row_of_cell = torch.arange(cells.shape[0] * cells.shape[1]).reshape(cells.shape[:2])
            bags = _transpose(
                cells.flatten(),
                row_of_cell[..., None].expand_as(cells).flatten(),
                weights.flatten(),
                torch.unique(cells),
            )
            rows.append(bags.to(self._device))
        return columns.to(self._device), rows


@dataclass(frozen=True)
class _Bags:
    """Weighted sums over different numbers of rows.

    Attributes
    ----------
    targets : Tensor of int64, shape (n,)
        What the sums belong to, in rising order.
    first : Tensor of int32, shape (n,)
        Where the reads of each begin.
    reads, weights : Tensor of int32 and float32, shape (m,)
    """

    targets: Tensor
    first: Tensor
    reads: Tensor
    weights: Tensor

    def of(self, rows: Tensor) -> Tensor:
        """Sum rows of (., K): (n, K)."""
        return embedding_bag(
            self.reads,
            rows,
            offsets=self.first,
            per_sample_weights=self.weights.to(rows.dtype),
            mode="sum",
        )

    def head(self, targets: int) -> "_Bags":
        """Give the sums of the targets below a number, where every number is a target."""
        if targets >= len(self.targets):
            return self
        reads = int(self.first[targets])
        return _Bags(
            self.targets[:targets], self.first[:targets], self.reads[:reads], self.weights[:reads]
        )

    def to(self, device: torch.device) -> "_Bags":
        """Move it to a device."""
        parts = self.targets, self.first, self.reads, self.weights
        return _Bags(*(part.to(device) for part in parts))


def _transpose(reads: Tensor, sources: Tensor, weights: Tensor, targets: Tensor) -> _Bags:
    """Turn "source reads target" into sums over sources, for targets in rising order."""
    of_read = torch.searchsorted(targets, reads)
    order = torch.argsort(of_read, stable=True)
    counts = torch.bincount(of_read, minlength=len(targets))
    first = counts.cumsum(0) - counts
    return _Bags(targets, first.int(), sources[order].int(), weights[order])


def _weighted(reads: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    return embedding_bag(
        reads, rows, per_sample_weights=weights.reshape(reads.shape).to(rows.dtype), mode="sum"
    )


@lru_cache(maxsize=32)
def resampler(
    cells: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    geometry: Geometry,
    device: torch.device,
    height: int,
) -> Resampler:
    """Give the :class:`Resampler` of these sizes, from a small memory of recent ones."""
    return Resampler(cells, size, geometry, device, height)
