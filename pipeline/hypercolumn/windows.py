"""Context taps of which only single cells are read: what a pixel sample needs of them.

:meth:`~pipeline.hypercolumn.features.Features.pool` gives whole maps, of which a few pixels read a
few cells. Here only those are pooled, from the same sums in the same order.
"""

from functools import cached_property, lru_cache, partial

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.hypercolumn.columns import Cells
from pipeline.hypercolumn.features import Features


class PooledCells:
    """The context taps of one map.

    Parameters
    ----------
    values : Tensor of float32, shape (C, h, w)
        The activated map.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values

    def of(self, scope: str) -> Cells:
        """Give the context that :meth:`Features.pool` takes the same scope for."""
        if scope == "global":
            mean = Features.pool(self._values, scope)
            return Cells((1, 1), lambda ys, xs: mean[:, :, 0].expand(-1, len(ys)))
        height, width = self._values.shape[1:]
        return Cells((height, width), partial(self._means, int(scope)))

    @cached_property
    def _rows(self) -> Tensor:
        """The values of each cell side by side, (h * w, C)."""
        return self._values.flatten(1).T.contiguous()

    def _means(self, window: int, ys: Tensor, xs: Tensor) -> Tensor:
        """Give the means (C, n) of the windows around n cells."""
        height, width = self._values.shape[1:]
        reads_y, inside_y, reads_x, inside_x, count = _reads((height, width), window)
        # As in pool, columns are added up first. All of them: the deepest map has not many more
        # cells than its windows around a few pixels.
        columns = _sums(reads_y, inside_y, self._rows)
        cells = ys * width + xs
        total = _sums(reads_x[cells], inside_x[cells], columns)
        return (total / count[cells]).T


@lru_cache(maxsize=64)
def _reads(size: tuple[int, int], window: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give the cells that are added up for each cell of a map, in the order of adding.

    Returns
    -------
    reads_y, inside_y : Tensor of int64 and of float32, shape (h * w, k)
        The cells of a column; 1, or 0 for what lies beyond the border, where another one is read.
    reads_x, inside_x : Tensor of int64 and of float32, shape (h * w, l)
        The cells of a row, likewise.
    count : Tensor of float32, shape (h * w, 1)
        How many cells of the window lie on the map.
    """
    height, width = size
    above, inside_y = _along(height, window)
    beside, inside_x = _along(width, window)
    ys, xs = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    inside_y, inside_x = inside_y[ys], inside_x[xs]
    count = inside_y.sum(dim=1, keepdim=True) * inside_x.sum(dim=1, keepdim=True)
    reads_y, reads_x = above[ys] * width + xs[:, None], ys[:, None] * width + beside[xs]
    return reads_y, inside_y, reads_x, inside_x, count


def _along(cells: int, window: int) -> tuple[Tensor, Tensor]:
    """Give the places along an axis that are added up for each place, (cells, k)."""
    reach = min(window // 2, cells - 1)
    steps = [0, *(sign * step for step in range(1, reach + 1) for sign in (1, -1))]
    places = torch.arange(cells)[:, None] + torch.tensor(steps)
    return places.clamp(0, cells - 1), ((places >= 0) & (places < cells)).float()


def _sums(reads: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """Add up weighted rows (., C), one after the other: (n, C) for reads (n, k)."""
    return embedding_bag(reads, rows, per_sample_weights=weights, mode="sum")
