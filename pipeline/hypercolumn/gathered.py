"""Resampling by gathering rows, on any device and in any dtype.

:func:`torch.nn.functional.embedding_bag` sums rows of a table with weights, which is the product
with a sparse matrix. The transposed product gathers as well: what adds to rows from many sides at
once, as a GPU does, adds in an order that depends on chance.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.hypercolumn.reads import Reads, Rows


class GatheringResampler:
    """Resamples the cells of a strip of an image, a block of its rows at a time.

    Parameters
    ----------
    reads : Reads
    height : int
        How many rows are in one block, at most.
    device : torch.device
        Where its tables live.
    """

    def __init__(self, reads: Reads, height: int, device: torch.device) -> None:
        self.reads, self._device = reads, device
        self._height = height = min(height, reads.strip[1] - reads.strip[0])
        bounds = reads.first.tolist()
        self._columns = bounds[-1]
        down, weights = [], []
        for m, (first, last) in enumerate(pairwise(bounds)):
            columns = torch.arange(last - first)[:, None]
            down.append(reads.down[:, m, None] + columns)
            weights.append(reads.down_weights[:, m, None].expand(-1, last - first, -1))
        # A row of all maps: (strip rows, columns, 2); the pixels of a block: (height * W, 2 maps).
        self._down = torch.cat(down, dim=1), torch.cat(weights, dim=1)
        row = torch.arange(height)[:, None, None] * self._columns
        self._across = (
            (row + reads.across.flatten(1)).flatten(0, 1),
            reads.across_weights.flatten(1).repeat(height, 1),
        )
        pairs = self._down, self._across
        self._forward = [(at.int().to(device), of.to(device)) for at, of in pairs]
        self._adjoint: tuple[_Bags, list[_Bags]] | None = None

    def blocks(self) -> Iterator[Rows]:
        """Divide the strip: the first row of every block, and the row behind its last."""
        return self.reads.blocks(self._height)

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Compute the pixels of a block, in row-major order.

        Parameters
        ----------
        table : Tensor of shape (cells, K)
            The cells of all maps that the strip reads.
        start, stop : int
            A block.

        Returns
        -------
        Tensor of shape ((stop - start) * W, K)
        """
        (down, down_weights), (across, across_weights) = self._forward
        rows = slice(start - self.reads.strip[0], stop - self.reads.strip[0])
        count = (stop - start) * self.reads.width
        between = _weighted(down[rows].flatten(0, 1), down_weights[rows].flatten(0, 1), table)
        return _weighted(across[:count], across_weights[:count], between)

    def add_adjoint(self, table: Tensor, pixels: Tensor, start: int, stop: int) -> None:
        """Add the product of the transposed matrix with the pixels of a block to the table."""
        if self._adjoint is None:
            self._adjoint = self._transposed()
        across, down = self._adjoint
        of_block = down[(start - self.reads.strip[0]) // self._height]
        between = across.head((stop - start) * self._columns).of(pixels)
        table.index_add_(0, of_block.targets, of_block.of(between).to(table.dtype))

    def _transposed(self) -> "tuple[_Bags, list[_Bags]]":
        height, first_row = self._height, self.reads.strip[0]
        reads, weights = self._across
        pixel = torch.arange(len(reads))[:, None].expand_as(reads)
        across = _transpose(reads, pixel, weights, torch.arange(height * self._columns))
        down = []
        for start, stop in self.blocks():
            reads, weights = (part[start - first_row : stop - first_row] for part in self._down)
            place = torch.arange((stop - start) * self._columns).reshape(*reads.shape[:2], 1)
            bags = _transpose(reads, place.expand_as(reads), weights, torch.unique(reads))
            down.append(bags.to(self._device))
        return across.to(self._device), down


# One of them is wanted again for every image of the same size.
gathering = lru_cache(maxsize=32)(GatheringResampler)


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
    of_read = torch.searchsorted(targets, reads.flatten())
    order = torch.argsort(of_read, stable=True)
    counts = torch.bincount(of_read, minlength=len(targets))
    first = counts.cumsum(0) - counts
    return _Bags(targets, first.int(), sources.flatten()[order].int(), weights.flatten()[order])


def _weighted(reads: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    return embedding_bag(reads, rows, per_sample_weights=weights.to(rows.dtype), mode="sum")
