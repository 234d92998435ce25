"""Figures of numbers: training curves, IoU per class, confusion matrices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from pipeline.errors import HeadError, ParamsError
from pipeline.reporting.style import ABSENT, INK, QUIET, SERIES, drawing, series_colours

_PANELS = (
    ("Loss", ("train_loss", "val_loss")),
    ("Pixel accuracy", ("val_pixel_accuracy",)),
    ("Mean IoU", ("val_mean_iou",)),
)
_CURVES = {
    "train_loss": ("training", SERIES[1]),
    "val_loss": ("validation", SERIES[0]),
    "val_pixel_accuracy": ("validation", SERIES[0]),
    "val_mean_iou": ("validation", SERIES[0]),
}
_MOST_ANNOTATED = 40  # classes up to which a confusion matrix has numbers in its cells
_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#9ecae9", "#0072b2", "#003d66"])


def plot_history(history: Mapping[str, Any], path: Path) -> None:
    """Draw loss, pixel accuracy and mean IoU per epoch side by side, the best epoch marked.

    Parameters
    ----------
    history : mapping
        ``epoch`` (list of int) and, as long, ``train_loss``, ``val_loss``, ``val_pixel_accuracy``
        and ``val_mean_iou`` (lists of float); ``None`` where a value was not measured, and a list
        may be missing altogether. ``best_epoch`` is the epoch that was kept, or ``None``.
    path : Path
        The PNG file to write.

    Raises
    ------
    HeadError
        There are no epochs, or a list is not as long as ``epoch``.
    """
    epochs = list(history.get("epoch", ()))
    if not epochs:
        raise HeadError(f"cannot draw {path.name}: the history has no epochs; train the head first")
    panels = [
        (title, {key: _values(history, key, len(epochs), path) for key in keys})
        for title, keys in _PANELS
    ]
    with drawing(path, width=9.6, height=2.9) as figure:
        for axes, (title, curves) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.set_title(title)
            _draw_curves(axes, epochs, curves, history.get("best_epoch"))


def plot_class_iou(iou: Mapping[str, Mapping[str, float | None]], path: Path) -> None:
    """Draw the IoU of every class as horizontal bars, grouped by class, best classes on top.

    Parameters
    ----------
    iou : mapping
        Head name to (class name to IoU from 0 to 1, or ``None`` for an absent class, which is
        marked as such). All heads have the same classes.
    path : Path
        The PNG file to write.

    Raises
    ------
    ParamsError
        There is no head or no class, or the heads differ in their classes.
    """
    heads = list(iou)
    classes = set(iou[heads[0]]) if heads else set()
    if not classes or any(set(values) != classes for values in iou.values()):
        raise ParamsError(f"cannot draw {path.name}: give heads that have the same classes")
    order = _best_first(iou)
    everywhere_absent = [all(v[name] is None for v in iou.values()) for name in order]
    colours = series_colours(heads)
    thickness = 0.8 / len(heads)
    with drawing(path, width=8.0, height=0.9 + len(order) * (0.1 + 0.16 * len(heads))) as figure:
        axes = figure.subplots()
        for nth, head in enumerate(heads):
            values = [iou[head][name] for name in order]
            lengths = [value or 0.0 for value in values]
            ys = np.arange(len(order)) - 0.4 + thickness * (nth + 0.5)
            label = _with_mean(head, values)
            axes.barh(ys, lengths, height=0.9 * thickness, color=colours[head], label=label)
            for y, value, nowhere in zip(ys, values, everywhere_absent, strict=True):
                if not nowhere:
                    _note(axes, value, y)
        for y in np.flatnonzero(everywhere_absent).tolist():
            _note(axes, None, y)  # once for all heads
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlim(0, 1.04)  # room for the number beside a full bar
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_xlabel("IoU")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.legend(loc="outside upper left", ncols=3)


def plot_confusion(counts: npt.NDArray[np.integer[Any]], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, each row as shares of the pixels of its true class.

    Parameters
    ----------
    counts : (n, n) integer array
        Pixels, truth in rows and prediction in columns, without void.
    names : sequence of str
        The n class names.
    path : Path
        The PNG file to write.

    Raises
    ------
    ParamsError
        `counts` is not square, or `names` does not fit it.
    """
    counts = np.asarray(counts)
    n = len(names)
    if n == 0 or counts.shape != (n, n):
        raise ParamsError(
            f"cannot draw {path.name}: {n} class names do not fit a matrix of {counts.shape}"
        )
    pixels = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(pixels, 1)
    annotated = n <= _MOST_ANNOTATED
    side = 2.0 + max(0.36 * n, 2.4) if annotated else 16.0
    with drawing(path, width=side + 0.6, height=side) as figure:
        axes = figure.subplots()
        # Absent rows are masked, lest they look like classes that are never recognised.
        visible = np.ma.masked_array(shares, np.broadcast_to(pixels == 0, shares.shape))
        drawn = axes.imshow(visible, cmap=_SHADES.with_extremes(bad=ABSENT), vmin=0, vmax=1)
        slant = 45 if annotated else 90
        axes.set_xticks(range(n), names, rotation=slant, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), names)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class")
        axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axes.grid(which="minor", linewidth=0.4)
        axes.tick_params(which="both", length=0, labelsize=8.5 if annotated else 5.5)
        axes.spines[:].set_visible(False)
        if annotated:
            _annotate(axes, shares)
            for row in np.flatnonzero(pixels == 0).tolist():
                axes.text(-0.35, row, "absent", color=QUIET, size=7.5, va="center")
        bar = figure.colorbar(drawn, shrink=0.6, aspect=28, pad=0.02, format="{x:.0%}")
        bar.set_label("share of the true class's pixels")
        bar.ax.tick_params(length=0)
        bar.ax.spines[:].set_visible(False)


def _values(history: Mapping[str, Any], key: str, n: int, path: Path) -> npt.NDArray[np.float64]:
    """Return one value per epoch, NaN where none was measured."""
    values = history.get(key)
    if values is None:
        return np.full(n, np.nan)
    if len(values) != n:
        raise HeadError(
            f"cannot draw {path.name}: the history has {n} epochs but {len(values)} values of "
            f"{key}; train the head again"
        )
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _draw_curves(
    axes: Axes, epochs: list[int], curves: dict[str, npt.NDArray[np.float64]], best: int | None
) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    measured = {key: values for key, values in curves.items() if np.isfinite(values).any()}
    if not measured:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", color=QUIET, ha="center", transform=axes.transAxes)
        return
    for key, values in measured.items():
        name, colour = _CURVES[key]
        axes.plot(epochs, values, color=colour, label=name, marker="o" if len(epochs) < 31 else "")
    # The last curve is the one that counts: validation where there is any.
    if best is not None and best in epochs and np.isfinite(value := values[epochs.index(best)]):
        axes.axvline(best, color=QUIET, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
        axes.plot(best, value, "o", color=colour, markersize=7.5, markerfacecolor="white", mew=1.8)
        axes.set_title(f"{value:.3f} at epoch {best}", loc="right", size=8.5, weight="normal")
    if len(curves) > 1:
        axes.legend()


def _best_first(iou: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Return the class names by falling mean over the heads, absent classes last."""

    def rank(name: str) -> tuple[bool, float]:
        values = [head[name] for head in iou.values()]
        present = [value for value in values if value is not None]
        return not present, -sum(present) / max(len(present), 1)

    return sorted(next(iter(iou.values())), key=rank)


def _note(axes: Axes, iou: float | None, y: float) -> None:
    text, colour = ("absent", QUIET) if iou is None else (f"{iou:.2f}", INK)
    axes.text((iou or 0) + 0.008, y, text, color=colour, size=7.5, va="center_baseline")


def _with_mean(head: str, values: Sequence[float | None]) -> str:
    present = [value for value in values if value is not None]
    return f"{head} (mean {sum(present) / len(present):.3f})" if present else head


def _annotate(axes: Axes, shares: npt.NDArray[np.float64]) -> None:
    """Write rounded per cents into the cells; those below half a per cent stay empty."""
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            colour = "white" if share > 0.45 else INK
            text = f"{100 * share:.0f}"
            cell = axes.text(column, row, text, color=colour, size=7.5, ha="center", va="center")
            cell.set_in_layout(False)  # lies inside anyway, and measuring hundreds is slow
