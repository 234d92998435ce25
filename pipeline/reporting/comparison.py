"""The picture that says most: image, truth and every head's prediction side by side."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipeline.errors import ParamsError
from pipeline.reporting.style import INK, QUIET, drawing

VOID_COLOUR = (236, 239, 242)
_TILE = 2.05  # width of a picture in inches
_TALLEST = 1.25  # height of a picture over its width, beyond which it is shown narrower

LabelMap: TypeAlias = npt.NDArray[np.integer[Any]]
ComparisonRow: TypeAlias = tuple[str, npt.NDArray[np.uint8], LabelMap, Mapping[str, LabelMap]]


def plot_comparison(
    rows: Sequence[ComparisonRow],
    names: Sequence[str],
    palette: npt.NDArray[np.uint8],
    path: Path,
    *,
    void: int = 255,
) -> None:
    """Draw one row per image: the image, the truth, and each head's prediction.

    Labels have their palette colours and void is light grey. The legend shows the classes that
    occur in any truth or prediction drawn.

    Parameters
    ----------
    rows : sequence of (image id, image, truth, predictions)
        Top to bottom: a str, an (H, W, 3) uint8 RGB image, its (H, W) true labels with void, and a
        mapping of head name to (H, W) predicted labels. All rows have the same heads; images may
        differ in size.
    names : sequence of str
        Class names; the position is the label.
    palette : (256, 3) uint8 array
        RGB colour of each label.
    path : Path
        The PNG file to write.
    void : int
        Label of the pixels without a class.

    Raises
    ------
    ParamsError
        There are no rows, the rows differ in their heads, a map is not as large as its image, or
        a label is neither void nor a class.
    """
    if not rows:
        raise ParamsError(f"cannot draw {path.name}: name at least one image")
    heads = list(rows[0][3])
    for row in rows:
        _check(row, heads, path)
    labels = _labels(rows)
    if unknown := [label for label in labels if label != void and label >= len(names)]:
        raise ParamsError(
            f"cannot draw {path.name}: label {unknown[0]} is beyond the {len(names)} class names"
        )
    colours = palette.copy()
    colours[void] = VOID_COLOUR
    titles = ["image", "truth", *heads]
    heights = [min(_TALLEST, truth.shape[0] / truth.shape[1]) for _, _, truth, _ in rows]
    width = _TILE * len(titles) + 0.3
    columns = int(width / 1.3)
    legend = 0.2 * -(-len(labels) // columns)
    total = _TILE * sum(heights) + 0.1 * len(rows) + 0.6 + legend
    with drawing(path, width=width, height=total) as figure:
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
        grid = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(textwrap.fill(title, 22), loc="center")
        for line, height, row in zip(grid, heights, rows, strict=True):
            image_id, image, truth, predictions = row
            masks = (truth, *(predictions[head] for head in heads))
            for axes, picture in zip(line, (image, *(colours[m] for m in masks)), strict=True):
                _show(axes, picture)
            line[0].set_ylabel(_shortened(image_id, round(15 * _TILE * height)), size=7.5)
        _add_legend(figure, labels, names, colours, void, columns)


def _check(row: ComparisonRow, heads: list[str], path: Path) -> None:
    image_id, image, truth, predictions = row
    if list(predictions) != heads:
        raise ParamsError(
            f"cannot draw {path.name}: {image_id} has predictions of {', '.join(predictions)}, "
            f"not of {', '.join(heads)}"
        )
    for name, labels in {"truth": truth, **predictions}.items():
        if labels.shape != image.shape[:2]:
            raise ParamsError(
                f"cannot draw {path.name}: {name} of {image_id} is {labels.shape} but the image "
                f"{image.shape[:2]}; resample the labels to the image"
            )


def _labels(rows: Sequence[ComparisonRow]) -> list[int]:
    """Return every label that occurs, in rising order."""
    found: set[int] = set()
    for _, _, truth, predictions in rows:
        for labels in (truth, *predictions.values()):
            found.update(np.unique(labels).tolist())
    return sorted(found)


def _shortened(name: str, most: int) -> str:
    """Return the end of a name, which is what tells images apart, in at most so many letters."""
    return name if len(name) <= most else "…" + name[len(name) - most + 1 :]


def _show(axes: Axes, picture: npt.NDArray[np.uint8]) -> None:
    axes.imshow(picture)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=QUIET, linewidth=0.4)


def _add_legend(
    figure: Figure,
    labels: list[int],
    names: Sequence[str],
    colours: npt.NDArray[np.uint8],
    void: int,
    columns: int,
) -> None:
    handles = [
        Patch(
            facecolor=tuple(colours[label] / 255),
            edgecolor=QUIET,
            linewidth=0.4,
            label="void" if label == void else names[label],
        )
        for label in labels
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(columns, len(handles)),
        labelcolor=INK,
        handlelength=1.2,
        handleheight=1.2,
    )
