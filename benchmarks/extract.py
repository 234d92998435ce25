"""Extraction against the network's forward pass alone, and against the original method."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import local
from time import perf_counter, process_time, thread_time
from typing import Any, get_args
from unittest.mock import patch

import torch

from benchmarks.machine import machine
from benchmarks.opponents import OriginalExtraction, PlainNetwork, abreast
from benchmarks.results import Result, Row, at_least, at_most
from benchmarks.settings import Settings
from benchmarks.subjects import natural_scenes
from benchmarks.timing import Spread, Took, fastest, in_turns, ratio
from pipeline import (
    Backbone,
    Drawing,
    FeatureCache,
    Features,
    Preprocessing,
    VocDataset,
    extract,
    load_backbone,
)
from pipeline.cache import CachedSplit, SampleDrawer
from pipeline.identity import Identity

DTYPES = get_args(Identity.model_fields["dtype"].annotation)
OWN = "the pipeline's own pass, one per thread"
ALONE = ("in batches of 8", "one by one", "one per thread")


def run(settings: Settings) -> Result:
    """Measure."""
    images = settings.pick(32, 6, 2)
    rounds = settings.times(7)
    result = Result(
        "extract",
        "Extraction",
        machine(),
        {"scale": settings.scale, "rounds": rounds, "images": images, "side": settings.side},
        notes=[
            "Per image. The forward pass is that of torchvision's own layers on images that are"
            " decoded already, in the fastest of three ways; the pipeline's own has fewer "
            "multiplications in 3x3 convolutions (Winograd's). Extraction begins with "
            "JPEG files of natural size and ends with HDF5 on the disk, synced, digests and "
            "samples included. The original method enlarges and concatenates all taps and "
            "samples from that; it writes its samples only. Both networks lie in memory "
            "channels last. The share of sampling is by CPU time: that of the threads in "
            "SampleDrawer over that of the process, so waiting counts in neither.",
        ],
    )
    with settings.folder() as folder:
        dataset = natural_scenes(folder / "scenes", images)
        for name in settings.backbones:
            result.rows += _backbone_rows(name, dataset, folder / name, settings, rounds)
    return result


def _backbone_rows(
    name: str, dataset: VocDataset, folder: Path, settings: Settings, rounds: int
) -> list[Row]:
    backbone = load_backbone(name, weights="random")
    preprocessing = Preprocessing(input_size=str(settings.side))
    image_ids = dataset.image_ids("train")
    images = [
        torch.from_numpy(preprocessing.normalize(preprocessing.resize_image(image)))
        for image in map(dataset.read_image, image_ids)
    ]
    plain = PlainNetwork(backbone)
    drawing = Drawing(features=Features(context=()))
    original = OriginalExtraction(dataset, backbone, preprocessing, drawing)
    few = image_ids[: max(1, len(image_ids) // 4)]  # it takes so long
    out = folder / "cache"

    def extraction() -> Took:
        shutil.rmtree(out, ignore_errors=True)
        start = perf_counter()
        extract(dataset, backbone, out, splits=["train"], preprocessing=preprocessing)
        return Took(perf_counter() - start)

    contenders: dict[str, Callable[[], object]] = {
        ALONE[0]: partial(plain.batched, images),
        "extract": extraction,
        ALONE[1]: partial(plain.singly, images),
        "original": partial(original.run, few, folder / "original.h5"),
        ALONE[2]: partial(plain.abreast, images),
        OWN: partial(abreast, backbone, images),
    }
    folder.mkdir()
    seconds = in_turns(contenders, rounds)
    share = _share_of_sampling(extraction)
    count = len(images)
    per_image = {
        what: [s / (len(few) if what == "original" else count) for s in values]
        for what, values in seconds.items()
    }
    best = fastest(per_image, ALONE)
    rows = [
        Row(
            f"{name}: extract / forward pass alone",
            "x",
            ratio(per_image["extract"], per_image[best]),
            at_most(1.15),
            f"fastest alone: {best}",
        ),
        Row(
            f"{name}: extract / the pipeline's own forward pass",
            "x",
            ratio(per_image["extract"], per_image[OWN]),
        ),
        Row(
            f"{name}: original method / extract, float32",
            "x",
            ratio(per_image["original"], per_image["extract"]),
            at_least(3.5),
        ),
        Row.exact(f"{name}: share of sampling", "%", 100 * share, at_most(1)),
    ]
    times = [
        Row(f"{name}: {what}, per image", "ms", Spread.of(values).times(1e3))
        for what, values in per_image.items()
    ]
    goal = at_most(3) if name == "vgg11" and settings.scale != "tiny" else None
    return rows + _bytes_rows(name, dataset, backbone, preprocessing, folder, goal) + times


@contextmanager
def _clocked(owner: type, spent: list[float]) -> Iterator[None]:
    """Add up the CPU seconds in all methods of a class, each thread's, calls within calls once."""
    inside = local()

    def clocked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if getattr(inside, "yes", False):
                return method(*arguments, **named)
            inside.yes, start = True, thread_time()
            try:
                return method(*arguments, **named)
            finally:
                inside.yes = False
                spent.append(thread_time() - start)

        return call

    with ExitStack() as patches:
        for name, method in vars(owner).items():
            if callable(method) and not name.startswith("__"):
                patches.enter_context(patch.object(owner, name, clocked(method)))
        yield


def _share_of_sampling(extraction: Callable[[], Took]) -> float:
    """Give the share of an extraction's CPU time that sampling takes, in a run of its own."""
    spent: list[float] = []
    with _clocked(SampleDrawer, spent):
        start = process_time()
        extraction()
        total = process_time() - start
    return sum(spent) / total


def _bytes_rows(
    name: str,
    dataset: VocDataset,
    backbone: Backbone,
    preprocessing: Preprocessing,
    folder: Path,
    goal: Any,
) -> list[Row]:
    rows, whole = [], 0
    for dtype in DTYPES:
        out = folder / dtype
        extract(dataset, backbone, out, splits=["train"], preprocessing=preprocessing, dtype=dtype)
        cache = FeatureCache(out)
        split = cache["train"]
        stored = split.stored(split.image_ids[0])
        height, width = stored.arrays["label"].values.shape
        whole = 4 * height * width * sum(cache.identity.tap_channels)
        arrays = [stored.arrays[tap] for tap in cache.identity.tap_names]
        size = sum(a.values.nbytes + (0 if a.scale is None else a.scale.nbytes) for a in arrays)
        note = f"{_on_disk(split):.2f} MB with label, image, digests and what HDF5 adds"
        smallest = dtype == "int8"
        rows.append(
            Row.exact(
                f"{name}: maps of an image, {dtype}",
                "MB",
                size / 1e6,
                goal if smallest else None,
                note,
            )
        )
        cache.close()
        shutil.rmtree(out)
    rows.append(_smallest_row(name, dataset, backbone, preprocessing, folder / "smallest", goal))
    return [Row.exact(f"{name}: enlarged, float32", "MB", whole / 1e6), *rows]


def _smallest_row(
    name: str,
    dataset: VocDataset,
    backbone: Backbone,
    preprocessing: Preprocessing,
    out: Path,
    goal: Any,
) -> Row:
    """Measure shards that are as small as all options together make them."""
    extract(
        dataset,
        backbone,
        out,
        splits=["train"],
        preprocessing=preprocessing,
        dtype="int8",
        recompute_first=True,
        compression="gzip",
    )
    size = _on_disk(FeatureCache(out)["train"])
    shutil.rmtree(out)
    what = f"{name}: an image on disk, int8, first map recomputed, gzip"
    return Row.exact(what, "MB", size, goal, "all of it: maps, label, image, digests")


def _on_disk(split: CachedSplit) -> float:
    """Give the megabytes of a split's shards for each image."""
    return sum(path.stat().st_size for path in {*split.where.values()}) / len(split) / 1e6
