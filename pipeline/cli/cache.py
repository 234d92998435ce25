"""``pipeline cache``: what a cache holds, whether it is sound, and making it so."""

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.options import PATH, device_option


@click.group()
def cache() -> None:
    """Look into a feature cache, check it, mend it."""


@cache.command(
    epilog="\b\nExamples:\n  pipeline cache info cache/vgg11\n"
    "  pipeline cache info cache/vgg11 --json"
)
@click.argument("path", type=PATH, metavar="CACHE")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(path: Path, as_json: bool) -> None:
    """Say what a cache holds, how complete and large it is, and what it was made from."""
    from pipeline.stages.inspect import inspect_cache

    found = inspect_cache(path)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    identity = found["identity"]
    taps = ", ".join(f"{tap['name']} ({tap['channels']})" for tap in identity["taps"])
    settings = ", ".join(f"{key} {value}" for key, value in identity["preprocessing"].items())
    rows = {
        "cache": f"{path}, {'complete' if found['complete'] else 'NOT complete'}",
        "fingerprint": found["fingerprint"],
        "backbone": f"{identity['backbone']}, weights {identity['weights']}",
        "taps": f"{taps}; {sum(tap['channels'] for tap in identity['taps'])} channels",
        "preprocessing": f"{settings}, {identity['geometry']}",
        "stored as": _stored_as(identity),
        "classes": f"{', '.join(identity['classes'])}; void {identity['void']}",
        "size": _megabytes(found["bytes"]),
    }
    if found["made_from"]:
        rows["made from"] = ", ".join(
            f"{name} {found['made_from'][name]}"
            for name in ("dataset", "weights", "seed")
            if name in found["made_from"]
        )
    for split, state in found["splits"].items():
        rows[f"split {split}"] = _split_text(state)
    width = max(len(key) for key in rows)
    for key, text in rows.items():
        click.echo(f"{key:<{width}}  {text}")
    for problem in found["problems"]:
        click.echo(problem)


def _stored_as(identity: dict[str, Any]) -> str:
    if "recompute_first" not in identity:
        return str(identity["dtype"])
    return f"{identity['dtype']}; {identity['taps'][0]['name']} is computed from the image"


def _split_text(state: dict[str, Any]) -> str:
    text = f"{state['images']} images, {state['shards']} of {state['shards_expected']} shards"
    text += f" ({_megabytes(state['bytes'])})"
    text += f", {state['samples']} samples" if state["samples"] is not None else ", no samples"
    if state["skipped"]:
        text += f", {len(state['skipped'])} skipped: {', '.join(state['skipped'])}"
    return text


@cache.command(epilog="\b\nExamples:\n  pipeline cache verify cache/vgg11")
@click.argument("path", type=PATH, metavar="CACHE")
@click.pass_context
def verify(ctx: click.Context, path: Path) -> None:
    """Read everything in a cache and list what does not match its digest; exit 1 if anything."""
    from pipeline.cli.console import Console
    from pipeline.stages.inspect import verify_cache

    problems = verify_cache(path, progress=Console())
    for problem in problems:
        click.echo(problem.what)
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    click.echo(f"{path}: {count if problems else 'sound'}")
    ctx.exit(1 if problems else 0)


@cache.command(
    epilog="\b\nExamples:\n  pipeline cache repair cache/vgg11\n"
    "  pipeline cache repair cache/vgg11 --dataset /other/disk/VOC2012 --weights vgg11.safetensors"
)
@click.argument("path", type=PATH, metavar="CACHE")
@click.option(
    "--dataset", type=PATH, metavar="ROOT", help="The data set [default: as when it was extracted]."
)
@click.option("--weights", metavar="W", help="The weights [default: as when it was extracted].")
@click.option("--seed", type=int, help="Of random weights [default: as when it was extracted].")
@device_option
def repair(
    path: Path, dataset: Path | None, weights: str | None, seed: int | None, device: str
) -> None:
    """Read everything in a cache, and extract again just what is damaged or missing."""
    from pipeline.cli.console import Console
    from pipeline.stages.maintain import repair_cache

    result = repair_cache(
        path, dataset=dataset, weights=weights, seed=seed, device=device, progress=Console()
    )
    click.echo(f"{path}: {result.images} images, {result.computed} computed again")


@cache.command(
    epilog="\b\nExamples:\n  pipeline cache gc cache/vgg11 --dry-run\n"
    "  pipeline cache gc cache/vgg11"
)
@click.argument("path", type=PATH, metavar="CACHE")
@click.option("--keep", metavar="FINGERPRINT", help="What stays [default: the manifest's].")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def gc(path: Path, keep: str | None, dry_run: bool) -> None:
    """Remove what no fingerprint claims: leftovers of dead runs, shards made otherwise."""
    from pipeline.stages.maintain import collect_garbage

    found = collect_garbage(path, keep=keep, dry_run=dry_run)
    for garbage in found:
        click.echo(f"{garbage.path}: {garbage.why}, {_megabytes(garbage.bytes)}")
    verb = "could be removed" if dry_run else "removed"
    total = sum(garbage.bytes for garbage in found)
    click.echo(f"{path}: {len(found)} files {verb}, {_megabytes(total)}")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
