"""Shards as anyone can read them with plain h5py, and when they count as done."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
import xxhash

from pipeline.cache import BYTES_PER_VALUE, FeatureCache, plan_shards, write_index, write_shard
from pipeline.cache.shards import remove_other_shards
from pipeline.errors import CacheOverflowError
from pipeline.identity import FORMAT, FORMAT_VERSION


@pytest.mark.parametrize(("count", "per_shard", "sizes"), [(7, 3, [3, 3, 1]), (4, 2, [2, 2])])
def test_plans_divide_a_split_in_order(tmp_path, count, per_shard, sizes):
    ids = [f"i{n}" for n in range(count)]
    plans = plan_shards(tmp_path, "train", ids, per_shard)
    assert [len(plan.image_ids) for plan in plans] == sizes
    assert [i for plan in plans for i in plan.image_ids] == ids
    total = len(sizes)
    assert [plan.path for plan in plans] == [
        tmp_path / f"train-{part:05d}-of-{total:05d}.h5" for part in range(total)
    ]


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
def test_layout(make_sketch, tmp_path, dtype, compression):
    sketch = make_sketch(dtype=dtype)
    sketch.write(tmp_path, images_per_shard=3, compression=compression)
    with h5py.File(tmp_path / "train-00000-of-00001.h5") as file:
        assert set(file) == set(sketch.records)
        for image_id, record in sketch.records.items():
            group = file[image_id]
            assert set(group) == {"shallow", "deep", "label", "label_original", "image"}
            assert dict(group.attrs) == record.sources
            for tap, values in record.maps.items():
                dataset = group[tap]
                assert dataset.dtype == dtype
                assert dataset.compression == compression
                assert (dataset.chunks is None) == (compression is None)  # contiguous
                stored = dataset[()]
                head = f"{stored.dtype.str}{stored.shape}".encode()
                scale = dataset.attrs["scale"] if dtype == "int8" else np.empty(0)
                content = head + scale.tobytes() + stored.tobytes()
                assert dataset.attrs["xxh3"] == xxhash.xxh3_128_hexdigest(content)
                if dtype == "int8":
                    np.testing.assert_allclose(scale, np.abs(values).max((1, 2)) / 127, rtol=1e-6)
                    stored = stored * scale[:, None, None]
                tolerance = {"float32": 0, "float16": 0.01, "int8": np.abs(values).max() / 250}
                np.testing.assert_allclose(stored, values, rtol=0, atol=tolerance[dtype])
            for name in ("label", "label_original", "image"):
                assert group[name].dtype == np.uint8
                np.testing.assert_array_equal(group[name][()], getattr(record, name))


def test_root_attributes(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    with h5py.File(sketch.plans[0].path) as file:
        attributes = dict(file.attrs)
    config = json.loads(attributes.pop("config"))
    assert attributes == {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "kind": "shard",
        "fingerprint": sketch.identity.fingerprint,
    }
    assert config == {
        "identity": json.loads(sketch.identity.model_dump_json()),
        "dataset": "sketch",
        "split": "train",
        "skipped": [],
    }


def test_contiguous_shards_are_about_as_large_as_their_values(make_sketch, tmp_path):
    sketch = make_sketch(dtype="int8")
    record = replace(
        sketch.records["cow.1"],
        maps={"shallow": np.ones((3, 200, 300), "f4"), "deep": np.ones((4, 50, 75), "f4")},
    )
    (plan,) = plan_shards(tmp_path, "train", ["cow.1"], 1)
    write_shard(plan, [record], sketch.identity, compression=None, details={})
    values = BYTES_PER_VALUE["int8"] * (3 * 200 * 300 + 4 * 50 * 75)
    assert values < plan.path.stat().st_size < values + 16_000


def test_a_record_that_does_not_fit_leaves_no_shard(make_sketch, tmp_path):
    sketch = make_sketch(dtype="float16")
    sketch.records["cow.1"].maps["deep"][0, 0, 0] = 1e6
    (plan,) = plan_shards(tmp_path, "train", list(sketch.records), 3)
    with pytest.raises(CacheOverflowError, match=r"cow\.1, tap deep"):
        write_shard(plan, sketch.records.values(), sketch.identity, compression=None, details={})
    assert not plan.path.exists()
    assert not plan.is_done(sketch.identity, sketch.sources)


def test_a_shard_replaces_the_one_before_only_when_it_is_whole(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path, images_per_shard=3)
    (plan,) = sketch.plans
    before = plan.path.read_bytes()

    def failing():
        yield sketch.records["zebra_7"]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_shard(plan, failing(), sketch.identity, compression=None, details={})
    assert plan.path.read_bytes() == before


def test_images_that_do_not_come_are_noted(make_sketch, tmp_path):
    sketch = make_sketch()
    (plan,) = plan_shards(tmp_path, "train", list(sketch.records), 3)
    records = [record for i, record in sketch.records.items() if i != "cow.1"]
    assert write_shard(plan, records, sketch.identity, compression=None, details={}) == 2
    split = FeatureCache(tmp_path)["train"]
    assert split.skipped == ("cow.1",)
    assert split.image_ids == ("zebra_7", "2008_000003")
    assert not plan.is_done(sketch.identity, sketch.sources)  # it may have been mended


class TestIsDone:
    @pytest.fixture
    def sketch(self, make_sketch, tmp_path):
        sketch = make_sketch()
        sketch.write(tmp_path)
        return sketch

    def test_of_the_same(self, sketch):
        assert all(plan.is_done(sketch.identity, sketch.sources) for plan in sketch.plans)

    def test_with_another_identity(self, sketch, make_identity):
        assert not sketch.plans[0].is_done(make_identity(void=0), sketch.sources)

    @pytest.mark.parametrize("digest", ["image_digest", "mask_digest"])
    def test_with_another_file(self, sketch, digest):
        sources = sketch.sources
        sources["cow.1"] = {**sources["cow.1"], digest: "another"}
        assert [plan.is_done(sketch.identity, sources) for plan in sketch.plans] == [False, True]

    @pytest.mark.parametrize(
        "ids",
        [("zebra_7",), ("zebra_7", "cow.1", "2008_000003"), ("cow.1", "zebra_7"), ("zebra_7", "x")],
    )
    def test_with_other_images_or_another_order(self, sketch, ids):
        plan = replace(sketch.plans[0], image_ids=ids)
        sources = {**sketch.sources, "x": sketch.sources["cow.1"]}
        assert not plan.is_done(sketch.identity, sources)

    def test_when_missing_cut_short_or_of_another_kind(self, sketch):
        plan = sketch.plans[0]
        whole = plan.path.read_bytes()
        plan.path.write_bytes(whole[: len(whole) // 2])
        assert not plan.is_done(sketch.identity, sketch.sources)
        plan.path.write_bytes(whole)
        with h5py.File(plan.path, "a") as file:
            file.attrs["kind"] = "samples"
        assert not plan.is_done(sketch.identity, sketch.sources)
        plan.path.unlink()
        assert not plan.is_done(sketch.identity, sketch.sources)


def test_other_shards_are_removed(make_sketch, make_identity, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path, split="val")
    sketch.write(tmp_path, split="train", images_per_shard=1)
    stale = tmp_path / "train-00001-of-00002.h5.partial"
    stale.touch()
    kept = [tmp_path / "train-samples.h5", tmp_path / "notes-of-mine.h5", *tmp_path.glob("val-*")]
    for path in kept:
        path.touch()
    plans = plan_shards(tmp_path, "train", list(sketch.records), 2)
    remove_other_shards(tmp_path, plans, sketch.identity)
    assert set(tmp_path.iterdir()) == set(kept)
    remove_other_shards(tmp_path, plans, make_identity(void=0))  # val is not of this identity
    assert set(tmp_path.iterdir()) == set(kept[:2])


def test_index_links_lead_to_the_shards(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path / "made", split="val")
    cache = sketch.write(tmp_path / "made", split="train")
    write_index(cache)
    (tmp_path / "made").rename(tmp_path / "moved")
    with h5py.File(tmp_path / "moved" / "index.h5") as index:
        assert set(index) == {"train", "val"}
        for split in index:
            assert set(index[split]) == set(sketch.records)
            for image_id, record in sketch.records.items():
                found = index[split][image_id]["deep"][()]
                np.testing.assert_array_equal(found, record.maps["deep"])
        assert index.attrs["fingerprint"] == sketch.identity.fingerprint
