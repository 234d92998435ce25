"""Reading a cache: the right values, in order, in any process, and never a damaged one."""

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest
import xxhash

from pipeline.cache import CachedSplit, FeatureCache, ShardHeader, reader
from pipeline.cache.files import get_text, set_text
from pipeline.errors import CacheDamagedError, CacheMismatchError, CacheNotFoundError

TAPS = ("shallow", "deep")
OTHERS = ("label", "label_original", "image")


def read(split, image_id, name):
    return split.maps(image_id, [name])[0] if name in TAPS else getattr(split, name)(image_id)


def written(record, name):
    return record.maps[name] if name in TAPS else getattr(record, name)


def assert_equals(split, sketch):
    assert set(split.image_ids) == set(sketch.records)
    for image_id, record in sketch.records.items():
        for name in (*TAPS, *OTHERS):
            np.testing.assert_array_equal(read(split, image_id, name), written(record, name))


@pytest.mark.parametrize("compression", [None, "gzip", "lzf"])
@pytest.mark.parametrize("images_per_shard", [1, 2, 3])
def test_everything_comes_back(make_sketch, tmp_path, images_per_shard, compression):
    sketch = make_sketch()
    cache = sketch.write(tmp_path, images_per_shard=images_per_shard, compression=compression)
    split = cache["train"]
    assert_equals(split, sketch)
    for image_id, record in sketch.records.items():
        assert split.size(image_id) == record.label.shape
        stored = split.stored(image_id)
        assert stored.sources == split.sources[image_id] == record.sources
        assert set(stored.arrays) == {*TAPS, *OTHERS}
        np.testing.assert_array_equal(stored.arrays["deep"].values, record.maps["deep"])
    assert split.dataset == "sketch"
    assert split.software == {"sketch": "1.0"}
    assert cache.identity == sketch.identity


def test_maps_are_float32_and_in_the_order_asked_for(make_sketch, tmp_path):
    split = make_sketch(dtype="float16").write(tmp_path)["train"]
    deep, shallow = split.maps("cow.1", ["deep", "shallow"])
    assert (deep.shape, shallow.shape) == ((4, 2, 3), (3, 7, 9))
    assert deep.dtype == shallow.dtype == np.float32


@pytest.mark.parametrize("images_per_shard", [1, 2, 3])
@pytest.mark.parametrize(
    "order", [("2008_000003", "cow.1", "zebra_7"), ("cow.1", "zebra_7", "2008_000003")]
)
def test_images_keep_the_order_of_the_split(make_sketch, tmp_path, order, images_per_shard):
    cache = make_sketch().write(tmp_path, image_ids=order, images_per_shard=images_per_shard)
    assert cache["train"].image_ids == order
    assert len(cache["train"]) == 3


def test_void_as_background_changes_void_alone(make_sketch, tmp_path):
    sketch = make_sketch()
    split = sketch.write(tmp_path)["train"]
    for image_id, record in sketch.records.items():
        expected = np.where(record.label == 255, 0, record.label)
        found = split.label(image_id, void_as_background=True)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(split.label(image_id), record.label)
    assert (sketch.records["zebra_7"].label == 255).any()


def test_more_shards_than_files_are_held_open(make_sketch, tmp_path):
    sketch = make_sketch()
    record = sketch.records["cow.1"]
    for n in range(20):
        image = np.full((7, 9, 3), n, np.uint8)
        sketch.records[f"i{n}"] = replace(record, image_id=f"i{n}", image=image)
    sketch.write(tmp_path, image_ids=[f"i{n}" for n in range(20)], images_per_shard=1)
    split = FeatureCache(tmp_path)["train"]
    for n in [*range(20), *reversed(range(20)), 3, 3, 17]:
        assert (split.image(f"i{n}") == n).all()
    assert len(split._handles.files) <= 8


@pytest.fixture(params=["at once", "beside"])
def checking(request, monkeypatch):
    """Have arrays of any size checked where they are read, or in the other thread."""
    monkeypatch.setattr(reader, "_BESIDE", 1 if request.param == "beside" else 1 << 30)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_what_was_read_before_is_read_again_without_hdf5(make_sketch, tmp_path, dtype, monkeypatch):
    split = make_sketch(dtype=dtype).write(tmp_path)["train"]
    names = (*TAPS, "label", "image")  # the original label is compressed
    first = {(i, name): read(split, i, name) for i in split.image_ids for name in names}
    monkeypatch.setattr(CachedSplit, "_find", None)
    for (image_id, name), values in first.items():
        np.testing.assert_array_equal(read(split, image_id, name), values)


def test_damage_between_two_readings_is_found(make_sketch, tmp_path):
    """Even where the file's time tells nothing."""
    sketch = make_sketch()
    split = sketch.write(tmp_path)["train"]
    path = sketch.plans[0].path
    image_id = next(iter(sketch.plans[0].sources))
    before = split.maps(image_id, TAPS)
    whole, times = path.read_bytes(), path.stat()
    payload = sketch.records[image_id].maps["deep"].tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(payload)] ^= 1
    for content in (damaged, whole[: whole.index(payload) + 3]):
        with path.open("r+b") as file:
            file.write(content)
            file.truncate()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        with pytest.raises(CacheDamagedError, match="deep is damaged"):
            split.maps(image_id, TAPS)
    with path.open("r+b") as file:
        file.write(whole)
    for one, other in zip(split.maps(image_id, TAPS), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_shard_that_was_written_anew_is_not_read_by_what_was_known_of_the_old_one(
    make_sketch, tmp_path
):
    sketch = make_sketch()
    split = sketch.write(tmp_path / "one")["train"]
    path = sketch.plans[0].path
    image_id = next(iter(sketch.plans[0].sources))
    split.maps(image_id, TAPS)
    split._handles.files.clear()
    other = make_sketch(weights="4567")
    other.write(tmp_path / "other")
    other.plans[0].path.replace(path)
    with pytest.raises(CacheMismatchError, match="written anew"):
        split.maps(image_id, TAPS)
    path.unlink()
    with pytest.raises(CacheNotFoundError, match=path.name):
        split.maps(image_id, TAPS)


@pytest.mark.usefixtures("checking")
@pytest.mark.parametrize("name", [*TAPS, *OTHERS])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_flipped_byte_of_any_payload_is_found(make_sketch, tmp_path, name, dtype):
    sketch = make_sketch(dtype=dtype)
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    with h5py.File(path) as file:
        dataset = file["cow.1"][name]
        if dataset.chunks:
            chunk = dataset.id.get_chunk_info(0)
            start, size = chunk.byte_offset, chunk.size
        else:
            start, size = dataset.id.get_offset(), dataset.nbytes
    whole = path.read_bytes()
    for position in {0, size // 2, size - 1}:
        damaged = bytearray(whole)
        damaged[start + position] ^= 1
        path.write_bytes(damaged)
        split = FeatureCache(tmp_path)["train"]
        with pytest.raises(CacheDamagedError) as caught:
            read(split, "cow.1", name)
        message = str(caught.value)
        assert str(path) in message
        assert f"cow.1/{name}" in message
        assert "run 'pipeline cache repair'" in message
        assert "\n" not in message
        with pytest.raises(CacheDamagedError):
            split.stored("cow.1")
        intact = written(sketch.records["2008_000003"], name)  # in the other shard
        np.testing.assert_allclose(read(split, "2008_000003", name), intact, atol=0.1)
        split._handles.close()


@pytest.mark.parametrize(
    ("attribute", "change"),
    [("scale", lambda scale: scale * 2), ("xxh3", lambda text: np.bytes_(text[::-1]))],
)
def test_a_changed_or_missing_attribute_is_found(make_sketch, tmp_path, attribute, change):
    sketch = make_sketch(dtype="int8")
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    with h5py.File(path, "a") as file:
        attributes = file["cow.1"]["deep"].attrs
        attributes[attribute] = change(attributes[attribute])
    with pytest.raises(CacheDamagedError, match=r"cow\.1/deep"):
        FeatureCache(tmp_path)["train"].maps("cow.1", ["deep"])
    with h5py.File(path, "a") as file:
        del file["cow.1"]["deep"].attrs[attribute]
    with pytest.raises(CacheDamagedError, match=r"cow\.1/deep"):
        FeatureCache(tmp_path)["train"].maps("cow.1", ["deep"])


def test_damage_outside_the_payloads_is_an_error_that_names_the_file(make_sketch, tmp_path):
    """Object headers and links have checksums of HDF5's own; they must not crash it."""
    sketch = make_sketch()
    sketch.write(tmp_path, images_per_shard=3)
    path = sketch.plans[0].path
    whole = path.read_bytes()
    headers = [at for at in range(len(whole)) if whole.startswith((b"OHDR", b"FRHP", b"BTHD"), at)]
    assert len(headers) > 10
    for at in headers:
        for offset in (0, 6, 12):
            damaged = bytearray(whole)
            damaged[at + offset] ^= 0x10
            path.write_bytes(damaged)
            sketch.plans[0].header(sketch.identity)  # does not raise
            with pytest.raises(CacheDamagedError) as caught:
                split = FeatureCache(tmp_path)["train"]
                for image_id in sketch.records:
                    split.size(image_id)
                    split.stored(image_id)
            assert str(path) in str(caught.value)
            assert "\n" not in str(caught.value)


def set_config(file, config):
    """Put another configuration into a file, with the digest that belongs to it."""
    set_text(file.attrs, "config", config)
    set_text(file.attrs, "xxh3", xxhash.xxh3_128_hexdigest(f"shard {config}".encode()))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_shard_is_damaged(make_sketch, tmp_path, share):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[1].path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CacheDamagedError, match=path.name):
        FeatureCache(tmp_path)


def test_a_broken_header_is_one_line(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    for config in ('{"identity": {"backbone": 3}}', "{", "{}", "[]", "[" * 100_000):
        with h5py.File(path, "a") as file:
            set_config(file, config)
        with pytest.raises(CacheDamagedError, match="header is damaged") as caught:
            FeatureCache(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_fingerprint_that_contradicts_the_configuration_is_damage(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    with h5py.File(sketch.plans[0].path, "a") as file:
        set_config(file, get_text(file.attrs, "config").replace('"void": 255', '"void": 254'))
    with pytest.raises(CacheDamagedError, match="fingerprint"):
        FeatureCache(tmp_path)


@pytest.mark.parametrize("attribute", ["kind", "fingerprint", "config", "xxh3"])
def test_a_root_attribute_that_is_gone_or_no_text_is_damage(make_sketch, tmp_path, attribute):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    for value in (3.5, "of variable length", None):
        with h5py.File(path, "a") as file:
            if value is None:
                del file.attrs[attribute]
            else:
                file.attrs[attribute] = value
        with pytest.raises(CacheDamagedError, match=r"header is damaged.*pipeline cache repair"):
            ShardHeader.read(path)


def test_a_changed_letter_of_the_configuration_is_damage(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    # Written by HDF5, whose own checksum of the header would find the letter first.
    with h5py.File(path, "a") as file:
        config = get_text(file.attrs, "config")
        set_text(file.attrs, "config", config.replace("i-zebra_7", "i-zebra_8"))
    with pytest.raises(CacheDamagedError, match="header is damaged"):
        ShardHeader.read(path)


@pytest.mark.parametrize(
    "number", ["train-00001-of-00002", "train-00000-of-00003", "val-00000-of-00002"]
)
def test_a_renamed_shard_is_noticed(make_sketch, tmp_path, number):
    sketch = make_sketch()
    sketch.write(tmp_path, images_per_shard=2)
    path = sketch.plans[0].path
    path.rename(tmp_path / f"{number}.h5")
    with pytest.raises(CacheDamagedError, match=rf"{number}.h5: was renamed, it is {path.name}"):
        FeatureCache(tmp_path)


def test_another_format_version_is_refused(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    with h5py.File(sketch.plans[0].path, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(CacheMismatchError, match=r"format version 99.*extract again"):
        FeatureCache(tmp_path)


def test_half_written_files_are_never_read(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    last = sketch.plans[1].path
    last.rename(last.with_name(last.name + ".partial"))
    cache = FeatureCache(tmp_path)
    assert cache.splits["train"].image_ids == ("zebra_7", "cow.1")
    assert cache.splits["train"].missing_parts == (1,)
    with pytest.raises(CacheNotFoundError, match=r"1 of 2 shards are missing.*pipeline extract"):
        cache["train"]


def test_what_is_not_there_is_named(make_sketch, tmp_path):
    with pytest.raises(CacheNotFoundError, match="no cache there"):
        FeatureCache(tmp_path / "nowhere")
    with pytest.raises(CacheNotFoundError, match="no shards"):
        FeatureCache(tmp_path)
    cache = make_sketch().write(tmp_path)
    with pytest.raises(CacheNotFoundError, match="no split 'val'; it holds train"):
        cache["val"]
    with pytest.raises(CacheNotFoundError, match="no image 'dog'"):
        cache["train"].maps("dog", ["deep"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_shards_of_two_identities_are_not_mixed(make_sketch, tmp_path, split):
    make_sketch().write(tmp_path)
    other = make_sketch(weights="4567", void=254)
    other.write(tmp_path / "other", split=split)
    other.plans[1].path.rename(tmp_path / other.plans[1].path.name)
    with pytest.raises(CacheMismatchError) as caught:
        FeatureCache(tmp_path)
    message = str(caught.value)
    for part in (other.plans[1].path.name, "weights: 4567, not 0123", "void: 254, not 255"):
        assert part in message


def test_two_divisions_of_a_split_are_not_mixed(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path, images_per_shard=3)
    with pytest.raises(CacheMismatchError, match="lies there in 1 parts as well"):
        sketch.write(tmp_path, images_per_shard=2)


def test_require_names_every_field_that_differs(make_sketch, make_identity, tmp_path):
    cache = make_sketch().write(tmp_path)
    cache.require(make_identity(), what="the head h")
    with pytest.raises(CacheMismatchError, match=r"the head h needs .*dtype: .*geometry: |geom"):
        cache.require(make_identity(dtype="int8", geometry="align_corners"), what="the head h")


def test_a_cache_survives_pickling_and_closing(make_sketch, tmp_path):
    sketch = make_sketch()
    cache = sketch.write(tmp_path)
    cache["train"].image("cow.1")  # a file is open
    again = pickle.loads(pickle.dumps(cache))
    assert_equals(again["train"], sketch)
    assert_equals(pickle.loads(pickle.dumps(cache["train"])), sketch)
    cache.close()
    assert_equals(cache["train"], sketch)


@pytest.mark.usefixtures("checking")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_cache_survives_a_fork(make_sketch, tmp_path):
    sketch = make_sketch()
    split = sketch.write(tmp_path)["train"]
    split.image("cow.1")
    handles = list(split._handles.files.values())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert_equals(split, sketch)
            if not any(
                file is handle for file in split._handles.files.values() for handle in handles
            ):
                status = 0
        finally:
            os._exit(status)
    assert_equals(split, sketch)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_equals(split, sketch)


def test_a_split_can_be_read_in_spawned_processes(make_sketch, tmp_path):
    sketch = make_sketch()
    split = sketch.write(tmp_path)["train"]
    split.image("cow.1")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {i: pool.submit(split.maps, i, TAPS) for i in sketch.records}
    for image_id, future in futures.items():
        for tap, found in zip(TAPS, future.result(), strict=True):
            np.testing.assert_array_equal(found, sketch.records[image_id].maps[tap])
