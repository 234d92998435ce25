"""``pipeline predict``: a head on new images."""

from pathlib import Path
from typing import Literal

import click

from pipeline.cli.options import (
    PATH,
    device_option,
    params_option,
    read_params,
    refine_option,
    trust_option,
)


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  pipeline predict --head dense.safetensors --weights DEFAULT --out masks photo.jpg\n"
    "  pipeline predict --head dense.safetensors --weights squeezenet.safetensors \\\n"
    "                   --out masks --overlay folder-of-images\n"
    "  pipeline predict --head dense.safetensors --out masks --refine guided:8:0.001 photo.jpg"
)
@click.argument("images", nargs=-1, required=True, type=PATH, metavar="IMAGE_OR_DIR...")
@click.option("--head", type=PATH, required=True, help="Head to predict with, *.safetensors.")
@click.option(
    "--weights",
    metavar="W",
    help="The backbone's weights: DEFAULT, random, or a file; those it was trained on "
    "[default: DEFAULT].",
)
@click.option("--seed", type=int, help="Seed of random weights [default: 0].")
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder for the masks.")
@refine_option
@click.option("--overlay", is_flag=True, help="Also write the image with its mask laid over it.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do with an image that cannot be used.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Images at a time [default: one per core, 16 at most; 1 if there are fewer, or on a GPU].",
)
@device_option
@trust_option
@params_option
def predict(
    images: tuple[Path, ...],
    head: Path,
    weights: str | None,
    seed: int | None,
    out: Path,
    refine: str | None,
    overlay: bool,
    on_error: Literal["stop", "skip"],
    batch_size: int | None,
    device: str,
    trusted: tuple[str, ...],
    params_path: Path | None,
) -> None:
    """Segment images: palette PNG masks at each image's own resolution.

    The head knows its backbone, taps, preprocessing and classes; other weights than those it was
    trained on are refused. Masks that are there already, by the same head from the same image, are
    kept: an interrupted run goes on where it stopped.

    --refine is that of 'pipeline evaluate', at the size that the network sees.
    """
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.predict import predict as run

    params = read_params(params_path)
    chosen = override(params.extract, {"weights": weights, "seed": seed})
    written = run(
        head,
        images,
        out,
        weights=chosen.weights,
        seed=chosen.seed,
        refine=override(params.evaluate, {"refine": refine}).refine,
        overlay=overlay,
        on_error=on_error,
        batch_size=batch_size,
        device=device,
        trusted=trusted,
        progress=Console(),
    )
    click.echo(f"{out}: {len(written)} masks")
