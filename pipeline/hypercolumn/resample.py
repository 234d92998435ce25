"""Bilinear resampling of many channels at once, as one sparse matrix.

Every output pixel is a weighted sum of a few cells; the weights are the same for all channels. With
the cells of all maps stacked as the rows of one table ``(cells, K)``, resampling and adding up the
taps is the product of a sparse ``(pixels, cells)`` matrix with that table, and its gradient the
product with the transposed matrix. :func:`torch.nn.functional.embedding_bag` computes exactly such
products, by gathering rows, on the CPU and on a GPU.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.hypercolumn.geometry import Geometry, corner_reads


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
    """

    def __init__(
        self,
        cells: Sequence[tuple[int, int]],
        size: tuple[int, int],
        geometry: Geometry,
        device: torch.device,
    ) -> None:
        self.size = size
        self.rows = sum(h * w for h, w in cells)
        reads, weights = [], []
        first = 0
        for h, w in cells:
            top, bottom, down, left, right, across = corner_reads((h, w), size, geometry)
            for y, vertical in ((top, 1 - down), (bottom, down)):
                for x, horizontal in ((left, 1 - across), (right, across)):
                    reads.append((first + y[:, None] * w + x).flatten())
                    weights.append((vertical[:, None] * horizontal).flatten())
            first += h * w
        self._cells = torch.stack(reads, dim=1).int().to(device)  # (H*W, 4 * maps)
        self._weights = torch.stack(weights, dim=1).float().to(device)
        self._adjoint: tuple[Tensor, Tensor, Tensor] | None = None

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Compute the pixels ``start`` to ``stop``, in row-major order.

        Parameters
        ----------
        table : Tensor of shape (rows, K)
            The stacked cells of all maps.

        Returns
        -------
        Tensor of shape (stop - start, K)
        """
        weights = self._weights[start:stop].to(table.dtype)
        return embedding_bag(self._cells[start:stop], table, per_sample_weights=weights, mode="sum")

    def adjoint(self, pixels: Tensor, scale: Tensor) -> Tensor:
        """Compute the product of the transposed matrix with ``pixels`` (H*W, K): (rows, K).

        It is multiplied by ``scale``, a tensor of one value, in passing.
        """
        if self._adjoint is None:
            self._adjoint = self._transpose()
        reads, first, weights = self._adjoint
        return embedding_bag(
            reads,
            pixels,
            offsets=first,
            per_sample_weights=(weights * scale).to(pixels.dtype),
            mode="sum",
        )

    def _transpose(self) -> tuple[Tensor, Tensor, Tensor]:
        cells = self._cells.flatten().long()
        order = torch.argsort(cells, stable=True)
        counts = torch.bincount(cells, minlength=self.rows)
        first = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
        reads = torch.div(order, self._cells.shape[1], rounding_mode="floor")
        return reads.int(), first.int(), self._weights.flatten()[order]


@lru_cache(maxsize=32)
def resampler(
    cells: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    geometry: Geometry,
    device: torch.device,
) -> Resampler:
    """Give the :class:`Resampler` of these sizes, from a small memory of recent ones."""
    return Resampler(cells, size, geometry, device)
