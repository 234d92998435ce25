"""The report: figures as PNG files and one page of HTML, from the cache, the heads and metrics."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from pipeline.cache import FeatureCache
from pipeline.data import VOC_PALETTE
from pipeline.errors import CacheMismatchError, ParamsError
from pipeline.folders import make_folder
from pipeline.heads import Head, load_head
from pipeline.hypercolumn import labels_of
from pipeline.names import is_plain
from pipeline.progress import Progress, Silent
from pipeline.refinement import Refinement, choose_refinement, parse_refinement
from pipeline.reporting import (
    HeadReport,
    Picture,
    ReportContent,
    plot_class_iou,
    plot_comparison,
    plot_confusion,
    plot_history,
    write_page,
)
from pipeline.stages.device import choose_device
from pipeline.stages.evaluate import score_image
from pipeline.stages.training_images import HELD_OUT

_NAME_BYTES = 200  # the names of figures hold a little more, and partial files too


class _Scores(BaseModel):
    """What a page shows of a head at one resolution."""

    model_config = ConfigDict(strict=True)

    pixel_accuracy: float | None
    mean_class_accuracy: float | None
    mean_iou: float | None
    frequency_weighted_iou: float | None
    classes_counted: int


class _Metrics(_Scores):
    """What :func:`pipeline.evaluate` wrote, as far as a page needs it."""

    iou: dict[str, float | None]
    confusion_matrix: list[list[int]]
    cache_resolution: _Scores
    split: str
    images: int
    fingerprint: str
    refine: str | None = None

    @field_validator("refine")
    @classmethod
    def _is_a_refinement(cls, refine: str | None) -> str | None:
        if refine is not None:
            parse_refinement(refine)
        return refine


def report(
    cache: Path | str,
    heads: Mapping[str, Path | str],
    metrics: Mapping[str, Path | str],
    out: Path | str,
    *,
    title: str = "Hypercolumn segmentation",
    split: str = "val",
    images: int = 6,
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Write ``index.html``, which needs no other file, and the figures in it as PNG files.

    Parameters
    ----------
    cache : Path or str
        The cache the heads were made from; the pictures are read from it too.
    heads : mapping of name to path
        The heads to show, in order.
    metrics : mapping of name to path
        For each head what :func:`pipeline.evaluate` wrote; predictions are drawn as refined as
        they were measured.
    out : Path or str
        Folder to write.
    title : str
        Of the page.
    split : str
        Where the pictures are from.
    images : int
        How many pictures, spread evenly over the split: the same ones every time.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    trusted : sequence of str
        See :func:`pipeline.heads.load_head`.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    CacheMismatchError
        If a head or its metrics are of another cache.
    ParamsError
        If a head lacks metrics or the other way round, its name cannot be part of a file's, the
        metrics are damaged or of several splits, or predictions cannot be refined as theirs were.
    """
    out, progress = Path(out), progress or Silent()
    if heads.keys() != metrics.keys():
        odd = sorted(heads.keys() ^ metrics.keys())[0]
        raise ParamsError(f"'{odd}' needs both a head and its metrics")
    for name in heads:
        if not is_plain(name) or len(name.encode()) > _NAME_BYTES:
            raise ParamsError(
                f"{name!r} cannot name a head: its figures are called after it; "
                "choose a short name without '/'"
            )
    opened = FeatureCache(cache)
    loaded = {name: load_head(path, trusted=trusted) for name, path in heads.items()}
    for name, head in loaded.items():
        opened.require(head.info.identity, what=f"the head {heads[name]}")
    measured = {name: _read_metrics(Path(path), opened) for name, path in metrics.items()}
    if len(splits := sorted({values["split"] for values in measured.values()})) > 1:
        raise ParamsError(
            f"metrics of different splits ({', '.join(splits)}); evaluate all heads on one"
        )
    if splits == [HELD_OUT] and len({head.info.held_out for head in loaded.values()}) > 1:
        raise ParamsError(
            "heads measured on different held-out images; fit them with one --seed and --holdout"
        )
    classes = opened.identity.classes
    refinements = {
        name: choose_refinement(values.get("refine"), len(classes)) if images else None
        for name, values in measured.items()
    }
    make_folder(out)

    comparisons = []
    if images:
        path = out / "comparison.png"
        rows = _comparison_rows(opened, loaded, refinements, split, images, device, progress)
        plot_comparison(rows, classes, VOC_PALETTE, path, void=opened.identity.void)
        comparisons.append(
            Picture(path, "Images, their truth and each head's prediction, side by side")
        )
    histories = []
    for name, head in loaded.items():
        if history := head.info.metrics.get("history"):
            path = out / f"history-{name}.png"
            plot_history(history, path)
            histories.append(
                Picture(path, f"Loss, accuracy and IoU of '{name}' per epoch", f"Head: {name}")
            )
    iou_path = out / "class-iou.png"
    plot_class_iou({name: values["iou"] for name, values in measured.items()}, iou_path)
    confusions = []
    for name, values in measured.items():
        path = out / f"confusion-{name}.png"
        plot_confusion(values["confusion_matrix"], classes, path)
        confusions.append(
            Picture(path, f"Confusion matrix of '{name}', rows are true classes", f"Head: {name}")
        )
    page = write_page(
        out / "index.html",
        ReportContent(
            title=title,
            subtitle=_subtitle(opened, next(iter(measured.values()))),
            heads=tuple(
                HeadReport(name, measured[name], metadata=_metadata(head, measured[name]))
                for name, head in loaded.items()
            ),
            comparisons=tuple(comparisons),
            histories=tuple(histories),
            class_ious=(Picture(iou_path, "IoU of every class for each head"),),
            confusions=tuple(confusions),
            provenance={
                "Cache": {
                    "fingerprint": opened.identity.fingerprint,
                    **opened.identity.model_dump(mode="json", exclude={"taps"}),
                    "taps": ", ".join(
                        f"{tap.name} ({tap.channels} channels, stride {tap.stride})"
                        for tap in opened.identity.taps
                    ),
                },
                "Software": opened[split].software,
            },
        ),
    )
    opened.close()
    return page


def _comparison_rows(
    cache: FeatureCache,
    heads: Mapping[str, Head],
    refinements: Mapping[str, Refinement | None],
    split: str,
    count: int,
    device: str,
    progress: Progress,
) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    images, where = cache[split], choose_device(device)
    positions = np.unique(np.linspace(0, len(images) - 1, min(count, len(images))).round())
    chosen = [images.image_ids[int(position)] for position in positions]
    moved = {name: (head.to(where), refinements[name]) for name, head in heads.items()}
    rows = []
    for image_id in progress.track(chosen, total=len(chosen), unit="images", what="drawing"):
        predictions = {
            name: labels_of(score_image(head, images, image_id, where, refinement))
            for name, (head, refinement) in moved.items()
        }
        rows.append((image_id, images.image(image_id), images.label(image_id), predictions))
    return rows


def _read_metrics(path: Path, cache: FeatureCache) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such file; run 'pipeline evaluate' first") from error
    except ValueError as error:
        raise ParamsError(f"{path}: not JSON; run 'pipeline evaluate' again") from error
    found: dict[str, Any] = metrics if isinstance(metrics, dict) else {}
    needed = {name for name, field in _Metrics.model_fields.items() if field.is_required()}
    if missing := needed - found.keys():
        raise ParamsError(f"{path}: lacks {min(missing)}; run 'pipeline evaluate' again")
    try:
        read = _Metrics.model_validate(found)
    except ValidationError as error:
        key = ".".join(str(part)[:40] for part in error.errors()[0]["loc"])
        raise ParamsError(f"{path}: {key} cannot be read; run 'pipeline evaluate' again") from error
    if read.fingerprint != cache.identity.fingerprint:
        raise CacheMismatchError(
            f"{path}: measured on another cache than {cache.path}; run 'pipeline evaluate' again"
        )
    classes, matrix = cache.identity.classes, read.confusion_matrix
    if read.iou.keys() != set(classes):
        wrong = "its classes are not those of the cache"
    elif {len(matrix), *map(len, matrix)} != {len(classes)}:
        wrong = f"its confusion matrix is not one of {len(classes)} classes"
    else:
        return found
    raise ParamsError(f"{path}: {wrong}; run 'pipeline evaluate' again")


def _metadata(head: Head, measured: Mapping[str, Any]) -> dict[str, Any]:
    info = head.info
    found: dict[str, Any] = {"stage": info.stage, "estimator": info.estimator}
    found |= {"features": info.features.model_dump(mode="json"), "settings": info.settings}
    if info.selected_on:
        found["epoch chosen on"] = info.selected_on
    if refine := measured.get("refine"):
        found["predictions refined by"] = refine
    return found


def _subtitle(cache: FeatureCache, measured: Mapping[str, Any]) -> str:
    dataset = next(iter(cache.splits.values())).dataset
    return (
        f"{cache.identity.backbone} on {dataset}, measured on the "
        f"{measured['images']} images of '{measured['split']}'"
    )
