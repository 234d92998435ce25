"""Hypercolumns that a classifier does not hold in memory: some rows of them at a time."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK_BYTES = 1 << 22


class Rows(Protocol):
    """What (n, D) hypercolumns have to offer; arrays do, and so may files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, D)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[np.float32]:
        """Give rows in the order of the index, (k, D)."""


class SomeRows:
    """Some of the rows, in the order of ``chosen``."""

    def __init__(self, rows: Rows, chosen: NDArray[np.int64]) -> None:
        self._rows, self._chosen = rows, chosen
        self.shape = (len(chosen), *rows.shape[1:])

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._rows[self._chosen[index]]


class ScaledRows:
    """Rows as a fitted scaler gives them on."""

    def __init__(self, rows: Rows, scaler: Any) -> None:
        self._rows, self._scaler = rows, scaler
        self.shape = rows.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.asarray(self._scaler.transform(self._rows[index]))


def all_of(rows: Rows) -> NDArray[np.float32]:
    """Read all rows into memory."""
    return rows[np.arange(len(rows))]


def in_blocks(rows: Rows) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Read all rows, some megabytes at a time: which ones, and the rows."""
    at_once = max(1, _BLOCK_BYTES // (4 * rows.shape[1]))
    for start in range(0, len(rows), at_once):
        index = np.arange(start, min(start + at_once, len(rows)))
        yield index, rows[index]
