"""What the runs work on, and the states they begin in.

A world is a folder with a data set, its cache, heads, masks and metrics. A scenario is a world and
a command that is run there.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image
from runs import Course, Forks

from pipeline import FeatureCache, VocDataset
from pipeline.identity import file_digest

EXTRACT = (
    *("extract", "--dataset", "data", "--out", "cache", "--device", "cpu"),
    *("--backbone", "squeezenet1_0", "--weights", "random", "--tap", "fire2", "--tap", "fire5"),
    *("--input-size", "native", "--images-per-shard", "5", "--context", "global"),
)
FIT_SPARSE = (
    *("fit-sparse", "--cache", "cache", "--out", "sparse.safetensors", "--holdout", "0.2"),
    *("--option", "hidden=16", "--option", "epochs=4"),
)
FIT_DENSE = (
    *("fit-dense", "--cache", "cache", "--init", "sparse.safetensors", "--device", "cpu"),
    *("--out", "dense.safetensors", "--history", "history.csv", "--epochs", "3"),
)
EVALUATE = (
    *("evaluate", "--cache", "cache", "--head", "dense.safetensors", "--device", "cpu"),
    *("--out", "metrics.json"),
)
PREDICT = (
    *("predict", "--head", "dense.safetensors", "--weights", "random", "--device", "cpu"),
    *("--out", "masks", "--overlay", "data/JPEGImages"),
)
REPAIR = ("cache", "repair", "cache", "--device", "cpu")
GC = ("cache", "gc", "cache")

# Each state is the one before it and what a command adds to it.
STATES: Mapping[str, tuple[str, ...]] = {
    "cached": EXTRACT,
    "sparse": FIT_SPARSE,
    "dense": FIT_DENSE,
}


def shard(world: Path, split: str, part: int) -> Path:
    """Give the path of a shard of the cache as ``EXTRACT`` divides it."""
    parts = {"train": 3, "val": 2}[split]
    return world / "cache" / f"{split}-{part:05d}-of-{parts:05d}.h5"


def flip(path: Path, where: float = 0.5) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 0x40
    path.write_bytes(content)


def _leave_one_shard(world: Path, forks: Forks) -> None:
    kept = shard(world, "train", 1)
    for path in (world / "cache").iterdir():
        if path != kept:
            path.unlink()


def _change_an_image(world: Path, forks: Forks) -> None:
    dataset = VocDataset.open(world / "data")
    path = dataset.image_path(dataset.image_ids("train")[1])
    with Image.open(path) as image:
        image.putpixel((3, 4), (1, 2, 3))
        image.save(path)


def _move_an_image(world: Path, forks: Forks) -> None:
    dataset = VocDataset.open(world / "data")
    train, val = dataset.image_ids("train"), dataset.image_ids("val")
    dataset.split_path("train").write_text("\n".join(train[1:]))
    dataset.split_path("val").write_text("\n".join([*val, train[0]]))


def _extract_otherwise(world: Path, forks: Forks) -> None:
    ended = forks.run([*EXTRACT, "--replace", "--dtype", "int8"], world)
    assert ended.code == 0, ended.err


def _damage(world: Path, forks: Forks) -> None:
    flip(shard(world, "train", 1))
    shard(world, "val", 0).unlink()
    samples = world / "cache" / "train-samples.h5"
    samples.write_bytes(samples.read_bytes()[:-100])


def _litter(world: Path, forks: Forks) -> None:
    other = [*EXTRACT, "--dtype", "int8", "--images-per-shard", "20", "--out", "other"]
    ended = forks.run(other, world)
    assert ended.code == 0, ended.err
    cache = world / "cache"
    (world / "other" / "train-00000-of-00001.h5").rename(cache / "train-00000-of-00001.h5")
    shutil.rmtree(world / "other")
    for number in range(3):
        (cache / f"val-00001-of-00002.h5.0000000{number}.partial").write_bytes(b"half")
        copy = cache / f"{shard(world, 'train', number).name}.0000000{number}.retired"
        shutil.copy(shard(world, "train", number), copy)


def _nothing(world: Path, forks: Forks) -> None:
    pass


@dataclass(frozen=True)
class Plot:
    """A command, and what it begins with.

    Attributes
    ----------
    arguments : tuple of str
    state : str
        ``data``, or one of ``STATES``.
    prepare : callable
        What is done to the state first.
    """

    arguments: tuple[str, ...]
    state: str
    prepare: Callable[[Path, Forks], None] = _nothing


PLOTS: Mapping[str, Plot] = {
    "extract": Plot(EXTRACT, "data"),
    "extract-on": Plot(EXTRACT, "cached", _leave_one_shard),
    "extract-changed": Plot(EXTRACT, "cached", _change_an_image),
    "extract-divided": Plot((*EXTRACT, "--images-per-shard", "3"), "cached"),
    "extract-moved": Plot(EXTRACT, "cached", _move_an_image),
    "extract-replaced": Plot((*EXTRACT, "--replace"), "cached", _extract_otherwise),
    "samples": Plot((*EXTRACT, "--pixels-per-class", "1"), "cached"),
    "repair": Plot(REPAIR, "cached", _damage),
    "gc": Plot(GC, "cached", _litter),
    "fit-sparse": Plot(FIT_SPARSE, "cached"),
    "fit-dense": Plot(FIT_DENSE, "sparse"),
    "evaluate": Plot(EVALUATE, "dense"),
    "predict": Plot(PREDICT, "dense"),
}


def tree(world: Path) -> dict[str, str]:
    """Give every file of a world with a digest of its bytes."""
    return {
        str(path.relative_to(world)): file_digest(path)
        for path in sorted(world.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Scenario:
    """A command in a world, and what it leads to when nothing disturbs it.

    Attributes
    ----------
    name : str
    arguments : tuple of str
    start : Path
        The world before.
    end : Path
        The world after.
    before, after : dict of str to str
        Their trees.
    course : Course
        The points that the run passed.
    """

    name: str
    arguments: tuple[str, ...]
    start: Path
    end: Path
    before: dict[str, str]
    after: dict[str, str]
    course: Course

    @cached_property
    def images(self) -> set[str]:
        """Ids of the images that the cache holds in the end."""
        cache = FeatureCache(self.end / "cache")
        return {image_id for split in cache.splits.values() for image_id in split.image_ids}


class Stage:
    """Builds worlds and scenarios once, when they are first asked for.

    Parameters
    ----------
    folder : Path
        Where to build them.
    dataset : Path
        The data set they begin with.
    forks : Forks
        What runs the commands.
    """

    def __init__(self, folder: Path, dataset: Path, forks: Forks) -> None:
        self._folder, self._forks = folder, forks
        self._scenarios: dict[str, Scenario] = {}
        shutil.copytree(dataset, folder / "states" / "data" / "data")
        self.state(list(STATES)[-1])  # the first runs are slow: what they read is on the disk

    def state(self, name: str) -> Path:
        """Give a state; it must not be changed."""
        folder = self._folder / "states" / name
        if not folder.exists():
            names = ["data", *STATES]
            shutil.copytree(self.state(names[names.index(name) - 1]), folder)
            ended = self._forks.run(STATES[name], folder)
            assert ended.code == 0, ended.err
        return folder

    def scenario(self, name: str) -> Scenario:
        """Give a scenario."""
        if name not in self._scenarios:
            plot = PLOTS[name]
            start, end = (self._folder / name / which for which in ("start", "end"))
            shutil.copytree(self.state(plot.state), start)
            plot.prepare(start, self._forks)
            shutil.copytree(start, end)
            course = self._forks.course(plot.arguments, end)
            self._scenarios[name] = Scenario(
                name, plot.arguments, start, end, tree(start), tree(end), course
            )
        return self._scenarios[name]
