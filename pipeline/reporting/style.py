"""One look for all figures: type, colours, and how a figure becomes a PNG file."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from pipeline.wholefile import write_whole

INK = "#1f2933"
QUIET = "#7b8794"
RULE = "#e4e7eb"
ABSENT = "#f1f3f5"

# Told apart by people with any of the common colour vision deficiencies, and by lightness in print
# (after M. Okabe and K. Ito, "Color Universal Design", 2008).
SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#4b5563")

DPI = 160
LEAST_DPI = 60
MOST_BYTES = 600_000

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture on every machine
    "font.size": 9.0,
    "text.color": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 8.0,
    "axes.labelcolor": QUIET,
    "axes.labelsize": 8.5,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # names are the user's: a "$" in one is a dollar sign
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def drawing(path: Path, *, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure in this package's style, and write it once the block has ended.

    No global state of matplotlib's is used or left behind, and nothing is written if the block
    raises. Where the file would be larger than `MOST_BYTES`, its resolution is lowered from `DPI`
    as far as `LEAST_DPI`.

    Parameters
    ----------
    path : Path
        The PNG file; its folder is created if need be.
    width, height : float
        Size of the figure in inches; empty margins are cut off.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        dpi = DPI
        content = _png(figure, dpi)
        while len(content) > MOST_BYTES and dpi > LEAST_DPI:
            shrink = min(0.95, math.sqrt(MOST_BYTES / len(content)))
            dpi = max(LEAST_DPI, int(shrink * dpi))
            content = _png(figure, dpi)
    write_whole(path, content)


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, the same for the same position in every figure."""
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    # No software version in the file: the same numbers give the same bytes.
    figure.savefig(
        buffer,
        format="png",
        dpi=dpi,
        bbox_inches="tight",
        pad_inches=0.08,
        metadata={"Software": None},
        pil_kwargs={"optimize": True},
    )
    return buffer.getvalue()
