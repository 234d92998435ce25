"""What checking every value costs: the share of digests in reading and in training.

python benchmarks/integrity.py

draws scenes, extracts them at 224x224 in every dtype, and writes
``benchmarks/results/integrity.json`` and ``integrity.md``. For each image in turn, in one process:
read its maps and its label as training does (digests, decoding to float32), and the same with
the digests left out, one after the other in changing order. The files are in the operating system's
cache: from a slower disk the share is smaller.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from pipeline import (
    FeatureCache,
    VocDataset,
    extract,
    fit_dense,
    fit_sparse,
    load_backbone,
    write_scenes,
)
from pipeline.cache import CachedSplit
from pipeline.cache import checked as checked_arrays
from pipeline.cli.memory import keep_freed_memory
from pipeline.software import versions
from pipeline.training import TrainSettings

RESULTS = Path(__file__).parent / "results"
BACKBONES = ("vgg11", "squeezenet1_0")
DTYPES = ("float16", "float32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    keep_freed_memory()  # as every command does
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(Path(folder), backbone, dtype, options.images, options.rounds)
            for backbone in BACKBONES
            for dtype in DTYPES
        ]
    result = {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "software": versions(),
        "rounds": options.rounds,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "integrity.json").write_text(json.dumps(result, indent=2) + "\n")
    text = table(result)
    (RESULTS / "integrity.md").write_text(text)
    print(text)


def measure(folder: Path, backbone: str, dtype: str, images: int, rounds: int) -> dict[str, Any]:
    root = folder / "scenes"
    if not root.exists():
        write_scenes(root, images=images, seed=0)
    path = folder / backbone / dtype
    extract(VocDataset.open(root), load_backbone(backbone, weights="random"), path, dtype=dtype)
    split = FeatureCache(path)["train"]
    taps = split.identity.tap_names
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds + 1):
        for number, image_id in enumerate(split.image_ids):
            for checked in (True, False) if (turn + number) % 2 else (False, True):
                taken = read_seconds(split, image_id, checked=checked)
                if turn:  # the first one warms up
                    seconds[checked].append(taken)
    pairs = np.array([seconds[True], seconds[False]])
    shares = 1 - pairs[1] / pairs[0]
    stored = split.stored(split.image_ids[0]).arrays
    step = seconds_per_image(path, folder, len(split))
    medians = [statistics.median(seconds[checked]) for checked in (True, False)]
    return {
        "backbone": backbone,
        "dtype": dtype,
        "bytes": sum(stored[name].values.nbytes for name in (*taps, "label")),
        "reading_ms": 1e3 * medians[0],
        "unchecked_ms": 1e3 * medians[1],
        "share_of_reading": statistics.median(shares),
        "share_of_reading_quartiles": list(np.quantile(shares, [0.25, 0.75])),
        "training_ms": 1e3 * step,
        "share_of_training": (medians[0] - medians[1]) / step,
    }


class Unchecked:
    """A digest that costs nothing and is right for everything."""

    def update(self, content: object) -> None:
        """Take no notice."""

    def digest(self) -> "Unchecked":
        """Give what equals everything."""
        return self

    def __ne__(self, other: object) -> bool:
        return False


def read_seconds(split: CachedSplit, image_id: str, *, checked: bool) -> float:
    """Time the reading of an image as training does it, with its digests or without."""
    digest = checked_arrays.place_digest if checked else lambda *_: Unchecked()
    with patch.object(checked_arrays, "place_digest", digest):
        start = time.perf_counter()
        split.maps(image_id, split.identity.tap_names)
        split.label(image_id)
        return time.perf_counter() - start


def seconds_per_image(cache: Path, folder: Path, images: int) -> float:
    """Time an epoch of training on every pixel."""
    sparse, dense = folder / "sparse.safetensors", folder / "dense.safetensors"
    fit_sparse(cache, sparse, options={"epochs": 2})
    start = time.perf_counter()
    fit_dense(cache, sparse, dense, settings=TrainSettings(epochs=1), validate_on=None)
    return (time.perf_counter() - start) / images


def table(result: dict[str, Any]) -> str:
    lines = [
        "# What integrity costs",
        "",
        "Digests (xxh3, 128 bits) of all that a training step reads of an image: every tap and "
        "the label at 224x224. Read with and without them, in turn; medians over all images and "
        f"{result['rounds']} rounds; torch {result['software']['torch']} with {result['threads']} "
        f"threads on {result['cores']} cores. Of large images a second thread reads and "
        "digests about half. Made by `benchmarks/integrity.py`.",
        "",
        "| backbone | stored as | bytes per image | reading, ms | without digests, ms "
        "| share of reading (quartiles) | training on an image, ms | share of training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        low, high = row["share_of_reading_quartiles"]
        lines.append(
            f"| {row['backbone']} | {row['dtype']} | {row['bytes'] / 1e6:.2f} MB "
            f"| {row['reading_ms']:.2f} | {row['unchecked_ms']:.2f} "
            f"| {row['share_of_reading']:.1%} ({low:.1%} to {high:.1%}) "
            f"| {row['training_ms']:.0f} | {row['share_of_training']:.2%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
