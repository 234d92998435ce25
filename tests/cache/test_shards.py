"""Shards as anyone can read them with plain h5py, and when they count as done."""

import json
import struct
import zlib
from dataclasses import replace

import h5py
import numpy as np
import pytest
import xxhash

from pipeline.cache import (
    BYTES_PER_VALUE,
    RESERVED,
    FeatureCache,
    check_index,
    plan_shards,
    total_images,
    write_index,
)
from pipeline.errors import CacheDamagedError, CacheOverflowError
from pipeline.identity import FORMAT, FORMAT_VERSION


@pytest.mark.parametrize(("count", "per_shard", "sizes"), [(7, 3, [3, 3, 1]), (4, 2, [2, 2])])
def test_plans_divide_a_split_in_order(tmp_path, count, per_shard, sizes):
    sources = {f"i{n}": {"image_digest": str(n)} for n in range(count)}
    plans = plan_shards(tmp_path, "train", sources, per_shard)
    assert [len(plan.sources) for plan in plans] == sizes
    assert total_images(plans) == count
    assert [item for plan in plans for item in plan.sources.items()] == list(sources.items())
    total = len(sizes)
    assert [plan.path for plan in plans] == [
        tmp_path / f"train-{part:05d}-of-{total:05d}.h5" for part in range(total)
    ]


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_layout(make_sketch, tmp_path, dtype, compression):
    sketch = make_sketch(dtype=dtype)
    sketch.write(tmp_path, images_per_shard=3, compression=compression)
    with h5py.File(tmp_path / "train-00000-of-00001.h5") as file:
        assert set(file) == {*sketch.records, "\\identity", "\\details", "\\table"}
        for image_id, record in sketch.records.items():
            group = file[image_id]
            others = ["scales"] if dtype == "int8" else []
            assert list(group) == sorted(["shallow", "deep", *others, *RESERVED])
            scales = group["scales"][()] if dtype == "int8" else np.ones(7, np.float32)
            for tap, scale in (("shallow", scales[:3]), ("deep", scales[3:])):
                values, dataset = record.maps[tap], group[tap]
                assert dataset.dtype == dtype
                assert dataset.compression == compression
                assert (dataset.chunks is None) == (compression is None)  # contiguous
                if dtype == "int8":
                    np.testing.assert_allclose(scale, np.abs(values).max((1, 2)) / 127, rtol=1e-6)
                stored = dataset[()] * scale[:, None, None]
                tolerance = {"float32": 0, "float16": 0.01, "int8": np.abs(values).max() / 250}
                np.testing.assert_allclose(stored, values, rtol=0, atol=tolerance[dtype])
            for name in ("label", "label_original", "image"):
                assert group[name].dtype == np.uint8
                np.testing.assert_array_equal(group[name][()], getattr(record, name))
            assert group["label_original"].compression == "gzip"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_table_says_where_everything_lies_and_vouches_for_it(make_sketch, tmp_path, dtype):
    sketch = make_sketch(dtype=dtype)
    sketch.write(tmp_path, images_per_shard=3)
    path = tmp_path / "train-00000-of-00001.h5"
    whole = path.read_bytes()
    with h5py.File(path) as file:
        rows = iter(file["\\table"][()])
        taps = ["shallow", "deep", "scales"] if dtype == "int8" else ["shallow", "deep"]
        for image_id in sketch.records:
            for name in (*taps, "label", "image", "label_original"):
                row, values = next(rows), file[image_id][name][()]
                stored = whole[row["offset"] : row["offset"] + row["bytes"]]
                assert row["dtype"].decode() == values.dtype.str
                assert tuple(n for n in row["shape"] if n) == values.shape
                assert row["filter"] == (name == "label_original")
                plain = zlib.decompress(stored) if row["filter"] else stored
                assert plain == values.tobytes()
                form = row.tobytes()[8:32]
                content = f"{image_id}/{name}\0".encode() + form + stored
                assert row["xxh3"].tobytes() == xxhash.xxh3_128_digest(content)
                assert row["offset"] % 64 == 0
        assert next(rows, None) is None


def test_what_training_reads_lies_together(make_sketch, tmp_path):
    """Maps, scales and label are read in one go."""
    sketch = make_sketch(dtype="int8")
    sketch.write(tmp_path, images_per_shard=3)
    with h5py.File(tmp_path / "train-00000-of-00001.h5") as file:
        for group in (file[image_id] for image_id in sketch.records):
            offsets = [
                group[name].id.get_offset() for name in ("shallow", "deep", "scales", "label")
            ]
            assert offsets == sorted(offsets)
            assert offsets[-1] - offsets[0] < 1 << 14


def test_what_a_shard_says_of_itself(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[1].path
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
        identity, details = (file[name][()] for name in ("\\identity", "\\details"))
        places = {name: file[name].id.get_offset() for name in ("\\identity", "\\details")}
        table = file["\\table"].id.get_offset(), file["\\table"].nbytes
    assert attributes.pop("format_version") == FORMAT_VERSION
    assert {name: value.decode() for name, value in attributes.items()} == {
        "format": FORMAT,
        "kind": "shard",
        "fingerprint": sketch.identity.fingerprint,
    }
    assert json.loads(identity) == json.loads(sketch.identity.model_dump_json())
    assert json.loads(details) == {
        "split": "train",
        "part": 1,
        "parts": 2,
        "images": {"2008_000003": sketch.sources["2008_000003"]},
        "skipped": {},
        "dataset": "sketch",
        "software": {"sketch": "1.0"},
    }
    begin = struct.pack(
        "<24sI4xQQQQQQQ16s",
        *(FORMAT.encode(), FORMAT_VERSION),
        *(places["\\identity"], len(identity), places["\\details"], len(details), *table),
        path.stat().st_size,
        xxhash.xxh3_128_digest(struct.pack("<Q", len(identity)) + identity + details),
    ).ljust(496, b"\0")
    assert path.read_bytes()[:512] == begin + xxhash.xxh3_128_digest(begin)


def test_contiguous_shards_are_about_as_large_as_their_values(make_sketch, tmp_path):
    sketch = make_sketch(dtype="int8")
    sketch.records["cow.1"] = replace(
        sketch.records["cow.1"],
        maps={"shallow": np.ones((3, 200, 300), "f4"), "deep": np.ones((4, 50, 75), "f4")},
    )
    sketch.write(tmp_path, image_ids=["cow.1"])
    (plan,) = sketch.plans
    values = BYTES_PER_VALUE["int8"] * (3 * 200 * 300 + 4 * 50 * 75)
    assert values < plan.path.stat().st_size < values + 16_000


def test_a_record_that_does_not_fit_leaves_no_shard(make_sketch, tmp_path):
    sketch = make_sketch(dtype="float16")
    sketch.records["cow.1"].maps["deep"][0, 0, 0] = 1e6
    with pytest.raises(CacheOverflowError, match=r"cow\.1, tap deep"):
        sketch.write(tmp_path, images_per_shard=3)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_replaces_the_one_before_only_when_it_is_whole(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path, images_per_shard=3)
    (plan,) = sketch.plans
    before = plan.path.read_bytes()
    del sketch.records["cow.1"]
    with pytest.raises(KeyError):
        sketch.write_shard(plan)
    assert plan.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [plan.path]


def test_the_same_content_gives_the_same_bytes(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path / "a")
    sketch.write(tmp_path / "b")
    for plan in sketch.plans:
        assert plan.path.read_bytes() == (tmp_path / "a" / plan.path.name).read_bytes()


def test_images_that_are_left_out_are_noted_with_the_reason(make_sketch, tmp_path):
    sketch = make_sketch()
    (plan,) = plan_shards(tmp_path, "train", sketch.sources, 3)
    sketch.write_shard(plan, skipped={"cow.1": "no image, and why: Schäfchen"})
    split = FeatureCache(tmp_path)["train"]
    (left_out,) = split.skipped.items()
    assert left_out[0] == "cow.1"
    assert left_out[1].reason == "no image, and why: Schäfchen"
    assert left_out[1].sources == sketch.sources["cow.1"]
    assert split.image_ids == ("zebra_7", "2008_000003")


class TestIsMet:
    @pytest.fixture
    def sketch(self, make_sketch, tmp_path):
        sketch = make_sketch()
        sketch.write(tmp_path)
        return sketch

    @staticmethod
    def is_met(plan, identity, *, skip=False):
        return plan.is_met_by(plan.header(identity), skip=skip)

    @pytest.mark.parametrize("skip", [False, True])
    def test_of_the_same(self, sketch, skip):
        assert all(self.is_met(plan, sketch.identity, skip=skip) for plan in sketch.plans)

    def test_with_another_identity(self, sketch, make_identity):
        assert not self.is_met(sketch.plans[0], make_identity(void=0))

    @pytest.mark.parametrize("digest", ["image_digest", "mask_digest"])
    def test_with_another_file(self, sketch, digest):
        sources = {**sketch.sources, "cow.1": {**sketch.sources["cow.1"], digest: "another"}}
        plans = plan_shards(sketch.plans[0].directory, "train", sources, 2)
        assert [self.is_met(plan, sketch.identity) for plan in plans] == [False, True]

    @pytest.mark.parametrize(
        "ids",
        [("zebra_7",), ("zebra_7", "cow.1", "2008_000003"), ("cow.1", "zebra_7"), ("zebra_7", "x")],
    )
    def test_with_other_images_or_another_order(self, sketch, ids):
        sources = {**sketch.sources, "x": sketch.sources["cow.1"]}
        plan = replace(sketch.plans[0], sources={i: sources[i] for i in ids})
        assert not self.is_met(plan, sketch.identity)
        assert not self.is_met(plan, sketch.identity, skip=True)

    def test_with_an_image_left_out_only_if_that_is_allowed_and_its_files_are_the_same(
        self, sketch
    ):
        plan = sketch.plans[0]
        sketch.write_shard(plan, skipped={"cow.1": "no image"})
        assert not self.is_met(plan, sketch.identity)  # it may be mended, or not
        assert self.is_met(plan, sketch.identity, skip=True)
        mended = {**plan.sources, "cow.1": {**plan.sources["cow.1"], "image_digest": "mended"}}
        assert not self.is_met(replace(plan, sources=mended), sketch.identity, skip=True)

    def test_in_the_place_of_another(self, sketch):
        first, second = sketch.plans
        first.path.replace(second.path)
        assert not self.is_met(replace(second, sources=first.sources), sketch.identity)

    def test_when_missing_cut_short_or_of_another_kind(self, sketch):
        plan = sketch.plans[0]
        whole = plan.path.read_bytes()
        plan.path.write_bytes(whole[: len(whole) // 2])
        assert not self.is_met(plan, sketch.identity)
        plan.path.write_bytes(whole)
        plan.path.write_bytes(whole[512:])  # what is HDF5's alone
        assert not self.is_met(plan, sketch.identity)
        plan.path.unlink()
        assert not self.is_met(plan, sketch.identity)


class TestIndex:
    @pytest.fixture
    def cache(self, make_sketch, tmp_path):
        sketch = make_sketch()
        sketch.write(tmp_path / "made", split="val")
        cache = sketch.write(tmp_path / "made", split="train")
        write_index(cache)
        return cache

    def test_links_lead_to_the_shards(self, make_sketch, cache, tmp_path):
        sketch = make_sketch()
        check_index(cache)
        (tmp_path / "made").rename(tmp_path / "moved")
        with h5py.File(tmp_path / "moved" / "index.h5") as index:
            assert set(index) == {"train", "val"}
            for split in index:
                assert set(index[split]) == set(sketch.records)
                for image_id, record in sketch.records.items():
                    found = index[split][image_id]["deep"][()]
                    np.testing.assert_array_equal(found, record.maps["deep"])
            assert index.attrs["fingerprint"].decode() == sketch.identity.fingerprint

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            (h5py.ExternalLink("train-00001-of-00002.h5", "/cow.1"), "does not lead to"),
            (h5py.ExternalLink("train-00000-of-00002.h5", "/zebra_7"), "is damaged"),
            (h5py.SoftLink("/val/cow.1"), "is damaged"),
            (None, "does not lead to"),
        ],
    )
    def test_a_link_that_leads_elsewhere_is_found(self, cache, target, says):
        with h5py.File(cache.path / "index.h5", "a") as index:
            del index["train/cow.1"]
            if target is not None:
                index["train/cow.1"] = target
        with pytest.raises(CacheDamagedError, match=rf"index\.h5: {says}"):
            check_index(cache)

    def test_a_missing_one_is_found(self, cache):
        (cache.path / "index.h5").unlink()
        with pytest.raises(CacheDamagedError, match=r"index\.h5: .*pipeline cache repair"):
            check_index(cache)
