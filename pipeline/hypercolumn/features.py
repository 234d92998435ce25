"""What stage two makes of the cached maps before it reads hypercolumns from them.

The cache holds every tap before its ReLU. Which taps are used, whether the ReLU is applied (to the
map, *before* resampling: the two do not commute) and which context taps are added is decided here,
so that one cache serves every choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from torch import Tensor

_CONTEXT = re.compile(r"(?:(?P<tap>.+):)?(?P<scope>global|[1-9]\d{0,5})", re.DOTALL)


class Features(BaseModel):
    """A choice of taps, activation and context.

    Attributes
    ----------
    activation : {"relu", "none"}
        Applied to every map before anything else.
    context : tuple of str
        Pooled copies of used maps, appended in this order (zoom-out features, Mostajabi et al.,
        CVPR 2015): ``"fire5:global"`` is the mean of the tap fire5 over the whole image,
        ``"fire5:3"`` its mean over windows of 3x3 cells around each cell, and any other odd number
        likewise. Without a tap's name it is the deepest used one. Cells outside the map do not
        count.
    taps : tuple of str
        Names of the taps to use; empty for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    activation: Literal["relu", "none"] = "relu"
    context: tuple[str, ...] = Field(default=("global", "3", "5"), max_length=100)
    taps: tuple[str, ...] = ()

    @field_validator("context")
    @classmethod
    def _context_is_known(cls, context: tuple[str, ...]) -> tuple[str, ...]:
        for one in context:
            parts = _CONTEXT.fullmatch(one)
            if not parts or (parts["scope"] != "global" and int(parts["scope"]) % 2 == 0):
                raise ValueError(
                    f"'{one}' is not a context: give 'global' or an odd number of cells, "
                    "after 'TAP:' if it is not the deepest tap's"
                )
        return context

    def select(self, names: Sequence[str]) -> list[int]:
        """Give the positions of the used taps among ``names``.

        Raises
        ------
        ParamsError
            If a tap is asked for that is not in ``names``, or the context of one that is not used.
        """
        unknown = [tap for tap in self.taps if tap not in names]
        if unknown:
            raise ParamsError(f"no tap '{unknown[0]}' in this cache; it has {', '.join(names)}")
        used = self.taps or names
        for tap, scope in self._scopes():
            if tap is not None and tap not in used:
                raise ParamsError(
                    f"no tap '{tap}' to take the context '{tap}:{scope}' of; "
                    f"used are {', '.join(used)}"
                )
        return [names.index(tap) for tap in used]

    def channels(self, names: Sequence[str], channels: Sequence[int]) -> list[int]:
        """Give the channels of every map that :meth:`apply` returns; their sum is D."""
        places = self.select(names)
        used = [channels[i] for i in places]
        return used + [used[i] for i, _ in self.pools([names[i] for i in places])]

    def apply(self, maps: Sequence[Tensor], taps: Sequence[str]) -> list[Tensor]:
        """Turn the used maps of one image into the maps that hypercolumns are read from.

        Parameters
        ----------
        maps : sequence of Tensor, each (C_t, h_t, w_t)
            The used taps' maps, before ReLU, in the order of :meth:`select`.
        taps : sequence of str
            Their names.

        Returns
        -------
        list of Tensor
            The activated maps, then one map per context: (C, 1, 1) for a whole image, (C, h, w)
            for windows.
        """
        used = [self.activate(m) for m in maps]
        return used + [self.pool(used[i], scope) for i, scope in self.pools(taps)]

    def activate(self, values: Tensor) -> Tensor:
        """Apply the activation to values of any shape."""
        return values.relu() if self.activation == "relu" else values

    def pools(self, taps: Sequence[str]) -> list[tuple[int, str]]:
        """Say what every context is made of.

        Parameters
        ----------
        taps : sequence of str
            Names of the used taps, in the order of :meth:`select`.

        Returns
        -------
        list of (int, str)
            For each context the position of its tap and the scope that :meth:`pool` takes.
        """
        return [
            (len(taps) - 1 if tap is None else taps.index(tap), scope)
            for tap, scope in self._scopes()
        ]

    def _scopes(self) -> Iterator[tuple[str | None, str]]:
        """Give the tap, None for the deepest, and the scope of every context."""
        for context in self.context:
            tap, _, scope = context.rpartition(":")
            yield tap or None, scope

    @staticmethod
    def pool(values: Tensor, scope: str) -> Tensor:
        """Pool a used map, (C, h, w) and activated, over ``"global"`` or windows of so many cells.

        It stays at its own size, or becomes a single cell: nothing is enlarged.
        """
        if scope == "global":
            return values.mean(dim=(1, 2), keepdim=True)
        total, count = (
            _window_sum(_window_sum(summed, 1, int(scope)), 2, int(scope))
            for summed in (values, values.new_ones(values[:1].shape))
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
