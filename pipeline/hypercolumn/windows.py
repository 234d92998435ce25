"""Context taps of which only single cells are read: what a pixel sample needs of them.

:meth:`~pipeline.hypercolumn.features.Features.pool` gives whole maps, of which a few pixels read a
few cells. Here only those are pooled, from the same sums in the same order.
"""

from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.hypercolumn.columns import Cells
from pipeline.hypercolumn.features import Features, window_sum


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
        # As in pool, columns are added up first. All of them: the deepest map has not many more
        # cells than its windows around a few pixels.
        columns = window_sum(self._rows.view(height, -1), 0, window).view(height * width, -1)
        reads, inside = _around(xs, width, window)
        total = embedding_bag(
            ys[:, None] * width + reads, columns, per_sample_weights=inside, mode="sum"
        )
        count = _count(ys, height, window) * _count(xs, width, window)
        return (total / count[:, None]).T


def _around(places: Tensor, cells: int, window: int) -> tuple[Tensor, Tensor]:
    """Give the places on an axis that are added up for each of n places, in the order of adding.

    They are not kept for the whole map: with images of many sizes that would be gigabytes.

    Returns
    -------
    reads : Tensor of int64, shape (n, l)
    inside : Tensor of float32, shape (n, l)
        1, or 0 for what lies beyond the border, where another one is read.
    """
    reach = min(window // 2, cells - 1)
    steps = [0, *(sign * step for step in range(1, reach + 1) for sign in (1, -1))]
    wanted = places[:, None] + torch.tensor(steps)
    reads = wanted.clamp(0, cells - 1)
    return reads, (reads == wanted).float()


def _count(places: Tensor, cells: int, window: int) -> Tensor:
    """Say how many places of the window around each of n lie on the axis, (n,)."""
    reach = window // 2
    return (places + reach).clamp(max=cells - 1) - (places - reach).clamp(min=0) + 1
