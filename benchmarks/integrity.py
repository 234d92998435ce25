"""What checking every value costs: the share of digests in reading and in training.

python benchmarks/integrity.py

draws scenes, extracts them with SqueezeNet at 224x224 in every dtype, and writes
``benchmarks/results/integrity.json`` and ``integrity.md``. For each image in turn, in one process:
read its maps and its label as training does (HDF5, digest, decoding to float32), then only compute
the same digests again. The files are in the operating system's cache: from a slower disk the share
is smaller.
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
from pipeline.software import versions
from pipeline.training import TrainSettings

RESULTS = Path(__file__).parent / "results"
DTYPES = ("float16", "float32", "int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder), dtype, options.images, options.rounds) for dtype in DTYPES]
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


def measure(folder: Path, dtype: str, images: int, rounds: int) -> dict[str, Any]:
    root = folder / "scenes"
    if not root.exists():
        write_scenes(root, images=images, seed=0)
    backbone = load_backbone("squeezenet1_0", weights="random")
    path = folder / dtype
    extract(VocDataset.open(root), backbone, path, dtype=dtype)
    split = FeatureCache(path)["train"]
    reading, digests = [], []
    for _ in range(rounds):
        for image_id in split.image_ids:
            start = time.perf_counter()
            split.maps(image_id, split.identity.tap_names)
            split.label(image_id)
            reading.append(time.perf_counter() - start)
            stored = split.stored(image_id).arrays
            arrays = [stored[name] for name in (*split.identity.tap_names, "label")]
            start = time.perf_counter()
            for array in arrays:
                array.digest  # noqa: B018
            digests.append(time.perf_counter() - start)
    shares = [d / r for d, r in zip(digests, reading, strict=True)]
    step = seconds_per_image(path, folder, len(split))
    return {
        "dtype": dtype,
        "bytes": sum(array.values.nbytes for array in arrays),
        "reading_ms": 1e3 * statistics.median(reading),
        "digests_ms": 1e3 * statistics.median(digests),
        "share_of_reading": statistics.median(shares),
        "share_of_reading_quartiles": list(np.quantile(shares, [0.25, 0.75])),
        "training_ms": 1e3 * step,
        "share_of_training": statistics.median(digests) / step,
    }


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
        "Digests (xxh3, 128 bits) of all that a training step reads of an image: six taps of "
        "SqueezeNet and the label at 224x224. Medians over all images and "
        f"{result['rounds']} rounds; torch {result['software']['torch']} with {result['threads']} "
        f"threads on {result['cores']} cores; digests and reading take one. "
        "Made by `benchmarks/integrity.py`.",
        "",
        "| stored as | bytes per image | reading, ms | of it digests, ms | share of reading "
        "(quartiles) | training on an image, ms | share of training |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        low, high = row["share_of_reading_quartiles"]
        lines.append(
            f"| {row['dtype']} | {row['bytes'] / 1e6:.2f} MB | {row['reading_ms']:.2f} "
            f"| {row['digests_ms']:.3f} | {row['share_of_reading']:.1%} ({low:.1%} to {high:.1%}) "
            f"| {row['training_ms']:.0f} | {row['share_of_training']:.2%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
