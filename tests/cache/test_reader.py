"""Reading a cache: the right values, in order, in any process, and never a damaged one."""

import json
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import h5py
import numpy as np
import pytest

from fuzz.shard_values import ShardParts, of_later_identity, of_version
from pipeline.cache import FeatureCache, ShardHeader, handles
from pipeline.cache.files import describe
from pipeline.cache.layout import PLAIN, ROW, Form, Row, place_digest
from pipeline.errors import CacheDamagedError, CacheMismatchError, CacheNotFoundError

TAPS = ("shallow", "deep")
OTHERS = ("label", "label_original", "image")


def read(split, image_id, name):
    return split.maps(image_id, [name])[0] if name in TAPS else getattr(split, name)(image_id)


def written(record, name):
    return record.maps[name] if name in TAPS else getattr(record, name)


@pytest.fixture(params=[False, True], ids=["store first", "recompute first"])
def recompute_first(request):
    return request.param


def stored_names(sketch):
    """Give what is stored of an image."""
    return [*(tap.name for tap in sketch.identity.stored_taps), *OTHERS]


def assert_equals(split, sketch):
    assert set(split.image_ids) == set(sketch.records)
    for image_id, record in sketch.records.items():
        for name in (*TAPS, *OTHERS):
            assert_value(read(split, image_id, name), record, name, sketch)


def assert_value(found, record, name, sketch):
    """Compare what is stored to the bit, and what is computed up to rounding."""
    exact = name in stored_names(sketch)
    assert found.dtype == written(record, name).dtype
    np.testing.assert_allclose(found, written(record, name), rtol=0, atol=0 if exact else 1e-5)


@pytest.mark.parametrize("compression", [None, "gzip"])
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
        assert set(stored.arrays) == set(stored_names(sketch))
        for tap in TAPS:
            assert_value(stored.map(tap).decoded(), record, tap, sketch)
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
    count = 2 * handles._OPEN_FILES
    for n in range(count):
        image = np.full((7, 9, 3), n, np.uint8)
        sketch.records[f"i{n}"] = replace(record, image_id=f"i{n}", image=image)
    sketch.write(tmp_path, image_ids=[f"i{n}" for n in range(count)], images_per_shard=1)
    split = FeatureCache(tmp_path)["train"]
    for n in [*range(count), *reversed(range(count)), 3, 3, 17]:
        assert (split.image(f"i{n}") == n).all()
    assert len(split._handles.files) <= handles._OPEN_FILES


@pytest.fixture(params=["at once", "beside"])
def piecewise(request, monkeypatch):
    """Have arrays read in one piece, or in many and half of them in the other thread."""
    if request.param == "beside":
        monkeypatch.setattr(handles, "_PIECE", 7)
        monkeypatch.setattr(handles, "_WORTH_TWO_THREADS", 0)
        monkeypatch.setattr(handles, "_HEAD_START", 0)


@pytest.mark.usefixtures("piecewise")
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_shards_are_read_without_hdf5(make_sketch, tmp_path, dtype, monkeypatch):
    sketch = make_sketch(dtype=dtype)
    sketch.write(tmp_path)
    with h5py.File(sketch.plans[0].path) as file:
        expected = {
            f"{i}/{n}": file[i][n][()] for i in file if i in sketch.records for n in file[i]
        }
    monkeypatch.setattr(h5py, "File", None)
    split = FeatureCache(tmp_path)["train"]
    for image_id in sketch.plans[0].sources:
        for name, array in split.stored(image_id).arrays.items():
            np.testing.assert_array_equal(array.values, expected[f"{image_id}/{name}"])
            assert array.values.flags.aligned
            assert array.values.flags.writeable
    for tap, values in zip(TAPS, split.maps("cow.1", TAPS), strict=True):
        assert np.abs(values - sketch.records["cow.1"].maps[tap]).max() < 0.1


def test_arrays_that_lie_apart_are_read_apart(make_sketch, tmp_path, monkeypatch):
    """Whoever asks for two arrays does not read what lies between them."""
    sketch = make_sketch()
    split = sketch.write(tmp_path)["train"]
    (stored,) = split.stored_maps("zebra_7", ["deep"])  # opens the file
    fill, read = handles.ShardFile._fill, []

    def counted(file, rest, offset):
        read.append(len(rest))
        fill(file, rest, offset)

    monkeypatch.setattr(handles.ShardFile, "_fill", counted)
    deep, image = split.stored_maps("zebra_7", ["deep"]), split.image("zebra_7")
    np.testing.assert_array_equal(deep[0].values, stored.values)
    rows = 2 * len(split._forms.names) * ROW.itemsize
    assert sum(read) == rows + stored.values.nbytes + image.nbytes * 4 // 3  # label and image


@pytest.fixture
def divided(make_sketch, tmp_path, monkeypatch):
    """A split of which an image is read by two threads, and what both of them go through."""
    monkeypatch.setattr(handles, "_WORTH_TWO_THREADS", 0)
    monkeypatch.setattr(handles, "_HEAD_START", 0)
    split = make_sketch().write(tmp_path)["train"]
    split.maps("zebra_7", TAPS)
    caller, fill = threading.current_thread(), handles.ShardFile._fill
    table = len(split._forms.names) * ROW.itemsize  # is read before

    def through(own, other):
        def instead(file, rest, offset):
            if len(rest) != table:
                (own if threading.current_thread() is caller else other)()
            fill(file, rest, offset)

        monkeypatch.setattr(handles.ShardFile, "_fill", instead)
        return split

    return through


def test_what_the_other_thread_raises_arrives(divided):
    begun = threading.Event()

    def no_memory():
        begun.set()
        raise MemoryError("in the other thread")

    with pytest.raises(MemoryError, match="in the other thread"):
        divided(lambda: begun.wait(30), no_memory).maps("zebra_7", TAPS)


def test_an_error_waits_for_the_other_thread_which_still_writes(divided):
    begun, ended = threading.Event(), threading.Event()

    def slow():
        begun.set()
        time.sleep(0.3)
        ended.set()

    def fail():
        assert begun.wait(30)
        raise MemoryError("here")

    with pytest.raises(MemoryError, match="here"):
        divided(fail, slow).maps("zebra_7", TAPS)
    assert ended.is_set()


def test_what_the_other_thread_has_not_begun_is_read_here(divided):
    split = divided(lambda: None, lambda: pytest.fail("it was busy"))
    busy = threading.Event()
    split._handles.beside.submit(busy.wait)
    try:
        found = split.maps("zebra_7", TAPS)
    finally:
        busy.set()
    assert all(np.isfinite(values).all() for values in found)


@pytest.mark.usefixtures("piecewise")
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
        with pytest.raises(CacheDamagedError, match=r"zebra_7/(deep|table) is damaged"):
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


@pytest.mark.usefixtures("piecewise")
@pytest.mark.parametrize("name", [*TAPS, *OTHERS])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_flipped_byte_of_any_payload_is_found(make_sketch, tmp_path, name, dtype):
    sketch = make_sketch(dtype=dtype)
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    place = f"cow.1/{name}"
    if name not in stored_names(sketch):
        place = "\\kernel"
    with h5py.File(path) as file:
        dataset = file[place]
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
        assert f"{place} is damaged" in message
        assert "run 'pipeline cache repair'" in message
        assert "\n" not in message
        with pytest.raises(CacheDamagedError):
            split.stored("cow.1")
        intact = written(sketch.records["2008_000003"], name)  # in the other shard
        np.testing.assert_allclose(read(split, "2008_000003", name), intact, atol=0.1)
        split._handles.close()


@pytest.mark.parametrize("position", range(48))
def test_a_changed_byte_of_a_row_of_the_table_is_found(make_sketch, tmp_path, position):
    sketch = make_sketch(dtype="int8")
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    whole = bytearray(path.read_bytes())
    front = ShardHeader.read(path).front
    row = ShardParts.of(whole).index("cow.1", "deep")
    whole[front.table.offset + 48 * row + position] ^= 1
    path.write_bytes(whole)
    split = FeatureCache(tmp_path)["train"]
    with pytest.raises(CacheDamagedError, match=r"cow\.1/deep is damaged"):
        split.maps("cow.1", ["deep"])
    split.maps("cow.1", ["shallow"])


def test_rows_of_the_table_are_of_no_use_in_each_other_s_places(make_sketch, tmp_path):
    sketch = make_sketch()
    one, other = (sketch.records[i] for i in ("zebra_7", "cow.1"))
    sketch.records["cow.1"] = replace(one, image_id="cow.1", image=255 - one.image)
    assert other.image.shape != one.image.shape
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    parts = ShardParts.of(path.read_bytes())
    for first, second in ((("zebra_7", "image"), ("cow.1", "image")),
                          (("zebra_7", "label"), ("cow.1", "label"))):  # fmt: skip
        a, b = parts.index(*first), parts.index(*second)
        parts.rows[a], parts.rows[b] = parts.rows[b], parts.rows[a]
    path.write_bytes(parts.together())
    split = FeatureCache(tmp_path)["train"]
    for image_id in ("zebra_7", "cow.1"):
        for name in ("image", "label"):
            with pytest.raises(CacheDamagedError, match="it does not match its digest"):
                read(split, image_id, name)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_shard_is_damaged(make_sketch, tmp_path, share):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[1].path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CacheDamagedError, match=path.name):
        FeatureCache(tmp_path)


@pytest.mark.parametrize("part", ["identity", "details"])
def test_a_broken_header_is_one_line(make_sketch, tmp_path, part):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    whole = path.read_bytes()
    for text in (b'{"backbone": 3}', b"{", b"{}", b"[]", b"[" * 100_000, b"", b"\xff"):
        parts = ShardParts.of(whole)
        setattr(parts, part, text)
        path.write_bytes(parts.together())
        with pytest.raises(CacheDamagedError, match="header is damaged") as caught:
            FeatureCache(tmp_path)
        assert "\n" not in str(caught.value)


def test_every_byte_of_the_userblock_counts(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    whole = path.read_bytes()
    for at in range(512):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(CacheDamagedError, match=path.name):
            ShardHeader.read(path)


@pytest.mark.parametrize("part", ["identity", "details"])
def test_a_changed_letter_of_what_it_says_is_damage(make_sketch, tmp_path, part):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    whole = bytearray(path.read_bytes())
    whole[getattr(ShardHeader.read(path).front, part).offset + 20] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CacheDamagedError, match=r"header is damaged.*does not match its digest"):
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
    path = sketch.plans[0].path
    path.write_bytes(of_version(path.read_bytes(), 99))
    with pytest.raises(CacheMismatchError, match=r"format version 99.*extract again"):
        FeatureCache(tmp_path)


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"tiles": 4}, "tiles: Extra inputs are not permitted"),
        ({"dtype": "int4"}, "dtype: Input should be 'float16', 'float32' or 'int8'"),
        ({"line\nend": 1}, "line end: Extra inputs"),
    ],
)
def test_a_shard_of_a_later_version_is_no_damaged_one(make_sketch, tmp_path, said, named):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    path.write_bytes(of_later_identity(path.read_bytes(), **said))
    with pytest.raises(CacheMismatchError, match=f"newer version.*--replace.*{named}") as caught:
        FeatureCache(tmp_path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_later_version_may_call_a_field_otherwise(make_sketch, tmp_path):
    """Then one is missing as well, which alone is damage."""
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    parts = ShardParts.of(path.read_bytes())
    said = json.loads(parts.identity)
    void = said.pop("void")
    for renamed, error in (
        ({"void_labels": [void]}, CacheMismatchError),
        ({}, CacheDamagedError),
    ):
        parts.identity = json.dumps(said | renamed).encode()
        path.write_bytes(parts.together())
        with pytest.raises(error, match="void_labels: Extra" if renamed else "header is damaged"):
            ShardHeader.read(path)


def test_a_shard_of_the_version_before_is_refused(make_sketch, tmp_path):
    """It was HDF5 alone, and said in attributes what it was."""
    sketch = make_sketch()
    sketch.write(tmp_path)
    with h5py.File(sketch.plans[0].path, "w", libver="v110") as file:
        describe(file, sketch.identity, "shard", {})
        file.attrs["format_version"] = 2
    with pytest.raises(CacheMismatchError, match=r"format version 2.*reads version 3; extract ag"):
        FeatureCache(tmp_path)


def test_a_shard_without_its_userblock_is_damaged(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    path.write_bytes(path.read_bytes()[512:])
    with pytest.raises(CacheDamagedError, match=r"header is damaged.*pipeline cache repair"):
        ShardHeader.read(path)


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
    cache.require(cache.identity, what="the head h")
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


@pytest.mark.usefixtures("piecewise")
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
            assert_value(found, sketch.records[image_id], tap, sketch)


def test_a_map_is_computed_from_no_image_that_is_damaged(tmp_path, make_sketch, recompute_first):
    sketch = make_sketch()
    sketch.write(tmp_path)
    path = sketch.plans[0].path
    whole = bytearray(path.read_bytes())
    whole[whole.index(sketch.records["cow.1"].image.tobytes())] ^= 1
    path.write_bytes(whole)
    split = FeatureCache(tmp_path)["train"]
    split.maps("cow.1", ["deep"])
    if not recompute_first:
        split.maps("cow.1", ["shallow"])
        return
    with pytest.raises(CacheDamagedError, match=r"cow\.1/image is damaged"):
        split.maps("cow.1", ["shallow"])


@pytest.mark.parametrize("name", ["\\kernel", "\\bias", "\\values"])
def test_what_a_map_is_computed_with_is_checked_like_all_else(tmp_path, make_sketch, name):
    """Of a shape that does not belong to the identity, or with values that cannot be."""
    sketch = make_sketch()
    sketch.write(tmp_path)
    if sketch.first is None:
        return
    path = sketch.plans[0].path
    whole = path.read_bytes()
    for shape, value in (((1, 3, 9), 0), (None, np.nan), (None, np.inf)):
        parts = ShardParts.of(whole)
        number = parts.index("", name)
        form = Form.unpack(parts.rows[number].form)
        values = np.full(shape or form.shape, value, np.float32)
        offset = parts.add(values.tobytes()).offset
        packed = Form(values.nbytes, values.shape, values.dtype, PLAIN).pack()
        digest = place_digest("", name, packed)
        digest.update(values.data)
        parts.rows[number] = Row(offset, packed, digest.digest())
        path.write_bytes(parts.together())
        split = FeatureCache(tmp_path)["train"]
        split.maps("cow.1", ["deep"])
        with pytest.raises(CacheDamagedError, match=r"\\\w+ is damaged"):
            split.maps("cow.1", ["shallow"])
        with pytest.raises(CacheDamagedError, match=r"\\\w+ is damaged"):
            split.stored("cow.1")
