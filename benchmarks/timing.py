"""Measuring in turns: every contender once per round, so that a busy moment meets all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median, the quartiles around it, and of how many values they are."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Sum values up."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))

    def times(self, factor: float) -> "Spread":
        """Give the same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.count)


@dataclass(frozen=True)
class Took:
    """What a contender returns that has measured itself."""

    seconds: float


def in_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Measure the seconds of every contender, A B C A B C and so on.

    Parameters
    ----------
    contenders : mapping of name to callable
        A call is one measurement; of one that returns :class:`Took`, what it says.
    rounds : int
        Measurements of each.
    warm_up : int
        Rounds before, which do not count.

    Returns
    -------
    dict of name to list of float
        Seconds, one value per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for nth in range(warm_up + rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            own = call()
            took = own.seconds if isinstance(own, Took) else time.perf_counter() - start
            if nth >= warm_up:
                seconds[name].append(took)
    return seconds


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Compare two contenders round by round."""
    pairs = zip(numerators, denominators, strict=True)
    return Spread.of([above / below for above, below in pairs])


def fastest(seconds: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Name the contender with the least median."""
    return min(names, key=lambda name: statistics.median(seconds[name]))
