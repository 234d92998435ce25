"""What must hold in a world after a run has died in it."""

from functools import cache
from pathlib import Path

from worlds import Scenario, tree

from pipeline import FeatureCache
from pipeline.cache import ShardHeader, StoredImage, read_samples
from pipeline.errors import CacheDamagedError, CacheError, CacheNotFoundError
from pipeline.tensorfile import read_tensors
from pipeline.training.run import CHECKPOINT

_OUTPUTS = ("cache/*-of-*.h5", "cache/*-samples.h5", "masks/*.png")


def require_valid(world: Path, scenario: Scenario) -> None:
    """Every file is one that was there before, one of those to be, or known to be in the making."""
    for name, digest in tree(world).items():
        if digest in (scenario.before.get(name), scenario.after.get(name)):
            continue
        path = world / name
        if name.endswith((".partial", ".lock")):
            continue
        if path.suffix == ".retired":
            assert digest == scenario.before[name.rsplit(".", 2)[0]]
        elif path.suffix == ".checkpoint":
            read_tensors(path, kind=CHECKPOINT, remedy="")
        elif path.match("cache/*-of-*-samples.h5"):
            read_samples(path)
        else:
            raise AssertionError(f"{name} is neither what it was nor what it is to be")


def require_readable(world: Path, scenario: Scenario) -> None:
    """Whoever reads the cache now gets right values, or is told what is missing."""
    before, after = (
        _values_for_good(folder / "cache") for folder in (scenario.start, scenario.end)
    )
    for image, value in _values(world / "cache").items():
        wrong = isinstance(value, CacheError) and not isinstance(value, CacheNotFoundError)
        assert "\n" not in str(value) or not wrong
        allowed = (before.get(image), after.get(image))
        if isinstance(value, CacheError):
            assert not wrong or type(value) in map(type, allowed), value
        else:
            assert value in allowed, image


def _values(directory: Path) -> dict[str, str | CacheError]:
    """Read a cache as far as possible: digests of every image's values, or what is wrong."""
    try:
        opened = FeatureCache(directory)
    except CacheError as error:
        return {"": error}
    found: dict[str, str | CacheError] = {}
    for split in opened.splits.values():
        for image_id in split.image_ids:
            try:
                found[image_id] = _digests(split.stored(image_id))
            except CacheDamagedError as error:
                found[image_id] = error
    opened.close()
    return found


_values_for_good = cache(_values)
"""The same for a cache that does not change."""


def _digests(image: StoredImage) -> str:
    return " ".join(f"{name} {array.digest}" for name, array in image.arrays.items())


def held(world: Path, scenario: Scenario) -> set[str]:
    """Name the images whose right features lie in the cache, wherever, and can be read."""
    directory = world / "cache"
    end = FeatureCache(scenario.end / "cache")
    wanted = {i: s for split in end.splits.values() for i, s in split.sources.items()}
    found = set()
    for path in [*directory.glob("*-of-?????.h5"), *directory.glob("*.retired")]:
        try:
            header = ShardHeader.read(path)
        except CacheError:
            continue
        if header.identity != end.identity:
            continue
        view = FeatureCache(directory, [header])
        for image_id, value in _readable(view).items():
            if wanted.get(image_id) == value:
                found.add(image_id)
        view.close()
    return found


def _readable(view: FeatureCache) -> dict[str, dict[str, str]]:
    (split,) = view.splits.values()
    found = {}
    for image_id in split.image_ids:
        try:
            found[image_id] = dict(split.stored(image_id).sources)
        except CacheDamagedError:
            continue
    return found


def finished(world: Path, scenario: Scenario) -> dict[str, int]:
    """Give the outputs that are as they shall be, with the time when they were written."""
    digests = tree(world)
    outputs = {
        str(path.relative_to(world)): path for pattern in _OUTPUTS for path in world.glob(pattern)
    }
    done = {
        name: path.stat().st_mtime_ns
        for name, path in outputs.items()
        if digests[name] == scenario.after.get(name)
    }
    # An image is done when both its mask and the overlay are.
    masks = {name for name in done if name.endswith(".png")}
    for name in masks:
        mask = name.replace("-overlay", "")
        if not {mask, mask.replace(".png", "-overlay.png")} <= masks:
            del done[name]
    return done
