"""What stage two makes of the cached maps before it reads hypercolumns from them.

The cache holds every tap before its ReLU. Which taps are used, whether the ReLU is applied (to the
map, *before* resampling: the two do not commute) and which context taps are added is decided here,
so that one cache serves every choice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from torch import Tensor


class Features(BaseModel):
    """A choice of taps, activation and context.

    Attributes
    ----------
    activation : {"relu", "none"}
        Applied to every map before anything else.
    context : tuple of str
        Pooled copies of the deepest used map, appended in this order: ``"global"`` is its mean over
        the whole image, an odd number ``"3"`` its mean over windows of 3x3 cells around each cell
        (zoom-out features, Mostajabi et al., CVPR 2015). Cells outside the map do not count.
    taps : tuple of str
        Names of the taps to use; empty for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    activation: Literal["relu", "none"] = "relu"
    context: tuple[str, ...] = ("global", "3", "5")
    taps: tuple[str, ...] = ()

    @field_validator("context")
    @classmethod
    def _context_is_known(cls, context: tuple[str, ...]) -> tuple[str, ...]:
        for scope in context:
            if scope != "global" and not (re.fullmatch(r"[1-9]\d{0,5}", scope) and int(scope) % 2):
                raise ValueError(
                    f"'{scope}' is not a context: give 'global' or an odd number of cells"
                )
        return context

    def select(self, names: Sequence[str]) -> list[int]:
        """Give the positions of the used taps among ``names``.

        Raises
        ------
        ParamsError
            If a tap is asked for that is not in ``names``.
        """
        unknown = [tap for tap in self.taps if tap not in names]
        if unknown:
            raise ParamsError(f"no tap '{unknown[0]}' in this cache; it has {', '.join(names)}")
        return [names.index(tap) for tap in self.taps or names]

    def channels(self, names: Sequence[str], channels: Sequence[int]) -> list[int]:
        """Give the channels of every map that :meth:`apply` returns; their sum is D."""
        used = [channels[i] for i in self.select(names)]
        return used + [used[-1]] * len(self.context)

    def apply(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Turn the used maps of one image into the maps that hypercolumns are read from.

        Parameters
        ----------
        maps : sequence of Tensor, each (C_t, h_t, w_t)
            The used taps' maps, before ReLU, in the order of :meth:`select`.

        Returns
        -------
        list of Tensor
            The activated maps, then one map per context scope: (C, 1, 1) for ``"global"``,
            (C, h, w) for a window.
        """
        used = [self.activate(m) for m in maps]
        return used + self.context_maps(used[-1])

    def activate(self, values: Tensor) -> Tensor:
        """Apply the activation to values of any shape."""
        return values.relu() if self.activation == "relu" else values

    def context_maps(self, deepest: Tensor) -> list[Tensor]:
        """Pool the deepest used map, (C, h, w) and activated, once for every context scope."""
        return [self._pool(deepest, scope) for scope in self.context]

    @staticmethod
    def _pool(deepest: Tensor, scope: str) -> Tensor:
        if scope == "global":
            return deepest.mean(dim=(1, 2), keepdim=True)
        total, count = (
            _window_sum(_window_sum(values, 1, int(scope)), 2, int(scope))
            for values in (deepest, deepest.new_ones(deepest[:1].shape))
        )
        return total / count


def _window_sum(values: Tensor, dim: int, window: int) -> Tensor:
    """Sum windows around each cell along a dimension; beyond the border lie zeros.

    Cell by cell the terms are added in one order, so that no bit depends on threads.
    """
    reach, cells = window // 2, values.shape[dim]
    total = values.clone()
    for step in range(1, min(reach, cells - 1) + 1):
        total.narrow(dim, 0, cells - step).add_(values.narrow(dim, step, cells - step))
        total.narrow(dim, step, cells - step).add_(values.narrow(dim, 0, cells - step))
    return total
