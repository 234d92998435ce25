"""What a stage does grows with the number of images and shards, and no faster.

What is counted is operations, since seconds depend on what else the machine does.
"""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pipeline
from pipeline.stages.inspect import inspect_cache, verify_cache
from pipeline.stages.maintain import collect_garbage, repair_cache

COUNTS = (8, 12, 16)
"""Images, one in a shard, and no fewer than the masks that are looked at beforehand. Equally far
apart: what is linear grows by as much in both steps."""

STAGES = (
    "check_dataset",
    "extract",
    "extract again",
    "divide otherwise",
    "cache info",
    "cache verify",
    "cache repair",
    "cache gc",
    "fit-sparse",
    "fit-dense",
    "evaluate",
    "predict",
)

_counted: list[Counter[str]] = []


def _count(event: str, arguments: tuple[object, ...]) -> None:
    if _counted and event in ("open", "os.scandir", "os.listdir"):
        _counted[0]["opened" if event == "open" else "listed"] += 1


@pytest.fixture(scope="module")
def counting() -> Callable[[], object]:
    """Give a block that counts opened files and listed folders, by whatever library."""
    sys.addaudithook(_count)  # for good, but it does nothing outside the block

    @contextmanager
    def block() -> Iterator[Counter[str]]:
        _counted.append(Counter())
        try:
            yield _counted[0]
        finally:
            _counted.clear()

    return block


@pytest.fixture(scope="module")
def operations(counting, tmp_path_factory) -> dict[str, list[Counter[str]]]:
    """Run every stage with ever more images, and count."""
    folder = tmp_path_factory.mktemp("growth")
    scenes = pipeline.write_scenes(folder / "scenes", images=3, size=(32, 32))
    backbone = pipeline.load_backbone("squeezenet1_0", weights="random", taps=["conv1", "fire2"])
    found: dict[str, list[Counter[str]]] = {stage: [] for stage in STAGES}
    for count in (1, *COUNTS):
        calls = _calls(
            _crowd(folder / f"data-{count}", scenes, count), backbone, folder / f"{count}"
        )
        for stage in STAGES:
            with counting() as counter:
                calls[stage]()
            found[stage].append(counter)
    return {stage: counters[1:] for stage, counters in found.items()}  # imports are made once


def _crowd(root: Path, scenes: Path, count: int) -> pipeline.VocDataset:
    """Make a data set of copies of one scene."""
    for name in ("JPEGImages", "SegmentationClass"):
        (root / name).mkdir(parents=True)
        first = min((scenes / name).iterdir())
        for n in range(count):
            shutil.copy(first, root / name / f"image_{n:02d}{first.suffix}")
    shutil.copy(scenes / "classes.txt", root)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("".join(f"image_{n:02d}\n" for n in range(count)))
    return pipeline.VocDataset.open(root)


def _calls(
    dataset: pipeline.VocDataset, backbone: pipeline.Backbone, out: Path
) -> dict[str, Callable[[], object]]:
    cache, sparse, dense = out / "cache", out / "sparse.safetensors", out / "dense.safetensors"

    def extract(images_per_shard: int = 1) -> object:
        return pipeline.extract(
            dataset,
            backbone,
            cache,
            splits=["train"],
            preprocessing=pipeline.Preprocessing(input_size="native"),
            drawing=pipeline.Drawing(features=pipeline.Features(context=())),
            images_per_shard=images_per_shard,
        )

    def divide_otherwise() -> None:
        extract(2)
        extract(1)

    def fit_dense() -> object:
        settings = pipeline.TrainSettings(epochs=1)
        return pipeline.fit_dense(cache, sparse, dense, settings=settings, validate_on=None)

    return {
        "check_dataset": lambda: pipeline.check_dataset(dataset),
        "extract": extract,
        "extract again": extract,
        "divide otherwise": divide_otherwise,
        "cache info": lambda: inspect_cache(cache),
        "cache verify": lambda: verify_cache(cache),
        "cache repair": lambda: repair_cache(cache),
        "cache gc": lambda: collect_garbage(cache),
        "fit-sparse": lambda: pipeline.fit_sparse(
            cache, sparse, options={"hidden": 4, "epochs": 1}, holdout=0
        ),
        "fit-dense": fit_dense,
        "evaluate": lambda: pipeline.evaluate(cache, dense, split="train"),
        "predict": lambda: pipeline.predict(
            dense, [dataset.root / "JPEGImages"], out / "masks", weights="random"
        ),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_files_are_opened_a_fixed_number_of_times_for_every_image(operations, stage):
    few, more, most = (counter["opened"] for counter in operations[stage])
    assert most - more == more - few


@pytest.mark.parametrize("stage", STAGES)
def test_folders_are_listed_a_fixed_number_of_times(operations, stage):
    few, more, most = (counter["listed"] for counter in operations[stage])
    assert few == more == most
