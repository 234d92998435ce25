"""The report: one HTML file that needs no other file, no network and no script.

The stage that evaluates heads and draws figures collects what it has in a `ReportContent`;
`write_page` turns that into HTML through the template ``page.html.j2`` beside this module.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pipeline.errors import DataError, ParamsError
from pipeline.wholefile import write_whole

_CSS_DPI = 96  # what CSS calls a pixel is 1/96 inch
_UNDEFINED = "—"


@dataclass(frozen=True)
class Picture:
    """A PNG file that goes into the page.

    Attributes
    ----------
    path : Path
        The file; its content is embedded.
    alt : str
        What it shows, for people who cannot see it.
    caption : str
        Text below it.
    """

    path: Path
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class HeadReport:
    """The numbers of one head.

    Attributes
    ----------
    name : str
        What the head is called in tables and figures.
    metrics : mapping
        Content of its ``metrics.json``: ``pixel_accuracy``, ``mean_iou``, ``mean_class_accuracy``,
        ``frequency_weighted_iou``, ``classes_counted`` and ``iou`` (class name to value or
        ``None``) at original resolution, and the same under ``cache_resolution`` if measured.
    extra_scores : mapping of str to (float or None)
        Further numbers from 0 to 1, such as the mean IoU over some of the classes.
    metadata : mapping
        What the head file says about itself; nested mappings are fine.
    """

    name: str
    metrics: Mapping[str, Any]
    extra_scores: Mapping[str, float | None] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportContent:
    """Everything the page shows; a section without content is left out.

    Attributes
    ----------
    title, subtitle : str
        Heading and the line under it, such as data set, split and backbone.
    heads : tuple of HeadReport
        At least one; all have the same classes. Colours and columns follow this order.
    comparisons, histories, class_ious, confusions : tuple of Picture
        Figures, by section.
    provenance : mapping of str to (mapping or str)
        How it was made: section heading to key-value pairs (a table; nested mappings are fine) or
        to text (shown as it is, such as the YAML of a recipe).
    """

    title: str
    heads: tuple[HeadReport, ...]
    subtitle: str = ""
    comparisons: tuple[Picture, ...] = ()
    histories: tuple[Picture, ...] = ()
    class_ious: tuple[Picture, ...] = ()
    confusions: tuple[Picture, ...] = ()
    provenance: Mapping[str, Mapping[str, Any] | str] = field(default_factory=dict)


def write_page(path: Path, content: ReportContent) -> Path:
    """Write the report as one self-contained HTML file.

    Every text is escaped, whatever it holds. The same content gives the same bytes.

    Parameters
    ----------
    path : Path
        The HTML file; its folder is created if need be.
    content : ReportContent
        What to show.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ParamsError
        There is no head, or the heads differ in their classes.
    DataError
        A picture is missing or is not a PNG file.
    """
    if not content.heads:
        raise ParamsError(f"cannot write {path}: name at least one head to report on")
    classes = list(content.heads[0].metrics["iou"])
    for head in content.heads:
        if set(head.metrics["iou"]) != set(classes):
            raise ParamsError(
                f"cannot write {path}: heads {content.heads[0].name} and {head.name} have "
                "different classes; report on them separately"
            )
    environment = Environment(
        loader=PackageLoader("pipeline.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(embed=_embed, flat=_flat, score=_score, percent=_percent)
    html = environment.get_template("page.html.j2").render(content=content, classes=classes)
    write_whole(path, html)
    return path


def _embed(picture: Picture) -> dict[str, Any]:
    """Return a picture as a data URI, with its size in CSS pixels as drawn."""
    try:
        content = picture.path.read_bytes()
        with Image.open(BytesIO(content), formats=["PNG"]) as image:
            scale = _CSS_DPI / image.info.get("dpi", (_CSS_DPI, _CSS_DPI))[0]
            width, height = (round(scale * side) for side in image.size)
    except OSError as error:
        raise DataError(f"cannot show {picture.path}: not a readable PNG file; draw it") from error
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return {"uri": uri, "width": width, "height": height}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield nested mappings as (dotted key, text) pairs."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{key}", ", ".join(str(item) for item in value)
        else:
            yield f"{prefix}{key}", _UNDEFINED if value is None else str(value)


def _score(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{100 * value:.1f} %"
