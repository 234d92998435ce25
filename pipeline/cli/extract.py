"""``pipeline extract``: stage one."""

from pathlib import Path
from typing import Any, Literal

import click

from pipeline.cli.options import (
    PATH,
    device_option,
    feature_options,
    params_option,
    read_params,
    with_features,
)


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  pipeline extract --backbone vgg11 --dataset data/VOCdevkit/VOC2012 --out cache/vgg11\n"
    "  pipeline extract --backbone squeezenet1_0 --weights squeezenet.safetensors \\\n"
    "                   --dataset my-data --split train --out cache/mine --input-size short:320\n"
    "  pipeline extract --backbone resnet18 --tap conv1 --tap layer2.0.conv1 \\\n"
    "                   --tap layer4.1.conv2 --dataset my-data --out cache/resnet18\n"
    "  pipeline extract --backbone vgg11 --dataset my-data --out cache/vgg11 --dtype int8 \\\n"
    "                   --recompute-first\n"
    "  pipeline extract --backbone vgg11 --dataset my-data --out cache/vgg11 --workers 8\n"
    "  pipeline extract --backbone vgg11 --dataset my-data --out cache/vgg11 \\\n"
    "                   --backend dask --address tcp://scheduler:8786\n"
    "  pipeline extract --backbone vgg11 --dataset my-data --out cache/vgg11 --part 3/16"
)
@click.option("--backbone", help="vgg11, squeezenet1_0, alexnet, or another torchvision network.")
@click.option(
    "--weights",
    metavar="W",
    help="DEFAULT (torchvision's download), random, or a .safetensors or .pth file "
    "[default: DEFAULT].",
)
@click.option(
    "--tap",
    "taps",
    multiple=True,
    help="A layer to keep, by module name, joined by '+', optionally with a name of its own: "
    "fire2=features.3. Repeat for more [default: the backbone's own].",
)
@click.option(
    "--compute",
    type=click.Choice(["float32", "bfloat16"]),
    help="What the backbone computes with: bfloat16 is faster on GPUs and on CPUs with "
    "instructions for it [default: float32].",
)
@click.option("--dataset", type=PATH, metavar="ROOT", help="Folder that holds JPEGImages.")
@click.option(
    "--classes", metavar="A,B,...", help="Class names [default: ROOT/classes.txt, or VOC's]."
)
@click.option("--void", type=int, help="Label of pixels that do not count [default: 255].")
@click.option("--split", "splits", multiple=True, help="Repeat for more [default: train, val].")
@click.option("--out", type=PATH, required=True, metavar="CACHE", help="Directory to write.")
@click.option(
    "--input", type=click.Choice(["imagenet", "raw"]), help="Normalisation [default: imagenet]."
)
@click.option(
    "--input-size",
    help="224: a square; short:320: the shorter side; native: as it is [default: 224].",
)
@click.option(
    "--geometry",
    type=click.Choice(["half_pixel", "align_corners"]),
    help="How maps lie on the image [default: half_pixel].",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32", "int8"]),
    help="How maps are stored [default: float16].",
)
@click.option(
    "--recompute-first/--store-first",
    default=None,
    help="Do not store the first tap, where it is the network's first convolution, but compute it "
    "from the stored image when it is read: for VGG-11 half of the cache "
    "[default: --store-first].",
)
@click.option("--compression", type=click.Choice(["gzip"]), help="Smaller, and slower to read.")
@click.option("--images-per-shard", type=int, help="Images in one file [default: 64].")
@click.option(
    "--batch-size", type=int, help="Images at a time [default: one per core, on a GPU 32]."
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    help="What to do with an image that cannot be used [default: stop].",
)
@click.option("--seed", type=int, help="Seed of random weights [default: 0].")
@feature_options
@click.option(
    "--workers", type=int, metavar="N", help="Processes that share the work [default: 1]."
)
@click.option(
    "--backend",
    type=click.Choice(["loky", "dask", "ray"]),
    default="loky",
    show_default=True,
    help="Where they are: on this machine, or in a cluster of dask or ray.",
)
@click.option("--address", help="The cluster's: for dask, its scheduler's, tcp://host:8786.")
@click.option(
    "--part",
    metavar="3/16",
    help="Write only the third of sixteen parts of the shards, and wait for no other part.",
)
@click.option("--replace", is_flag=True, help="Overwrite a cache that was made otherwise.")
@device_option
@params_option
def extract(
    out: Path,
    dataset: Path | None,
    classes: str | None,
    void: int | None,
    device: str,
    workers: int | None,
    backend: Literal["loky", "dask", "ray"],
    address: str | None,
    part: str | None,
    replace: bool,
    params_path: Path | None,
    **options: Any,
) -> None:
    """Run a frozen backbone over a data set and write its feature cache.

    Finished shards are kept: an interrupted run goes on where it stopped, and a complete one is
    checked in seconds. Neither --workers nor --part change a bit of the result.
    """
    from pipeline.backbones import Preprocessing, load_backbone
    from pipeline.cli.console import Console
    from pipeline.data import VocDataset
    from pipeline.errors import ParamsError
    from pipeline.params import override
    from pipeline.stages.device import choose_device
    from pipeline.stages.extract import extract as run
    from pipeline.stages.parallel import Workers
    from pipeline.stages.part import Part

    if workers is None and backend == "loky":
        workers = 1
    engine = Workers(workers, backend, address)
    if part is not None:
        Part.parse(part)  # before anything is loaded
    params = with_features(read_params(params_path), options)
    for name in ("taps", "splits"):
        options[name] = options[name] or None
    chosen = override(params.extract, options)
    names = None if classes is None else tuple(name.strip() for name in classes.split(","))
    data = override(
        params.data,
        {"root": None if dataset is None else str(dataset), "classes": names, "void": void},
    )
    if data.root is None:
        raise ParamsError("which data set? give --dataset, or data.root in params.yaml")
    if chosen.backbone is None:
        raise ParamsError("which backbone? give --backbone, or extract.backbone in params.yaml")

    opened = VocDataset.open(Path(data.root), classes=data.classes, void=data.void)
    backbone = load_backbone(
        chosen.backbone,
        weights=chosen.weights,
        taps=chosen.taps,
        seed=chosen.seed,
        compute=chosen.compute,
        device=choose_device(device),
    )
    result = run(
        opened,
        backbone,
        out,
        splits=chosen.splits,
        preprocessing=Preprocessing(chosen.input, chosen.input_size),
        geometry=chosen.geometry,
        dtype=chosen.dtype,
        recompute_first=chosen.recompute_first,
        compression=chosen.compression,
        images_per_shard=chosen.images_per_shard,
        batch_size=chosen.batch_size,
        drawing=params.drawing(),
        on_error=chosen.on_error,
        replace=replace,
        workers=engine,
        part=part,
        progress=Console(),
    )
    for split, image_id, reason in result.skipped:
        click.echo(f"skipped {split}/{image_id}: {reason}", err=True)
    click.echo(
        f"{result.cache}: {result.images} images, {result.computed} computed now, "
        f"{len(result.skipped)} skipped, fingerprint {result.fingerprint}"
    )
    if result.missing:
        click.echo(f"{result.missing} shards are left to the other parts")
