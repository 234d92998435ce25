"""What of a cache stays when it is extracted again: everything that can be of use."""

from functools import partial

import h5py
import pytest

from fuzz.shard_values import of_later_identity, of_version
from pipeline.cache import (
    FeatureCache,
    Stock,
    changed_images,
    make_way,
    plan_shards,
    refuse_other_cache,
    retired_shards,
    shard_samples,
)
from pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from pipeline.locks import Lock


@pytest.fixture
def sketch(make_sketch, tmp_path):
    """Write train in two shards, of two images and of one."""
    sketch = make_sketch()
    sketch.write(tmp_path)
    return sketch


def names(directory):
    return {path.name for path in directory.iterdir()}


def division(directory, sources, images_per_shard=2, split="train"):
    return plan_shards(directory, split, sources, images_per_shard)


def set_aside(directory):
    """The names that the shards had that were set aside."""
    return {path.name.partition(".h5")[0] for path in retired_shards(directory)}


class TestMakeWay:
    def test_what_is_as_planned_stays(self, sketch, tmp_path):
        before = names(tmp_path)
        make_way(tmp_path, sketch.plans, sketch.identity)
        assert names(tmp_path) == before

    @pytest.mark.parametrize("images_per_shard", [1, 3])
    def test_shards_of_another_division_are_set_aside(self, sketch, tmp_path, images_per_shard):
        make_way(tmp_path, division(tmp_path, sketch.sources, images_per_shard), sketch.identity)
        assert set_aside(tmp_path) == {"train-00000-of-00002", "train-00001-of-00002"}
        assert list(tmp_path.glob("*.h5")) == []

    def test_shards_of_other_images_are_set_aside(self, sketch, tmp_path):
        shifted = {i: sketch.sources[i] for i in ("cow.1", "2008_000003", "zebra_7")}
        make_way(tmp_path, division(tmp_path, shifted), sketch.identity)
        assert set_aside(tmp_path) == {"train-00000-of-00002", "train-00001-of-00002"}

    def test_shards_of_the_same_images_stay_to_be_written_anew(self, sketch, tmp_path):
        changed = {**sketch.sources, "cow.1": {"image_digest": "new", "mask_digest": "new"}}
        backwards = {i: changed[i] for i in ("cow.1", "zebra_7", "2008_000003")}
        before = names(tmp_path)
        make_way(tmp_path, division(tmp_path, backwards), sketch.identity)
        assert names(tmp_path) == before

    def test_other_splits_stay(self, sketch, tmp_path):
        before = names(tmp_path)
        make_way(tmp_path, division(tmp_path, sketch.sources, split="val"), sketch.identity)
        assert names(tmp_path) == before

    def test_shards_made_otherwise_are_removed_in_all_splits(
        self, sketch, make_identity, make_sketch, tmp_path
    ):
        sketch.write(tmp_path, split="val")
        make_way(tmp_path, sketch.plans, make_identity(void=0))
        assert names(tmp_path) == set()

    def test_renamed_shards_are_set_aside_and_unreadable_ones_removed(self, sketch, tmp_path):
        first, second = (plan.path for plan in sketch.plans)
        first.rename(tmp_path / "val-00000-of-00001.h5")
        second.write_bytes(second.read_bytes()[:1000])
        make_way(tmp_path, sketch.plans, sketch.identity)
        assert set_aside(tmp_path) == {"train-00000-of-00002"}  # what it is, under any name
        assert len(names(tmp_path)) == 1

    @pytest.mark.parametrize("target", ["train-00001-of-00002.h5", "not/mounted.h5"])
    def test_what_cannot_be_opened_just_now_is_not_taken_for_damaged(
        self, sketch, tmp_path, target
    ):
        path = sketch.plans[1].path
        path.unlink()
        path.symlink_to(target)
        with pytest.raises(CacheError, match=rf"{path.name}: ") as caught:
            make_way(tmp_path, division(tmp_path, sketch.sources, 3), sketch.identity)
        assert not isinstance(caught.value, CacheDamagedError)
        assert path.is_symlink()

    def test_leftovers_go_and_what_is_somebody_else_s_stays(self, sketch, tmp_path):
        others = ["notes-of-mine.h5", "photo.png", "train-samples.h5", "index.h5"]
        leftovers = ["train-00000-of-00002.h5.01234567.partial", "train-00000-of-00002.h5.lock"]
        for name in (*others, *leftovers):
            (tmp_path / name).touch()
        before = names(tmp_path)
        make_way(tmp_path, sketch.plans, sketch.identity)
        assert names(tmp_path) == before - set(leftovers)

    def test_locks_that_are_held_stay(self, sketch, tmp_path):
        held = tmp_path / "val-00000-of-00002.h5.lock"
        with Lock.take(held):
            make_way(tmp_path, sketch.plans, sketch.identity)
            assert held.exists()


class TestStock:
    def of(self, directory, sketch, plan):
        return Stock(directory, sketch.identity).of(plan)

    def test_has_all_images_wherever_they_lie(self, sketch, tmp_path):
        (plan,) = division(tmp_path, sketch.sources, 3)
        make_way(tmp_path, [plan], sketch.identity)
        found = self.of(tmp_path, sketch, plan)
        assert list(found) == list(sketch.records)
        for image_id, view in found.items():
            stored = view.stored(image_id)
            expected = sketch.records[image_id].stored(sketch.identity)
            assert stored.sources == expected.sources
            assert {n: a.digest for n, a in stored.arrays.items()} == {
                n: a.digest for n, a in expected.arrays.items()
            }

    def test_has_an_image_of_a_split_for_another(self, sketch, tmp_path):
        make_way(tmp_path, division(tmp_path, sketch.sources, 3), sketch.identity)
        (plan,) = division(tmp_path, {"cow.1": sketch.sources["cow.1"]}, split="val")
        assert list(self.of(tmp_path, sketch, plan)) == ["cow.1"]

    @pytest.mark.parametrize("digest", ["image_digest", "mask_digest"])
    def test_has_no_image_of_other_files(self, sketch, tmp_path, digest):
        sources = {**sketch.sources, "cow.1": {**sketch.sources["cow.1"], digest: "another"}}
        for images_per_shard, expected in ((2, ["zebra_7"]), (3, ["zebra_7", "2008_000003"])):
            plans = division(tmp_path, sources, images_per_shard)
            make_way(tmp_path, plans, sketch.identity)
            assert list(self.of(tmp_path, sketch, plans[0])) == expected

    def test_has_no_image_of_another_identity(self, sketch, make_identity, tmp_path):
        plans = division(tmp_path, sketch.sources, 3)
        make_way(tmp_path, plans, sketch.identity)
        assert Stock(tmp_path, make_identity(void=0)).of(plans[0]) == {}

    def test_does_not_vouch_for_a_damaged_image(self, sketch, tmp_path):
        (plan,) = division(tmp_path, sketch.sources, 3)
        make_way(tmp_path, [plan], sketch.identity)
        path = next(p for p in retired_shards(tmp_path) if "00000-of" in p.name)
        with h5py.File(path) as file:
            position = file["cow.1/deep"].id.get_offset()
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)
        found = self.of(tmp_path, sketch, plan)
        found["zebra_7"].stored("zebra_7")
        with pytest.raises(CacheDamagedError, match=r"cow\.1/deep is damaged"):
            found["cow.1"].stored("cow.1")

    def test_passes_over_what_cannot_be_read(self, sketch, tmp_path):
        (plan,) = division(tmp_path, sketch.sources, 3)
        make_way(tmp_path, [plan], sketch.identity)
        path = next(p for p in retired_shards(tmp_path) if "00000-of" in p.name)
        path.write_bytes(b"")
        assert list(self.of(tmp_path, sketch, plan)) == ["2008_000003"]


class TestRefusal:
    def test_of_nothing_where_all_is_the_same_or_nothing_is_there(self, sketch, tmp_path):
        refuse_other_cache(tmp_path, sketch.identity)
        refuse_other_cache(tmp_path / "nowhere", sketch.identity)

    def test_names_every_field_that_differs(self, sketch, make_identity, tmp_path):
        other = make_identity(void=0, dtype="int8")
        with pytest.raises(
            CacheMismatchError, match=r"dtype: float32, not int8; void: 255, not 0.*--replace"
        ):
            refuse_other_cache(tmp_path, other)

    def test_looks_at_shards_that_were_renamed(self, sketch, make_identity, tmp_path):
        sketch.plans[0].path.rename(tmp_path / "old-00000-of-00001.h5")
        sketch.plans[1].path.unlink()
        with pytest.raises(CacheMismatchError, match="void: 255, not 0"):
            refuse_other_cache(tmp_path, make_identity(void=0))

    def test_of_another_format_version(self, sketch, tmp_path):
        path = sketch.plans[1].path
        path.write_bytes(of_version(path.read_bytes(), 9))
        with pytest.raises(CacheMismatchError, match=r"format version 9, .* reads version 3"):
            refuse_other_cache(tmp_path, sketch.identity)

    @pytest.mark.parametrize(
        "written", [partial(of_version, version=9), partial(of_later_identity, tiles=4)]
    )
    @pytest.mark.parametrize("name", ["{}", "old-00000-of-00001.h5", "{}.0a1b2c3d.retired"])
    def test_of_a_later_version_wherever_it_lies(self, sketch, tmp_path, written, name):
        path = sketch.plans[1].path
        path = path.rename(tmp_path / name.format(path.name))
        path.write_bytes(written(path.read_bytes()))
        with pytest.raises(CacheMismatchError, match=r"format version 9|by a newer version"):
            refuse_other_cache(tmp_path, sketch.identity)

    def test_looks_at_shards_that_were_set_aside(self, sketch, make_identity, tmp_path):
        """An extraction that died while it divided anew has nothing else to show."""
        make_way(tmp_path, division(tmp_path, sketch.sources, 3), sketch.identity)
        refuse_other_cache(tmp_path, sketch.identity)
        with pytest.raises(CacheMismatchError, match="void: 255, not 0"):
            refuse_other_cache(tmp_path, make_identity(void=0))


class TestChangedImages:
    def test_are_named_with_what_has_changed(self, sketch, tmp_path):
        sources = dict(sketch.sources)
        sources["zebra_7"] = {**sources["zebra_7"], "mask_digest": "another"}
        sources["2008_000003"] = {"image_digest": "another", "mask_digest": "another"}
        plans = division(tmp_path, sources)
        assert changed_images(tmp_path, plans, sketch.identity) == [
            "zebra_7 (mask)",
            "2008_000003 (image, mask)",
        ]

    def test_are_none_where_images_come_go_or_move(self, sketch, tmp_path):
        sources = {"x": sketch.sources["cow.1"], "cow.1": sketch.sources["cow.1"]}
        plans = division(tmp_path, sources, 1)
        assert changed_images(tmp_path, plans, sketch.identity) == []

    def test_of_another_identity_count_for_nothing(self, sketch, make_identity, tmp_path):
        sources = {i: {"image_digest": "another", "mask_digest": "another"} for i in sketch.records}
        plans = division(tmp_path, sources)
        assert changed_images(tmp_path, plans, make_identity(void=0)) == []


def test_what_lies_there_in_passing_is_no_part_of_the_cache(sketch, tmp_path):
    (tmp_path / "train-00000-of-00002-samples.h5").touch()
    (tmp_path / "of-mine-samples.h5").touch()
    (tmp_path / "train-00007-of-00009.h5.01234567.retired").touch()
    assert [path.name for path in shard_samples(tmp_path)] == ["train-00000-of-00002-samples.h5"]
    assert FeatureCache(tmp_path)["train"].image_ids == tuple(sketch.records)
