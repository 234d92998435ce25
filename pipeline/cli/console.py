"""What a person sees of a long run: lines of text and a bar, on stderr."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import click
from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")


class _Rate(ProgressColumn):
    """Items per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s")


class Console:
    """A :class:`pipeline.progress.Progress` that draws a bar where stderr is a terminal.

    Elsewhere, in a log, every finished task leaves a line.
    """

    def __init__(self) -> None:
        self._terminal = Terminal(stderr=True)

    def say(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def track(self, items: Iterable[T], *, total: int, unit: str, what: str) -> Iterator[T]:
        """Pass items on while showing rate and time left."""
        if not total:
            return
        start = time.monotonic()
        done = 0
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
            console=self._terminal,
            transient=True,
            disable=not self._terminal.is_terminal,
        )
        with bar:
            task = bar.add_task(what, total=total)
            for item in items:
                yield item
                done += 1
                bar.advance(task)
        seconds = max(time.monotonic() - start, 1e-9)
        self.say(f"{what}: {done} {unit} in {seconds:.1f} s ({done / seconds:.1f} {unit}/s)")
