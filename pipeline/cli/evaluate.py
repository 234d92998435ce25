"""``pipeline evaluate``: a head's metrics on a cached split."""

from pathlib import Path

import click

from pipeline.cli.options import (
    PATH,
    cache_option,
    device_option,
    params_option,
    read_params,
    refine_option,
    trust_option,
)


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  pipeline evaluate --cache cache/vgg11 --split val --head dense.safetensors "
    "--out metrics.json\n"
    "  pipeline evaluate --cache cache/vgg11 --head dense.safetensors --refine guided:8:0.001\n"
    "  pipeline evaluate --cache cache/vgg11 --head dense.safetensors --refine superpixels:300\n"
    "  pipeline evaluate --cache cache/vgg11 --head dense.safetensors \\\n"
    "                    --refine prior:4:0,guided:8:0.001"
)
@cache_option
@click.option(
    "--split",
    help="Which images: a split; or 'held-out', the training images that the head was not fitted "
    "on [default: val].",
)
@click.option("--head", type=PATH, required=True, help="Head to measure, *.safetensors.")
@refine_option
@click.option("--out", type=PATH, metavar="JSON", help="Where to write the metrics.")
@device_option
@trust_option
@params_option
def evaluate(
    cache: Path,
    split: str | None,
    head: Path,
    refine: str | None,
    out: Path | None,
    device: str,
    trusted: tuple[str, ...],
    params_path: Path | None,
) -> None:
    """Measure a head, at the cache's resolution and at each image's original one.

    Void pixels do not count, nor do classes that are in neither truth nor prediction.

    --refine guided:8:0.001 smooths each class's probability by a guided filter with windows of 8
    pixels to every side; edges between colours whose variance is above 0.001 (white is 1) are kept.
    --refine superpixels:300 gives all pixels of one of about 300 superpixels the mean of their
    probabilities; it needs scikit-image.
    --refine crf:1000:4:5 has about 1000 superpixels of like colours and near places agree on their
    classes (a conditional random field): others count 4 times, and 5 units of CIELAB apart is
    alike; it needs scikit-image.
    --refine prior:4:0 finds in 4 steps which classes an image shows, and gives doubtful pixels to
    those; 0 is the background, which stays as it is (leave it out where there is none).
    """
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.evaluate import evaluate as run

    chosen = override(read_params(params_path).evaluate, {"split": split, "refine": refine})
    result = run(
        cache,
        head,
        split=chosen.split,
        refine=chosen.refine,
        out=out,
        device=device,
        trusted=trusted,
        progress=Console(),
    )
    width = max(len(name) for name in result["iou"])
    for name, value in result["iou"].items():
        click.echo(f"{name:<{width}}  {'absent' if value is None else f'{value:6.3f}'}")
    for where, values in (("original", result), ("cache", result["cache_resolution"])):
        click.echo(
            f"at {where} resolution: mean IoU {_number(values['mean_iou'])} over "
            f"{values['classes_counted']} classes, "
            f"pixel accuracy {_number(values['pixel_accuracy'])}, "
            f"mean class accuracy {_number(values['mean_class_accuracy'])}, "
            f"frequency-weighted IoU {_number(values['frequency_weighted_iou'])}"
        )
    if result["head"]["selected_on"] == chosen.split:
        click.echo(
            f"note: the epoch of this head was chosen on '{chosen.split}', "
            "which flatters its figures there",
            err=True,
        )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
