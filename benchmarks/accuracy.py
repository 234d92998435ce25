"""What each part of the default recipe gives: mean IoU, one row after the other.

python -m benchmarks.accuracy --dataset data/VOCdevkit/VOC2012 --weights DEFAULT --work /tmp/work \
    --name voc2012 --also background,cat,cow,dog,horse,person,sheep

Every row adds one change to the row above it; the last one is the sparse head of
``recipes/default.yaml``. Each is fitted with three seeds, and measured on training images that were
held out: a third of them, another third for each seed. With ``--final`` the heads are fitted on all
training images, and the last row alone is measured, on the validation split; at original resolution
both times. Heads and measurements lie in the work folder and are not made again.

``benchmarks/results/<name>-accuracy.json`` and ``.md`` hold the rows; what each changes of the
recipe stands beside it in the keys that ``dvc exp run -S`` takes.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import xxhash
import yaml

import pipeline
from benchmarks.machine import machine
from pipeline.metrics import mean_iou_over
from pipeline.params import Params
from pipeline.wholefile import write_whole

RESULTS = Path(__file__).parent / "results"
RECIPE = Path(__file__).parents[1] / "recipes" / "default.yaml"
SEEDS = (0, 1, 2)
HELD_OUT = 1 / 3

LOCAL = ["conv1", "fire2", "fire3", "fire5", "fire7", "fire9"]
CONTEXT = ["fire9:global", "fire9:3", "fire9:5", "fire9:9"]
ROWS: dict[str, dict[str, Any]] = {
    "taps alone": {
        "features.taps": LOCAL,
        "features.context": [],
        "fit_sparse.options.dropout": 0.0,
        "fit_sparse.options.members": 1,
        "evaluate.refine": None,
    },
    "and context of the deepest": {"features.context": CONTEXT},
    "and dropout": {"fit_sparse.options.dropout": 0.5},
    "and ImageNet's class scores": {
        "features.taps": [],
        "features.context": [*CONTEXT, "classifier.1:global", "classifier.1:5"],
    },
    "and four members": {"fit_sparse.options.members": 4},
    "and the image's prior": {"evaluate.refine": "prior:4:0"},
    "and a guided filter": {"evaluate.refine": "prior:4:0,guided:16:0.001"},
}
"""What each row changes of the one above it, in the keys of params files."""


def main() -> None:
    options = arguments()
    recipe = yaml.safe_load(RECIPE.read_text())
    work = options.work / ("final" if options.final else "held-out")
    work.mkdir(parents=True, exist_ok=True)
    cache = options.cache or extracted(options)
    rows = []
    for text, changes, params in recipes(recipe)[-1 if options.final else 0 :]:
        measured = [measure(cache, params, seed, work, final=options.final) for seed in SEEDS]
        rows.append({"row": text, "changes": changes, "of seeds": measured})
        print(line(rows[-1], options.also), flush=True)
    record = {
        "dataset": options.dataset.name,
        "measured on": "val" if options.final else "held-out training images",
        "selected_classes": options.also,
        "rows": rows,
        "machine": machine(),
    }
    name = f"{options.name}-accuracy" + ("-final" if options.final else "")
    write_whole(RESULTS / f"{name}.json", json.dumps(record, indent=2) + "\n")
    write_whole(RESULTS / f"{name}.md", table(record))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for cache and heads")
    parser.add_argument("--cache", type=Path, help="a cache of the recipe that is there already")
    parser.add_argument("--name", required=True, help="of the result files")
    parser.add_argument(
        "--also", type=lambda text: text.split(","), required=True, help="classes to average over"
    )
    parser.add_argument("--final", action="store_true", help="measure on the validation split")
    return parser.parse_args()


def extracted(options: argparse.Namespace) -> Path:
    """Make the cache of the recipe, if it is not there; all rows are fitted on it."""
    cache: Path = options.work / "cache"
    words = ["--params", RECIPE, "--dataset", options.dataset, "--weights", options.weights]
    command = [sys.executable, "-m", "pipeline", "extract", *words, "--out", cache]
    subprocess.run([str(word) for word in command], check=True)
    return cache


def recipes(recipe: dict[str, Any]) -> list[tuple[str, dict[str, Any], Params]]:
    """Give each row's text, what it changes of the recipe in all, and its params."""
    rows, changes = [], dict[str, Any]()
    for text, added in ROWS.items():
        changes = changes | added
        rows.append((text, changes, Params.model_validate(changed(recipe, changes))))
    return rows


def changed(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Give the recipe with other values at some keys, written with dots between."""
    result = json.loads(json.dumps(recipe))
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = result
        for name in sections:
            section = section[name]
        section[last] = value
    return result


def measure(cache: Path, params: Params, seed: int, work: Path, *, final: bool) -> dict[str, Any]:
    """Fit and measure a row with one seed, unless that has been done."""
    fingerprint = pipeline.FeatureCache(cache).identity.fingerprint
    key = digest(params.fit_sparse, params.features, params.samples, fingerprint, seed)
    head = work / f"{key}.safetensors"
    if not head.exists():
        chosen = params.fit_sparse
        pipeline.fit_sparse(
            cache,
            head,
            estimator=chosen.estimator,
            options=chosen.options,
            drawing=params.drawing(),
            holdout=0.0 if final else HELD_OUT,
            seed=seed,
        )
    out = work / f"{key}-{digest(params.evaluate)}.json"
    if not out.exists():
        split = params.evaluate.split if final else "held-out"
        pipeline.evaluate(cache, head, split=split, refine=params.evaluate.refine, out=out)
    measured: dict[str, Any] = json.loads(out.read_text())
    for values in (measured, measured["cache_resolution"]):
        del values["confusion_matrix"]
    return {"seed": seed, **measured}


def digest(*parts: Any) -> str:
    """Name what parts of the params decide."""
    return xxhash.xxh3_64_hexdigest(repr(parts).encode())


def line(row: dict[str, Any], also: list[str]) -> str:
    values = [100 * mean_iou_over(one, also) for one in row["of seeds"]]
    every = [100 * one["mean_iou"] for one in row["of seeds"]]
    pixels = [100 * one["pixel_accuracy"] for one in row["of seeds"]]
    return (
        f"| {row['row']} | **{statistics.mean(values):.1f}** | {min(values):.1f} to "
        f"{max(values):.1f} | {statistics.mean(every):.1f} | {statistics.mean(pixels):.1f} |"
    )


def table(record: dict[str, Any]) -> str:
    also, on = record["selected_classes"], record["measured on"]
    host = record["machine"]
    counted = record["rows"][0]["of seeds"][0]["images"]
    return "\n".join(
        [
            f"# What each part of the default recipe gives on {record['dataset']}",
            "",
            f"Sparse heads, {len(SEEDS)} seeds each, {counted} images ({on}) at original "
            f"resolution; per cent. {host['cores']} cores of {host['processor']}, torch "
            f"{host['software']['torch']}. Made by `benchmarks/accuracy.py`.",
            "",
            f"| row | mean IoU of {', '.join(also)} | of the seeds | mean IoU of all classes there "
            "| pixel accuracy |",
            "|---|---|---|---|---|",
            *(line(row, also) for row in record["rows"]),
            "",
        ]
    )


if __name__ == "__main__":
    main()
