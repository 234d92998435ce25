"""How a long run tells what it does: the library speaks to this, the command line draws it."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What stages report to."""

    def say(self, text: str) -> None:
        """Take a line of text worth reading."""
        ...

    def track(self, items: Iterable[T], *, total: int, unit: str, what: str) -> Iterable[T]:
        """Pass ``items`` on while showing how many of ``total`` have been done."""
        ...


class Silent:
    """Shows nothing; what library calls use unless told otherwise."""

    def say(self, text: str) -> None:
        """Drop the text."""

    def track(self, items: Iterable[T], *, total: int, unit: str, what: str) -> Iterable[T]:
        """Pass ``items`` on."""
        del total, unit, what
        return items
