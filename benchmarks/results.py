"""What a benchmark found: rows of figures with their goals, as a table, JSON and a picture."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.machine import in_a_line
from benchmarks.timing import Spread
from pipeline.reporting.style import INK, QUIET, SERIES, drawing
from pipeline.wholefile import write_whole

Unit = Literal["x", "ms", "s", "MB", "%", "images/s", "GFLOP/s", "difference"]


@dataclass(frozen=True)
class Goal:
    """A bound that a figure must keep, ``"<="`` or ``">="``."""

    sense: Literal["<=", ">="]
    limit: float

    def is_met(self, value: float) -> bool:
        """Tell whether a value keeps it."""
        return value <= self.limit if self.sense == "<=" else value >= self.limit

    def __str__(self) -> str:
        return f"{'at most' if self.sense == '<=' else 'at least'} {self.limit:.4g}"


def at_most(limit: float) -> Goal:
    """Bound a figure from above."""
    return Goal("<=", limit)


def at_least(limit: float) -> Goal:
    """Bound a figure from below."""
    return Goal(">=", limit)


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes
    ----------
    what : str
    unit : str
        ``"x"`` for a ratio.
    value : Spread or None
        None if it was not measured.
    goal : Goal or None
    note : str
        Why it was not measured, or what else there is to say.
    """

    what: str
    unit: Unit
    value: Spread | None
    goal: Goal | None = None
    note: str = ""

    @classmethod
    def exact(
        cls, what: str, unit: Unit, value: float, goal: Goal | None = None, note: str = ""
    ) -> "Row":
        """Make a row of a figure that has no spread."""
        return cls(what, unit, Spread.of([value]), goal, note)

    @classmethod
    def unmeasured(cls, what: str, reason: str, goal: Goal | None = None) -> "Row":
        """Make a row that says why there is no figure."""
        return cls(what, "x", None, goal, f"not measured: {reason}")

    @property
    def reached(self) -> str:
        """Say whether the goal was reached."""
        if self.goal is None:
            return ""
        if self.value is None:
            return "not measured"
        return "yes" if self.goal.is_met(self.value.median) else "no"

    @property
    def text(self) -> str:
        """Give the figure with its quartiles."""
        if self.value is None:
            return "-"
        value = f"{number(self.value.median)} {self.unit}"
        if self.value.count > 1:
            value += f" ({number(self.value.low)} to {number(self.value.high)})"
        return value


@dataclass
class Result:
    """What one benchmark found.

    Attributes
    ----------
    name : str
        The benchmark's module.
    title : str
    machine : dict
        See :func:`benchmarks.machine.machine`.
    settings : dict
        Scale, rounds and sizes.
    rows : list of Row
    notes : list of str
        What is to be known to read the figures.
    """

    name: str
    title: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Give the rows as a table in Markdown."""
        lines = [f"# {self.title}", "", f"{in_a_line(self.machine)}.", ""]
        chosen = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines += [f"Medians with quartiles, in turns, after warm-up: {chosen}.", ""]
        lines += ["| what | figure | goal | reached | |", "|---|---|---|---|---|"]
        for row in self.rows:
            cells = (row.what, row.text, row.goal or "", row.reached, row.note)
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines += ["", *self.notes]
        return "\n".join(lines).rstrip() + "\n"

    def write(self, folder: Path) -> None:
        """Write ``<name>.json``, ``<name>.md`` and ``<name>.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        content = asdict(self)
        for row, given in zip(self.rows, content["rows"], strict=True):
            given["reached"] = row.reached
        write_whole(folder / f"{self.name}.json", json.dumps(content, indent=2) + "\n")
        write_whole(folder / f"{self.name}.md", self.table())
        draw(self, folder / f"{self.name}.png")

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read what :meth:`write` wrote as JSON."""
        content = json.loads(path.read_text())
        rows = []
        for given in content.pop("rows"):
            del given["reached"]
            value, goal = given.pop("value"), given.pop("goal")
            rows.append(Row(**given, value=value and Spread(**value), goal=goal and Goal(**goal)))
        return cls(**content, rows=rows)


def number(value: float) -> str:
    """Write three digits, and all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def draw(result: Result, path: Path) -> None:
    """Draw the ratios with their quartiles and goals, or whatever there is if there are none."""
    measured = [row for row in result.rows if row.value is not None]
    rows = [row for row in measured if row.unit == "x"] or measured[:12]
    with drawing(path, width=8.0, height=0.9 + 0.34 * max(len(rows), 1)) as figure:
        axes = figure.subplots()
        axes.set_title(result.title)
        axes.set_yticks(range(len(rows)), [row.what for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel(" or ".join(_units(rows)))
        for y, row in enumerate(rows):
            _bar(axes, y, row)
        if all(row.value.low > 0 for row in rows if row.value):
            axes.set_xscale("log")
            # Mathematics is not set in the style's font, and is hardly what a ratio needs.
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.2)


def _bar(axes: Any, y: int, row: Row) -> None:
    value = row.value
    if value is None:
        return
    met = row.goal is None or row.goal.is_met(value.median)
    colour = SERIES[0] if met else SERIES[5]
    axes.barh(y, value.median, height=0.6, color=colour)
    axes.plot([value.low, value.high], [y, y], color=INK, linewidth=1)
    end = max(value.high, value.median)
    axes.text(end, y, f"  {number(value.median)}", size=7.5, va="center_baseline")
    if row.goal is not None:
        limit = row.goal.limit
        axes.plot([limit, limit], [y - 0.42, y + 0.42], color=QUIET, linewidth=2)


def _units(rows: Sequence[Row]) -> list[str]:
    named = {"x": "ratio; the goal is marked"}
    return [named.get(unit, unit) for unit in dict.fromkeys(row.unit for row in rows)]
