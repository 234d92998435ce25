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
        above, inside_y, count_y = _around(height, window)
        beside, inside_x, count_x = _around(width, window)
        # As in pool, columns are added up first. All of them: the deepest map has not many more
        # cells than its windows around a few pixels.
        columns = _sums(above, inside_y, self._rows.view(height, -1)).view(height * width, -1)
        total = _sums(ys[:, None] * width + beside[xs], inside_x[xs], columns)
        return (total / (count_y[ys] * count_x[xs])).T


@lru_cache(maxsize=64)
def _around(cells: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give the places along an axis that are added up for each place, in the order of adding.

    Those of an axis are few enough to be kept; those of a map are not, with images of many sizes.

    Returns
    -------
    reads : Tensor of int64, shape (cells, k)
    inside : Tensor of float32, shape (cells, k)
        1, or 0 for what lies beyond the border, where another one is read.
    count : Tensor of float32, shape (cells, 1)
        How many of them lie on the axis.
    """
    reach = min(window // 2, cells - 1)
    steps = [0, *(sign * step for step in range(1, reach + 1) for sign in (1, -1))]
    places = torch.arange(cells)[:, None] + torch.tensor(steps)
    inside = ((places >= 0) & (places < cells)).float()
    return places.clamp(0, cells - 1), inside, inside.sum(dim=1, keepdim=True)


def _sums(reads: Tensor, weights: Tensor, rows: Tensor) -> Tensor:
    """Add up weighted rows (., C), one after the other: (n, C) for reads (n, k)."""
    return embedding_bag(reads, rows, per_sample_weights=weights, mode="sum")
