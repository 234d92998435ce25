"""Run a recipe on a data set, command by command, and record times and metrics.

python -m benchmarks.recipe --recipe recipes/default.yaml --dataset data/VOCdevkit/VOC2012 \
    --weights DEFAULT --work /tmp/work --name voc2012 \
    --also background,cat,cow,dog,horse,person,sheep

writes ``benchmarks/results/<name>.json`` and ``<name>.md``. Times are of whole processes, their
start included, each run once.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import machine
from pipeline.metrics import mean_iou_over
from pipeline.params import load_params

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = arguments()
    params = load_params(options.recipe)
    work = options.work / options.name
    cache, sparse, dense = work / "cache", work / "sparse.safetensors", work / "dense.safetensors"
    common = ["--params", options.recipe]
    backbone = ["--backbone", options.backbone] if options.backbone else []
    seconds = {
        "extract": timed(
            "extract", *common, *backbone, "--dataset", options.dataset,
            "--weights", options.weights, "--out", cache,
        ),
        "fit-sparse": timed("fit-sparse", *common, "--cache", cache, "--out", sparse),
        "fit-dense": timed(
            "fit-dense", *common, "--cache", cache, "--init", sparse, "--out", dense
        ),
    }  # fmt: skip
    metrics = {}
    for name, head in (("sparse", sparse), ("dense", dense)):
        out = work / f"{name}.json"
        seconds[f"evaluate {name}"] = timed(
            "evaluate", *common, "--cache", cache, "--head", head, "--out", out
        )
        metrics[name] = json.loads(out.read_text())
    seconds["report"] = timed(
        "report", *common, "--cache", cache, "--out", work / "report",
        "--head", f"sparse={sparse}", "--metrics", f"sparse={work / 'sparse.json'}",
        "--head", f"dense={dense}", "--metrics", f"dense={work / 'dense.json'}",
    )  # fmt: skip

    also = [name for name in (options.also or "").split(",") if name]
    for values in metrics.values():
        for where in (values, values["cache_resolution"]):
            where["mean_iou_of_selected"] = mean_iou_over(where, also) if also else None
            del where["confusion_matrix"]
    record = {
        "recipe": params.model_dump(mode="json"),
        "backbone": options.backbone or params.extract.backbone,
        "dataset": options.dataset.name,
        "selected_classes": also,
        "seconds": seconds,
        "cache_bytes": sum(file.stat().st_size for file in cache.iterdir()),
        "metrics": metrics,
        "machine": machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{options.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    (RESULTS / f"{options.name}.md").write_text(table(options.name, record))
    print(table(options.name, record))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--backbone", help="in place of the recipe's")
    parser.add_argument("--work", type=Path, required=True, help="folder for cache and heads")
    parser.add_argument("--name", required=True, help="of the result files")
    parser.add_argument("--also", help="classes whose mean IoU is reported besides")
    return parser.parse_args()


def timed(*command: object) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", *map(str, command)], check=True)
    return round(time.perf_counter() - start, 1)


def table(name: str, record: dict) -> str:
    metrics, seconds = record["metrics"], record["seconds"]
    selected = ", ".join(record["selected_classes"])
    machine = record["machine"]
    lines = [
        f"# {name}",
        "",
        f"{record['backbone']} on {record['dataset']}, {metrics['dense']['images']} images of "
        f"'{metrics['dense']['split']}'. {machine['cores']} cores of {machine['processor']}, torch "
        f"{machine['software']['torch']}. Made by `benchmarks/recipe.py`.",
        "",
        "| | sparse | dense | sparse, cache resolution | dense, cache resolution |",
        "|---|---|---|---|---|",
    ]
    columns = [
        values
        for where in ("original", "cache")
        for values in (
            metrics[head] if where == "original" else metrics[head]["cache_resolution"]
            for head in ("sparse", "dense")
        )
    ]
    for text, key in (
        ("pixel accuracy", "pixel_accuracy"),
        ("mean class accuracy", "mean_class_accuracy"),
        ("mean IoU, classes present", "mean_iou"),
        (f"mean IoU of {selected}", "mean_iou_of_selected"),
        ("frequency-weighted IoU", "frequency_weighted_iou"),
        ("classes counted", "classes_counted"),
    ):
        if columns[0][key] is not None:
            lines.append(f"| {text} | " + " | ".join(number(c[key]) for c in columns) + " |")
    for cls in columns[0]["iou"]:
        lines.append(f"| IoU {cls} | " + " | ".join(number(c["iou"][cls]) for c in columns) + " |")
    lines += ["", "| stage | seconds |", "|---|---|"]
    lines += [f"| {stage} | {value:.1f} |" for stage, value in seconds.items()]
    lines += [f"| **all** | **{sum(seconds.values()):.1f}** |", ""]
    lines += [f"The cache takes {record['cache_bytes'] / 1e9:.2f} GB.", ""]
    return "\n".join(lines)


def number(value: float | None) -> str:
    if value is None:
        return "absent"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


if __name__ == "__main__":
    main()
