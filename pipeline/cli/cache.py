"""``pipeline cache``: what a cache holds, and whether it is sound."""

import json
from pathlib import Path

import click

from pipeline.cli.options import PATH


@click.group()
def cache() -> None:
    """Look into a feature cache, and check it."""


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
        "cache": str(path),
        "fingerprint": found["fingerprint"],
        "backbone": f"{identity['backbone']}, weights {identity['weights']}",
        "taps": f"{taps}; {sum(tap['channels'] for tap in identity['taps'])} channels",
        "preprocessing": f"{settings}, {identity['geometry']}",
        "stored as": identity["dtype"],
        "classes": f"{', '.join(identity['classes'])}; void {identity['void']}",
        "size": f"{found['bytes'] / 1e6:.1f} MB",
    }
    for split, state in found["splits"].items():
        text = f"{state['images']} images, {state['shards']} of {state['shards_expected']} shards"
        text += f", {state['samples']} samples" if state["samples"] is not None else ", no samples"
        if state["skipped"]:
            text += f", {len(state['skipped'])} skipped: {', '.join(state['skipped'])}"
        rows[f"split {split}"] = text
    width = max(len(key) for key in rows)
    for key, text in rows.items():
        click.echo(f"{key:<{width}}  {text}")


@cache.command(epilog="\b\nExamples:\n  pipeline cache verify cache/vgg11")
@click.argument("path", type=PATH, metavar="CACHE")
@click.pass_context
def verify(ctx: click.Context, path: Path) -> None:
    """Read everything in a cache and list what does not match its digest; exit 1 if anything."""
    from pipeline.cli.console import Console
    from pipeline.stages.inspect import verify_cache

    problems = verify_cache(path, progress=Console())
    for problem in problems:
        click.echo(problem)
    click.echo(f"{path}: {len(problems)} damaged" if problems else f"{path}: sound")
    ctx.exit(1 if problems else 0)
