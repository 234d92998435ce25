"""A few scenes to tamper with, extractions of them, and what is in a cache as plain bytes."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    Backbone,
    Drawing,
    FeatureCache,
    Features,
    Preprocessing,
    VocDataset,
    extract,
)
from pipeline.cache import read_samples, samples_path
from pipeline.progress import Silent
from pipeline.stages.extract import ExtractResult

TRAIN, VAL = 5, 2


class Listening(Silent):
    """Takes up what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Interrupted(Silent):
    """Stops like Ctrl-C after so many items of one task."""

    def __init__(self, what: str, after: int) -> None:
        self.what, self.after = what, after

    def track(self, items: Iterable[Any], *, total: int, unit: str, what: str) -> Iterator[Any]:
        for count, item in enumerate(items):
            if what == self.what and count == self.after:
                raise KeyboardInterrupt
            yield item


@pytest.fixture
def listening() -> Listening:
    return Listening()


@pytest.fixture
def interrupted() -> type[Interrupted]:
    return Interrupted


SETTINGS = {
    "preprocessing": Preprocessing(input_size="native"),
    "images_per_shard": 2,
    "drawing": Drawing(features=Features(context=()), pixels_per_class=2),
}


def copy_some(scenes: VocDataset, root: Path) -> VocDataset:
    """Copy a few of the scenes, 5 train and 2 val, listed backwards."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    shutil.copy(scenes.root / "classes.txt", root)
    for split, count in (("train", TRAIN), ("val", VAL)):
        ids = scenes.image_ids(split)[:count][::-1]
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids))
        for image_id in ids:
            shutil.copy(scenes.image_path(image_id), root / "JPEGImages")
            shutil.copy(scenes.mask_path(image_id), root / "SegmentationClass")
    return VocDataset.open(root)


@pytest.fixture
def dataset(scenes: VocDataset, tmp_path: Path) -> VocDataset:
    """Give a few of the scenes, to be tampered with."""
    return copy_some(scenes, tmp_path / "data")


@pytest.fixture
def run(dataset: VocDataset, backbone: Backbone, tmp_path: Path) -> Callable[..., ExtractResult]:
    """Extract with two images per shard: three shards of train, one of val."""

    def extract_with(**changes: Any) -> ExtractResult:
        given = {"dataset": dataset, "backbone": backbone, "out": tmp_path / "cache"}
        return extract(**given | SETTINGS | changes)

    return extract_with


@pytest.fixture(scope="session")
def _extracted(
    scenes: VocDataset, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("extracted")
    extract(copy_some(scenes, root / "data"), backbone, root / "cache", **SETTINGS)
    return root / "cache"


@pytest.fixture
def extracted(_extracted: Path, tmp_path: Path) -> Path:
    """Give the cache that ``run`` makes if nothing has been tampered with, at once."""
    return Path(shutil.copytree(_extracted, tmp_path / "cache"))


@pytest.fixture
def values() -> Callable[..., dict[Any, Any]]:
    """Give everything that a cache holds for people to use, as plain bytes."""

    def read(directory: Path, splits: Iterable[str] = ("train", "val")) -> dict[Any, Any]:
        cache = FeatureCache(directory)
        found: dict[Any, Any] = {
            (split, image_id, name): (array.values.dtype, array.values.shape, array.digest)
            for split in splits
            for image_id in cache[split].image_ids
            for name, array in cache[split].stored(image_id).arrays.items()
        }
        for split in splits:
            samples = read_samples(samples_path(directory, split))
            for name in ("features", "label", "image", "y", "x"):
                found[split, name] = getattr(samples, name).tobytes()
        cache.close()
        return found

    return read


@pytest.fixture
def backbone_runs(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the images that have gone through the backbone since the last time of asking."""
    counted = []
    forward = type(backbone).__call__

    def count(self: Backbone, images: Any) -> Any:
        counted.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(type(backbone), "__call__", count)

    def since() -> int:
        total = sum(counted)
        counted.clear()
        return total

    return since
