"""What has been tried in a session, to be told at its end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Strike:
    """A signal that hit a run.

    Attributes
    ----------
    how : str
        ``killed`` or ``interrupted``.
    scenario : str
    module : str
        The module of the package it hit; empty where it came from outside, by the clock.
    writing : bool
        Whether a file was left half-written.
    """

    how: str
    scenario: str
    module: str
    writing: bool


STRIKES: list[Strike] = []


def summary() -> Iterator[str]:
    """Put the strikes into a few lines."""
    for how in sorted({strike.how for strike in STRIKES}):
        hits = [strike for strike in STRIKES if strike.how == how]
        clock = sum(not strike.module for strike in hits)
        half = sum(strike.writing for strike in hits)
        yield f"{how}: {len(hits)}, {clock} of them by the clock; {half} left a half-written file"
        for what, names in (
            ("scenarios", Counter(strike.scenario for strike in hits)),
            ("modules", Counter(strike.module for strike in hits if strike.module)),
        ):
            yield f"  {what}: {', '.join(f'{name} {n}' for name, n in names.most_common())}"
