"""``pipeline report``: figures and one HTML page."""

from pathlib import Path

import click

from pipeline.cli.options import (
    PATH,
    cache_option,
    device_option,
    params_option,
    read_params,
    trust_option,
)


@click.command(
    epilog="\b\n"
    "Examples:\n"
    "  pipeline report --cache cache/vgg11 --out report \\\n"
    "                  --head sparse=sparse.safetensors --metrics sparse=sparse.json \\\n"
    "                  --head dense=dense.safetensors   --metrics dense=dense.json"
)
@cache_option
@click.option(
    "--head",
    "heads",
    multiple=True,
    required=True,
    metavar="NAME=HEAD",
    help="A head to show and what to call it. Repeat for more.",
)
@click.option(
    "--metrics",
    multiple=True,
    required=True,
    metavar="NAME=JSON",
    help="What 'pipeline evaluate' wrote for the head of that name.",
)
@click.option("--out", type=PATH, required=True, metavar="DIR", help="Folder to write.")
@click.option("--split", help="Where the pictures are from [default: val].")
@click.option("--images", type=int, help="Number of pictures [default: 6].")
@click.option("--title", help="Title of the page.")
@device_option
@trust_option
@params_option
def report(
    cache: Path,
    heads: tuple[str, ...],
    metrics: tuple[str, ...],
    out: Path,
    split: str | None,
    images: int | None,
    title: str | None,
    device: str,
    trusted: tuple[str, ...],
    params_path: Path | None,
) -> None:
    """Write one self-contained HTML page and its PNG files."""
    from pipeline.cli.console import Console
    from pipeline.params import override
    from pipeline.stages.report import report as run

    params = read_params(params_path)
    chosen = override(params.report, {"split": split, "images": images, "title": title})
    page = run(
        cache,
        _by_name(heads, "--head"),
        _by_name(metrics, "--metrics"),
        out,
        title=chosen.title,
        split=chosen.split,
        images=chosen.images,
        device=device,
        trusted=trusted,
        progress=Console(),
    )
    click.echo(page)


def _by_name(texts: tuple[str, ...], option: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"'{text}' is not of the form NAME=PATH", param_hint=option)
        if name in found:
            raise click.BadParameter(f"'{name}' is given twice", param_hint=option)
        found[name] = Path(path)
    return found
