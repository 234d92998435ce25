"""What gc takes for garbage, and above all what it does not."""

import json
from functools import partial
from pathlib import Path

import pytest

from fuzz.shard_values import of_later_identity, of_version
from pipeline.cache import (
    FeatureCache,
    draw_samples,
    find_garbage,
    make_way,
    manifest_of,
    plan_shards,
    retired_shards,
    samples_path,
    shard_samples_path,
    write_index,
    write_manifest,
    write_samples,
)
from pipeline.cache.pixels import Drawing
from pipeline.errors import CacheMismatchError, CacheNotFoundError
from pipeline.hypercolumn import Features
from pipeline.wholefile import written_whole

DRAWING = Drawing(features=Features(context=()))


def finish(cache):
    """Write samples, index and manifest of a cache."""
    for split in cache.splits.values():
        samples = draw_samples(split, cache.identity, DRAWING)
        write_samples(samples_path(cache.path, split.name), samples, split.sources, cache.identity)
    write_index(cache)
    write_manifest(cache.path, manifest_of(cache, {}, {}))


@pytest.fixture
def sketch(make_sketch):
    return make_sketch()


@pytest.fixture
def directory(sketch, tmp_path):
    """Write a finished cache: train and val, in two shards each."""
    directory = tmp_path / "cache"
    for split in ("val", "train"):
        cache = sketch.write(directory, split=split)
    finish(cache)
    return directory


def found(directory, keep=None):
    return {path.name: why for path, why in find_garbage(directory, keep).items()}


def interrupt_division(directory, sketch, images_per_shard, *, shards=0, split="train"):
    """Divide a split anew, and die after so many shards."""
    plans = plan_shards(directory, split, sketch.sources, images_per_shard)
    make_way(directory, plans, sketch.identity)
    for plan in plans[:shards]:
        sketch.write_shard(plan)
        write_samples_of(plan, sketch)
    return plans


def write_samples_of(plan, sketch):
    split = FeatureCache(plan.directory).splits[plan.split]
    samples = draw_samples(split, sketch.identity, DRAWING, plan.sources)
    write_samples(shard_samples_path(plan.path), samples, plan.sources, sketch.identity)


def test_a_finished_cache_has_none(directory):
    assert found(directory) == {}


def test_what_is_somebody_else_s_is_none_of_its_business(directory):
    for name in ("notes.txt", "mine-samples.h5", "mine.h5", ".hidden"):
        (directory / name).write_bytes(b"mine")
    assert found(directory) == {}


def test_what_is_damaged_is_to_be_repaired_and_stays(directory):
    for name in ("train-00000-of-00002.h5", "val-samples.h5", "index.h5", "manifest.json"):
        path = directory / name
        path.write_bytes(path.read_bytes()[:700])
    assert found(directory) == {}


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(directory):
    names = [f"{name}.01234567.partial" for name in ("train-00009-of-00010.h5", "index.h5")]
    for name in names:
        (directory / name).touch()
    with written_whole(directory / "manifest.json") as file:
        file.write(b"half")
        assert found(directory) == dict.fromkeys(names, "half-written by a run that died")


class TestOtherFingerprints:
    @pytest.fixture
    def other(self, make_sketch, directory):
        """Put shards and samples of another fingerprint beside them."""
        other = make_sketch(weights="4567")
        cache = other.write(directory.parent / "other", split="test")
        finish(cache)
        for path in sorted(cache.path.glob("test-*.h5")):
            path.rename(directory / path.name)
        return other.identity.fingerprint

    def test_those_that_the_manifest_does_not_name_go(self, directory, other):
        assert found(directory) == dict.fromkeys(
            ["test-00000-of-00002.h5", "test-00001-of-00002.h5", "test-samples.h5"],
            f"of fingerprint {other}",
        )

    def test_those_that_are_not_to_be_kept_go(self, directory, sketch, other):
        mine = sketch.identity.fingerprint
        assert set(found(directory, keep=other).values()) == {f"of fingerprint {mine}"}
        assert found(directory, keep=other).keys() == {
            *(f"{split}-0000{part}-of-00002.h5" for split in ("train", "val") for part in (0, 1)),
            "train-samples.h5",
            "val-samples.h5",
        }

    def test_without_a_manifest_one_has_to_say_which(self, directory, sketch, other):
        mine = sketch.identity.fingerprint
        (directory / "manifest.json").unlink()
        expected = " and ".join(sorted([mine, other]))
        with pytest.raises(CacheMismatchError, match=rf"holds {expected}; name .* --keep"):
            find_garbage(directory)
        assert found(directory, keep=mine).keys() == {
            "test-00000-of-00002.h5",
            "test-00001-of-00002.h5",
            "test-samples.h5",
        }

    def test_one_that_is_not_there_cannot_be_kept(self, directory):
        with pytest.raises(CacheMismatchError, match="--keep"):
            find_garbage(directory, keep="0" * 32)

    def test_set_aside_ones_go(self, directory, make_sketch, sketch):
        interrupt_division(directory, sketch, 1)
        for path in retired_shards(directory):
            assert path.name not in found(directory)
        other = make_sketch(weights="4567")
        other.write(directory.parent / "other")
        path = other.plans[0].path.rename(directory / "train-00000-of-00002.h5.0000ffff.retired")
        assert found(directory) == {path.name: f"of fingerprint {other.identity.fingerprint}"}


class TestInterruptedDivisions:
    """Nothing may go that holds the only copy of an image."""

    @pytest.mark.parametrize("manifest", [True, False])
    @pytest.mark.parametrize(("images_per_shard", "shards"), [(1, 0), (1, 1), (1, 2), (3, 0)])
    @pytest.mark.parametrize("both", [False, True])
    def test_nothing_goes_as_long_as_a_shard_is_missing(
        self, directory, sketch, images_per_shard, shards, both, manifest
    ):
        if not manifest:
            (directory / "manifest.json").unlink()
        interrupt_division(directory, sketch, images_per_shard, shards=shards)
        if both:
            interrupt_division(directory, sketch, images_per_shard, shards=shards, split="val")
        if shards or not both:
            assert found(directory) == {}
        else:
            with pytest.raises(CacheNotFoundError, match="no shards"):
                find_garbage(directory)

    def test_nothing_goes_of_a_split_that_is_divided_while_the_other_is_complete(
        self, directory, sketch
    ):
        interrupt_division(directory, sketch, 3, shards=1)
        interrupt_division(directory, sketch, 3, split="val")
        assert len(retired_shards(directory)) == 4
        assert found(directory) == {}

    @pytest.mark.parametrize("images_per_shard", [1, 3])
    def test_once_all_shards_are_there_what_was_set_aside_goes(
        self, directory, sketch, images_per_shard
    ):
        plans = interrupt_division(directory, sketch, images_per_shard, shards=3)
        retired = {path.name for path in retired_shards(directory)}
        assert len(retired) == 2
        assert found(directory) == {
            **dict.fromkeys(retired, "set aside, and copied since"),
            **dict.fromkeys(
                (shard_samples_path(plan.path).name for plan in plans), "put together since"
            ),
        }

    @pytest.mark.parametrize(
        "written", [partial(of_version, version=9), partial(of_later_identity, tiles=4)]
    )
    def test_one_of_a_later_version_stays_for_nobody_can_have_copied_it(
        self, directory, sketch, written
    ):
        """Extraction refuses it, so that it holds somebody's features."""
        interrupt_division(directory, sketch, 1, shards=3)
        later, other = retired_shards(directory)
        later.write_bytes(written(later.read_bytes()))
        kept = found(directory)
        assert later.name not in kept
        assert kept[other.name] == "set aside, and copied since"

    def test_a_second_division_goes_only_if_that_of_the_manifest_is_complete(
        self, directory, sketch, make_sketch
    ):
        make_sketch().write(directory.parent / "other", images_per_shard=1)
        for path in (directory.parent / "other").glob("*.h5"):
            path.rename(directory / path.name)
        names = [f"train-0000{part}-of-00003.h5" for part in range(3)]
        assert found(directory) == dict.fromkeys(names, "of another division, in 3 parts")
        (directory / "train-00001-of-00002.h5").unlink()
        assert found(directory) == {}


class TestSamples:
    def test_of_a_split_that_is_not_there_go(self, directory):
        for path in directory.glob("val-*-of-*.h5"):
            path.unlink()
        # As the next extraction of train alone would leave it.
        write_manifest(directory, manifest_of(FeatureCache(directory), {}, {}))
        assert found(directory) == {"val-samples.h5": "samples of a split that is not there"}

    @pytest.mark.parametrize("manifest", [True, False])
    def test_of_a_split_that_is_damaged_stay(self, directory, manifest):
        if not manifest:
            (directory / "manifest.json").unlink()
        for path in directory.glob("val-*-of-*.h5"):
            path.write_bytes(b"")
        assert found(directory) == {}


def test_there_is_no_cache(tmp_path):
    for path in (tmp_path, tmp_path / "none", Path("/dev/null")):
        with pytest.raises(CacheNotFoundError):
            find_garbage(path)


def test_a_manifest_of_another_fingerprint_claims_nothing(directory, make_identity):
    content = json.loads((directory / "manifest.json").read_text())
    assert content["fingerprint"] != make_identity(void=0).fingerprint
    cache = FeatureCache(directory)
    manifest = manifest_of(cache, {}, {})
    other = make_identity(void=0)
    changed = manifest.model_copy(update={"fingerprint": other.fingerprint, "identity": other})
    write_manifest(directory, changed)
    assert found(directory) == {}
