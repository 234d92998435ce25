"""``pipeline fit-boxes`` and ``pipeline evaluate-boxes``: heat maps in boxes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.options import (
    PATH,
    cache_option,
    context_option,
    device_option,
    params_option,
    read_params,
    scopes_of,
)
from pipeline.errors import ParamsError

if TYPE_CHECKING:
    from pipeline.params import Params

_dataset_option = click.option(
    "--dataset",
    type=PATH,
    metavar="ROOT",
    help="Data set that the cache was made from; it has the objects [default: data.root].",
)
_detections_option = click.option(
    "--detections",
    type=PATH,
    metavar="JSON",
    help="Boxes that a detector found, in the form of COCO's results.",
)


@click.command(
    "fit-boxes",
    epilog="\b\n"
    "Examples:\n"
    "  pipeline fit-boxes --cache cache/scenes --dataset data/scenes --out boxes.safetensors\n"
    "  pipeline fit-boxes --cache cache/scenes --dataset data/scenes --out top.safetensors \\\n"
    "                     --taps conv5_2 --context none --grid 10\n"
    "  pipeline fit-boxes --cache cache/scenes --dataset data/scenes --task keypoints \\\n"
    "                     --out keypoints.safetensors",
)
@cache_option
@_dataset_option
@click.option(
    "--out", type=PATH, required=True, metavar="HEAD", help="Head to write, *.safetensors."
)
@click.option(
    "--task",
    type=click.Choice(["figure-ground", "keypoints"]),
    help="Which pixels are the object's, or where its keypoints are [default: figure-ground].",
)
@click.option("--split", help="Training images [default: train].")
@_detections_option
@click.option(
    "--taps", metavar="A,B,...", help="Taps to use, of those in the cache [default: all]."
)
@click.option(
    "--activation",
    type=click.Choice(["relu", "none"]),
    help="Applied to the cached maps before resampling [default: relu].",
)
@context_option
@click.option(
    "--grid", type=int, metavar="K", help="K x K classifiers in a box, and targets [default: 5]."
)
@click.option("--points", type=int, metavar="N", help="A heat map has N x N points [default: 50].")
@click.option("--expansion", type=float, help="Factor by which boxes are enlarged [default: 1.2].")
@click.option(
    "--reach",
    type=float,
    help="Points near a keypoint are positive up to here, in parts of the longer side of its "
    "object's box [default: 0.1].",
)
@click.option("--epochs", type=int, help="Passes over all training images [default: 10].")
@click.option("--batch-size", type=int, help="Images per optimiser step [default: 4].")
@click.option("--learning-rate", type=float, help="Adam's, at the start [default: 0.002].")
@click.option("--weight-decay", type=float, help="Decoupled, on the weights [default: 0.01].")
@click.option("--seed", type=int, help="Seed of the order of images [default: 0].")
@device_option
@params_option
def fit_boxes(
    cache: Path,
    dataset: Path | None,
    out: Path,
    detections: Path | None,
    taps: str | None,
    activation: str | None,
    context: str | None,
    device: str,
    params_path: Path | None,
    **options: Any,
) -> None:
    """Fit a K x K grid of pixel classifiers in the boxes of objects, for each class.

    Maps come from the cache; boxes, instance masks (SegmentationObject) and keypoints (Annotations)
    from the data set.
    """
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.fit_boxes import fit_boxes as run

    params = read_params(params_path)
    features = {
        "activation": activation,
        "context": scopes_of(context),
        "taps": None if taps is None else tuple(taps.split(",")),
    }
    chosen = override(params.fit_boxes, options)
    result = run(
        cache,
        _root(dataset, params),
        out,
        task=chosen.task,
        split=chosen.split,
        features=override(params.features, features),
        settings=chosen.settings(),
        detections=detections,
        device=device,
        progress=Console(),
    )
    click.echo(
        f"{result.head}: {result.targets} targets fitted on {result.boxes} boxes, "
        f"training loss {result.losses[-1]:.4f}"
    )


@click.command(
    "evaluate-boxes",
    epilog="\b\n"
    "Examples:\n"
    "  pipeline evaluate-boxes --cache cache/scenes --dataset data/scenes \\\n"
    "                          --head boxes.safetensors --out boxes.json\n"
    "  pipeline evaluate-boxes --cache cache/scenes --dataset data/scenes \\\n"
    "                          --head boxes.safetensors --detections detections.json",
)
@cache_option
@_dataset_option
@click.option("--head", type=PATH, required=True, help="Box head to measure, *.safetensors.")
@click.option("--split", help="Which images [default: val].")
@_detections_option
@click.option(
    "--threshold", type=float, help="Heat from which on a pixel is the object's [default: 0.5]."
)
@click.option(
    "--alpha",
    type=float,
    help="How far off a keypoint may be, in parts of the longer side of the object's box "
    "[default: 0.1].",
)
@click.option("--out", type=PATH, metavar="JSON", help="Where to write the metrics.")
@device_option
@params_option
def evaluate_boxes(
    cache: Path,
    dataset: Path | None,
    head: Path,
    detections: Path | None,
    out: Path | None,
    device: str,
    params_path: Path | None,
    **options: Any,
) -> None:
    """Measure a box head: mean overlap and AP^r, or PCK and APK of keypoints.

    Overlap and PCK are those in the objects' own boxes. The average precisions rank the detections,
    or without any the objects' own boxes by their heat.
    """
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.evaluate_boxes import evaluate_boxes as run

    params = read_params(params_path)
    chosen = override(params.evaluate_boxes, options)
    result = run(
        cache,
        _root(dataset, params),
        head,
        split=chosen.split,
        detections=detections,
        threshold=chosen.threshold,
        alpha=chosen.alpha,
        out=out,
        device=device,
        progress=Console(),
    )
    rows = _region_rows(result) if result["task"] == "figure-ground" else _keypoint_rows(result)
    width = max(len(name) for name, _ in rows)
    for name, values in rows:
        click.echo(f"{name:<{width}}" + "".join(f"{_text(value):>10}" for value in values))
    click.echo(f"{result['images']} images; ranked: {result['candidates']}")


def _root(dataset: Path | None, params: "Params") -> Path:
    if dataset is None and params.data.root is None:
        raise ParamsError("which data set? give --dataset, or data.root in params.yaml")
    return dataset or Path(params.data.root or "")


def _region_rows(result: dict[str, Any]) -> list[tuple[str, tuple[Any, ...]]]:
    ap = result["region_ap"]
    rows = [("class", ("overlap", *(f"AP^r {least}" for least in ap)))]
    for name, overlap in result["overlap"].items():
        rows.append((name, (overlap, *(of["by_class"][name] for of in ap.values()))))
    return [*rows, ("mean", (result["mean_overlap"], *(of["mean"] for of in ap.values())))]


def _keypoint_rows(result: dict[str, Any]) -> list[tuple[str, tuple[Any, ...]]]:
    rows: list[tuple[str, tuple[Any, ...]]] = [("keypoint", ("PCK", "APK"))]
    for name, of_class in result["apk"].items():
        for keypoint, precision in of_class.items():
            right = result["pck"].get(name, {}).get(keypoint)
            rows.append((f"{name} {keypoint}", (right, precision)))
    return [*rows, ("mean", (result["mean_pck"], result["mean_apk"]))]


def _text(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "absent" if value is None else value
