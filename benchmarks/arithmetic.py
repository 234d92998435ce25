"""What a head's multiplications take at the least: their number at the rate of torch.mm."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.timing import fastest


def layer_flops(maps: Sequence[Tensor], pixels: int, widths: Sequence[int]) -> list[int]:
    """Count the floating-point operations of each layer of a head on one image, forward.

    Parameters
    ----------
    maps : sequence of Tensor, each (C_t, h_t, w_t)
        What hypercolumns are read from; the first layer is applied to each at its own size.
    pixels : int
        Of the image.
    widths : sequence of int
        Outputs of each layer.
    """
    first = sum(2 * m.numel() * widths[0] for m in maps)
    return [first, *(2 * pixels * inputs * outputs for inputs, outputs in pairwise(widths))]


def products(maps: Sequence[Tensor], width: int) -> dict[str, Callable[[], Tensor]]:
    """Give a contender for each shape of a projection: cells, channels, outputs."""
    shapes = dict.fromkeys((m.shape[1] * m.shape[2], m.shape[0], width) for m in maps)
    return {f"mm {m}x{k}x{n}": _product(m, k, n) for m, k, n in shapes}


@dataclass(frozen=True)
class Rate:
    """The best of the products.

    Attributes
    ----------
    name : str
        Which it was.
    seconds_per_flop : list of float
        One value per round.
    """

    name: str
    seconds_per_flop: list[float]

    def floor(self, flops: float) -> list[float]:
        """Give the seconds that so many operations take, one value per round."""
        return [seconds * flops for seconds in self.seconds_per_flop]


def best_rate(seconds: Mapping[str, Sequence[float]]) -> Rate:
    """Find the fastest of the products among what was measured."""
    per_flop = {
        name: [s / (2 * math.prod(map(int, name.removeprefix("mm ").split("x")))) for s in values]
        for name, values in seconds.items()
        if is_product(name)
    }
    best = fastest(per_flop, list(per_flop))
    return Rate(best, per_flop[best])


def is_product(name: str) -> bool:
    """Tell whether a contender is one of :func:`products`."""
    return name.startswith("mm ")


def _product(m: int, k: int, n: int) -> Callable[[], Tensor]:
    left, right, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    return partial(torch.mm, left, right, out=out)
