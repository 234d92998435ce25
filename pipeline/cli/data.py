"""``pipeline data``: write, download and check data sets."""

from pathlib import Path

import click

from pipeline.cli.options import PATH, has_params, params_option, read_params


@click.group("data")
def data() -> None:
    """Write, download and check data sets."""


@data.command(
    epilog="\b\n"
    "Examples:\n"
    "  pipeline data scenes\n"
    "  pipeline data scenes --out data/scenes --images 300 --seed 1"
)
@click.option(
    "--out", type=PATH, default=Path("data/scenes"), show_default=True, help="Folder to write."
)
@click.option("--images", type=click.IntRange(3), help="Number of scenes [default: 180].")
@click.option("--seed", type=click.IntRange(0), help="Seed of all scenes [default: 0].")
@params_option
def scenes(out: Path, images: int | None, seed: int | None, params_path: Path | None) -> None:
    """Draw the embedded data set: textured objects on textured grounds.

    Two scenes in three are for training, the others for validation. The same seed gives the same
    bytes. Scenes of an earlier run in the folder are replaced; any other content is refused.
    """
    from pipeline.cli.console import Console
    from pipeline.data import SCENE_CLASSES, VocDataset, write_scenes

    chosen = read_params(params_path).data.scenes.model_dump() if has_params(params_path) else {}
    given = {"images": images, "seed": seed}
    chosen |= {name: value for name, value in given.items() if value is not None}
    write_scenes(out, **chosen, progress=Console())
    count = len(VocDataset.open(out).image_ids("trainval"))
    click.echo(f"{out}: {count} scenes, {len(SCENE_CLASSES)} classes")


@data.command(
    epilog="\b\nExamples:\n  pipeline data voc2012\n  pipeline data voc2012 --out /big/disk"
)
@click.option(
    "--out", type=PATH, default=Path("data"), show_default=True, help="Folder to download to."
)
def voc2012(out: Path) -> None:
    """Download PASCAL VOC 2012 (2 GB) and print the root of the data set.

    An archive that is in the folder already is used instead of the network.
    """
    from pipeline.data import download_voc2012

    click.echo(download_voc2012(out))


@data.command(
    epilog="\b\n"
    "Examples:\n"
    "  pipeline data check data/VOCdevkit/VOC2012\n"
    "  pipeline data check my-data --classes background,road,car --void 255"
)
@click.argument("root", type=PATH)
@click.option("--classes", metavar="A,B,C", help="Class names [default: ROOT/classes.txt, or VOC].")
@click.option(
    "--void",
    type=click.IntRange(0, 255),
    help="Label that does not count [default: ROOT/classes.txt, or 255].",
)
@params_option
@click.pass_context
def check(
    ctx: click.Context,
    root: Path,
    classes: str | None,
    void: int | None,
    params_path: Path | None,
) -> None:
    """List every file of a data set that is missing, unreadable, mis-sized or mislabelled.

    ROOT is the folder that holds JPEGImages, SegmentationClass and ImageSets. The exit code is 1 if
    anything is wrong. Splits called test... may be without masks.
    """
    from pipeline.cli.console import Console
    from pipeline.data import VocDataset, check_dataset

    names = None if classes is None else tuple(name.strip() for name in classes.split(","))
    if has_params(params_path):
        params = read_params(params_path).data
        names = params.classes if names is None else names
        void = params.void if void is None else void
    dataset = VocDataset.open(root, classes=names, void=void)
    problems = check_dataset(dataset, progress=Console())
    for problem in problems:
        click.echo(f"[{problem.split}] {problem.what}" if problem.split else problem.what)
    if problems:
        click.echo(f"{len(problems)} problem{'s' if len(problems) > 1 else ''}")
        ctx.exit(1)
    splits = ((split, len(dataset.image_ids(split))) for split in dataset.splits())
    click.echo(f"{root}: no problems")
    click.echo("splits: " + ", ".join(f"{split} ({count} images)" for split, count in splits))
    click.echo(f"classes: {', '.join(dataset.classes)} (void: {dataset.void})")
