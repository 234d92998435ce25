"""What each part of the recipes gives: mean IoU, one row after the other.

python -m benchmarks.accuracy --dataset data/VOCdevkit/VOC2012 --weights DEFAULT --work /tmp/work \
    --name voc2012 --also background,cat,cow,dog,horse,person,sheep

Every row adds one change to the row above it; one is the sparse head of ``recipes/default.yaml``,
the last that of ``recipes/best.yaml``. Each is fitted with three seeds by default, and measured on
training images that were held out: a third of them, another third for each seed. With ``--beside``
the rows are changes of one of these rows each that are in no recipe. With ``--final`` the heads are
fitted on all training images and measured on the validation split; at original resolution always.
Heads and measurements lie in the work folder and are not made again.

``benchmarks/results/<name>-accuracy.json`` and ``.md`` hold the rows (``-beside``, ``-final``);
what each changes of ``recipes/best.yaml`` stands beside it in the keys that ``dvc exp run -S``
takes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
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
RECIPES = Path(__file__).parents[1] / "recipes"
SEEDS = [0, 1, 2]
HELD_OUT = 1 / 3

LOCAL = ["conv1", "fire2", "fire3", "fire5", "fire7", "fire9"]
CONTEXT = ["fire9:global", "fire9:3", "fire9:5", "fire9:9"]
Changes = dict[str, Any]
"""New values at keys of a params file, with dots between the names of sections."""

ROWS: dict[str, Changes] = {
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
    "a random field for the filter": {"evaluate.refine": "crf:2000:4:5,prior:4:0"},
}
"""What each row changes of the one above it; the first, of ``recipes/best.yaml``."""

DEFAULT = "and a guided filter"
"""The row that is ``recipes/default.yaml``."""

_LOGISTIC: Changes = {
    "fit_sparse.estimator": "logistic",
    "fit_sparse.options": {},
    "fit_sparse.max_samples": 50_000,
}
_SCORES = "and ImageNet's class scores"
BESIDE: dict[str, tuple[str, Changes]] = {
    "3 x 3 classifiers": (_SCORES, {"fit_sparse.grid": 3}),
    "5 x 5 classifiers": (_SCORES, {"fit_sparse.grid": 5}),
    "3 pixels of each class": (_SCORES, {"samples.pixels_per_class": 3}),
    "without ReLU": (_SCORES, {"features.activation": "none"}),
    "superpixels for the filter": (DEFAULT, {"evaluate.refine": "prior:4:0,superpixels:300"}),
    "10 x 10 classifiers": (_SCORES, {"fit_sparse.grid": 10}),
    "logistic regression": (_SCORES, _LOGISTIC),
    "512 hidden units": (_SCORES, {"fit_sparse.options.hidden": 512}),
    "150 pixels of each class": (_SCORES, {"samples.pixels_per_class": 150}),
    "eight members": ("and four members", {"fit_sparse.options.members": 8}),
}
"""A row each, and what is changed of it."""


def main() -> None:
    options = arguments()
    best = yaml.safe_load((RECIPES / "best.yaml").read_text())
    work = options.work / ("final" if options.final else "held-out")
    work.mkdir(parents=True, exist_ok=True)
    cache = options.cache or extracted(options)
    kind = "-beside" * options.beside + "-final" * options.final
    name = f"{options.name}-accuracy{kind}"
    rows: list[dict[str, Any]] = []
    record = {
        "dataset": options.dataset.name,
        "measured on": "val" if options.final else "held-out training images",
        "selected_classes": options.also,
        "rows": rows,
        "machine": machine(),
    }
    for text, changes in (beside() if options.beside else parts()).items():
        params = Params.model_validate(changed(best, changes))
        measured = [
            measure(cache, params, seed, work, final=options.final) for seed in options.seeds
        ]
        rows.append({"row": text, "changes": changes, "of seeds": measured})
        print(line(rows[-1], options.also), flush=True)
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
    parser.add_argument(
        "--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=SEEDS
    )
    parser.add_argument("--beside", action="store_true", help="measure what is in no recipe")
    parser.add_argument("--final", action="store_true", help="measure on the validation split")
    return parser.parse_args()


def extracted(options: argparse.Namespace) -> Path:
    """Make the cache of the recipe, if it is not there; all rows are fitted on it."""
    cache: Path = options.work / "cache"
    words = [
        "--params",
        RECIPES / "best.yaml",
        "--dataset",
        options.dataset,
        "--weights",
        options.weights,
    ]
    command = [sys.executable, "-m", "pipeline", "extract", *words, "--out", cache]
    subprocess.run([str(word) for word in command], check=True)
    return cache


def parts() -> dict[str, Changes]:
    """Give what each row changes of the best recipe in all."""
    rows, changes = dict[str, Changes](), Changes()
    for text, added in ROWS.items():
        rows[text] = changes = changes | added
    return rows


def beside() -> dict[str, Changes]:
    """Give what each row that is in no recipe changes of the best one in all."""
    rows = parts()
    return {f"{row}; {text}": rows[row] | added for text, (row, added) in BESIDE.items()}


def changed(recipe: dict[str, Any], changes: Changes) -> dict[str, Any]:
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
        start = time.process_time()
        pipeline.fit_sparse(
            cache,
            head,
            estimator=chosen.estimator,
            options=chosen.options,
            grid=chosen.grid,
            max_samples=chosen.max_samples,
            drawing=params.drawing(),
            holdout=0.0 if final else HELD_OUT,
            seed=seed,
        )
        write_whole(work / f"{key}.seconds", f"{time.process_time() - start:.1f}\n")
    out = work / f"{key}-{digest(params.evaluate)}.json"
    if not out.exists():
        split = params.evaluate.split if final else "held-out"
        pipeline.evaluate(cache, head, split=split, refine=params.evaluate.refine, out=out)
    measured: dict[str, Any] = json.loads(out.read_text())
    for values in (measured, measured["cache_resolution"]):
        del values["confusion_matrix"]
    fitted = work / f"{key}.seconds"
    seconds = float(fitted.read_text()) if fitted.exists() else None
    return {"seed": seed, "seconds of fitting": seconds, **measured}


def digest(*parts: Any) -> str:
    """Name what parts of the params decide."""
    return xxhash.xxh3_64_hexdigest(repr(parts).encode())


def line(row: dict[str, Any], also: list[str]) -> str:
    values = [100 * mean_iou_over(one, also) for one in row["of seeds"]]
    every = [100 * one["mean_iou"] for one in row["of seeds"]]
    pixels = [100 * one["pixel_accuracy"] for one in row["of seeds"]]
    seconds = [one["seconds of fitting"] for one in row["of seeds"]]
    took = "" if None in seconds else f"{statistics.median(seconds):.0f} s"
    return (
        f"| {row['row']} | **{statistics.mean(values):.1f}** | {min(values):.1f} to "
        f"{max(values):.1f} | {statistics.mean(every):.1f} | {statistics.mean(pixels):.1f} "
        f"| {took} |"
    )


def table(record: dict[str, Any]) -> str:
    also, on = record["selected_classes"], record["measured on"]
    host = record["machine"]
    first = record["rows"][0]["of seeds"]
    seeds = "one seed" if len(first) == 1 else f"{len(first)} seeds"
    counted = first[0]["images"]
    return "\n".join(
        [
            f"# What each part of the recipes gives on {record['dataset']}",
            "",
            f"Sparse heads, {seeds} each, {counted} images ({on}) at original "
            "resolution; per cent. A fit's seconds are of processor time, with the drawing of "
            f"samples where others had been drawn before. "
            f"{host['cores']} cores of {host['processor']}, torch "
            f"{host['software']['torch']}. Made by `benchmarks/accuracy.py`.",
            "",
            f"| row | mean IoU of {', '.join(also)} | of the seeds | mean IoU of all classes there "
            "| pixel accuracy | fit |",
            "|---|---|---|---|---|---|",
            *(line(row, also) for row in record["rows"]),
            "",
        ]
    )


if __name__ == "__main__":
    main()
