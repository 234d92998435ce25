"""Caches made to hurt, with right digests: refused in a line, at once, in little memory."""

import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from damage import same
from forgery import (
    BOMB,
    LABEL,
    MAP,
    ORIGINAL,
    Edit,
    ShardEdit,
    a_group,
    attribute,
    config,
    create,
    deflated,
    drawn,
    edit_shard,
    editing,
    editing_structure,
    external_values,
    forge,
    form,
    header,
    image_called,
    in_details,
    in_header,
    link,
    lying_at,
    many_channels,
    nested,
    of_identity,
    put,
    rows,
    said,
    stacked_filters,
    text,
    userblock,
    virtual,
    with_dictionary,
    with_many_channels,
)
from limits import (
    require_one_line,
    within_limits,
)
from sketches import (
    SAMPLES,
    SHARD,
    read_index,
    read_manifest_file,
    read_samples_file,
    read_shards,
    read_stored,
    write_cache,
)

from pipeline.cache import FeatureCache, plan_shards
from pipeline.cache.layout import Extent
from pipeline.cache.manifest import MANIFEST_NAME, manifest_digest
from pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from pipeline.stages.inspect import inspect_cache, verify_cache
from pipeline.stages.maintain import repair_cache

SHARDS: dict[str, ShardEdit] = {
    "map among the first bytes": lying_at(MAP, lambda parts: 0),
    "map beside the file": lying_at(MAP, lambda parts: 1 << 40),
    "map at no place": lying_at(MAP, lambda parts: 2**64 - 1),
    "map half beside the file": form(MAP, size=12, payload=bytes(12) * 2**20, shape=(3, 2**20, 2)),
    "map of many bytes": form(MAP, size=2**64 - 1),
    "map of no bytes": form(MAP, size=0, payload=b""),
    "values that are not there": form(MAP, (3, 1 << 20, 1 << 20)),
    "as many values as can be": form(MAP, (2**32 - 1,) * 3, size=2**64 - 1),
    "deflated values that are not there": deflated(MAP, bytes(12), (3, 1 << 14, 1 << 14), b"<f2"),
    "bomb among labels": deflated(ORIGINAL, BOMB, (10, 10)),
    "bomb of the right size": deflated(ORIGINAL, BOMB, (12_000, 10_000)),
    "deflated in no way": deflated(ORIGINAL, b"no zlib at all", (3, 3)),
    "deflated and cut short": deflated(ORIGINAL, zlib.compress(bytes(9))[:-4], (3, 3)),
    "deflated, and something behind": deflated(ORIGINAL, zlib.compress(bytes(9)) + b"x", (3, 3)),
    "deflated too little": deflated(ORIGINAL, zlib.compress(bytes(8)), (3, 3)),
    "deflated too much": deflated(ORIGINAL, zlib.compress(bytes(10)), (3, 3)),
    "deflated with a dictionary": deflated(ORIGINAL, with_dictionary(bytes(9)), (3, 3)),
    "other filter": form(MAP, filter_=2),
    "texts": form(MAP, dtype=b"|S2"),
    "objects": form(MAP, dtype=b"|O8"),
    "records": form(MAP, dtype=b"f,f"),
    "types of no letters": form(MAP, dtype=b"\xff\n\0"),
    "truths": form(MAP, dtype=b"|b1", payload=bytes(6)),
    "big-endian": form(MAP, dtype=b">f2"),
    "other dtype": forge(MAP, np.ones((3, 1, 2), np.float32)),
    "dtype of 8 bits": forge(MAP, np.ones((3, 1, 2), np.int8)),
    "no axes": form(MAP, (0,)),
    "one axis": forge(MAP, np.ones(3, np.float16)),
    "wrong rank": forge(MAP, np.ones((3, 2), np.float16)),
    "wrong channels": forge(MAP, np.ones((4, 1, 2), np.float16)),
    "no cells": form(MAP, (3, 0, 2), payload=b""),
    "label of no pixels": form(LABEL, (0, 3), b"|u1", payload=b""),
    "label of another rank": forge(LABEL, np.ones((2, 3, 1), np.uint8)),
    "label of another dtype": form(LABEL, (2, 3), b"<i8", payload=bytes(48)),
    "label that is no class": forge(LABEL, np.full((2, 3), 3, np.uint8)),
    "original label that is no class": forge(ORIGINAL, np.full((3, 3), 254, "u1"), deflated=True),
    "image without colours": forge("cow_1/image", np.ones((2, 3), np.uint8)),
    "image of four colours": forge("cow_1/image", np.ones((2, 3, 4), np.uint8)),
    "image of another size": forge("cow_1/image", np.ones((3, 3, 3), np.uint8)),
    "a row less": rows(lambda rows: rows[:-1]),
    "a row more": rows(lambda rows: [*rows, rows[0]]),
    "no rows": rows(lambda rows: []),
    "rows the other way round": rows(lambda rows: rows[::-1]),
    "table beside the file": userblock(table=Extent(1 << 40, 240)),
    "table at no place": userblock(table=Extent(2**64 - 1, 240)),
    "table of many rows": userblock(table=Extent(512, 2**64 - 1)),
    "table among other bytes": userblock(table=Extent(512, 240)),
    "identity beside the file": userblock(identity=Extent(1 << 40, 100)),
    "details of many bytes": userblock(details=Extent(512, 2**63)),
    "details among other bytes": userblock(details=Extent(512, 100)),
    "a longer file": userblock(size=1 << 40),
    "a shorter file": userblock(size=5000),
    "digest of another header": userblock(header_digest=bytes(16)),
    "identity is a list": text("identity", "[]"),
    "identity is text": text("identity", '"identity"'),
    "identity is null": text("identity", "null"),
    "identity is empty": text("identity", ""),
    "details are a list": text("details", "[]"),
    "details are a number": text("details", "1"),
    "details are null": text("details", "null"),
    "details are empty": text("details", ""),
    "details are a huge number": text("details", "9" * 100_000),
    "details are too long": text("details", " " * 40_000_000),
    "details nested too deeply": text("details", "[" * 100_000),
    "preprocessing nested too deeply": nested("input_size", 100_000),
    "preprocessing nested deeply": nested("input_size", 900),
    "no backbone": said("identity", lambda identity: identity.__delitem__("backbone")),
    "many channels": said("identity", with_many_channels),
    "no taps": of_identity("taps", []),
    "tap with the name of another array": said(
        "identity", lambda identity: identity["taps"][0].update(name="scales")
    ),
    "many shards": in_details("parts", 10**12),
    "shard of a negative number": in_details("part", -1),
    "shards are a list": in_details("parts", []),
    "images are a list": in_details("images", ["cow_1"]),
    "unknown field": in_details("surprise", 1),
    "image that is not there": image_called("cow_2"),
    "image with no name": image_called(""),
    "image called .": image_called("."),
    "image called ..": image_called(".."),
    "image called as the table": image_called("\\table"),
    "image outside": image_called("../../x"),
    "image at the root": image_called("/etc/passwd"),
    "image in a group": image_called("a/cow_1"),
    "image with a line break": image_called("a\nb"),
    "image with a colour": image_called("\x1b[31mred"),
    "image with a long name": image_called("x" * 5000),
}
SCALES = "cow_1/scales"
EIGHT_BITS: dict[str, ShardEdit] = {
    "scale of nan": forge(SCALES, np.full(5, np.nan, np.float32)),
    "scale of infinity": forge(SCALES, np.full(5, np.inf, np.float32)),
    "negative scale": forge(SCALES, np.full(5, -1, np.float32)),
    "scale of zero": forge(SCALES, np.zeros(5, np.float32)),
    "scale of another dtype": form(SCALES, (5,), b"<f8", payload=bytes(40)),
    "scale of another shape": forge(SCALES, np.ones((5, 1), np.float32)),
    "scale of one": forge(SCALES, np.ones(1, np.float32)),
    "huge scale": forge(SCALES, np.ones(1 << 20, np.float32)),
    "no scale": form(SCALES, (0,), b"<f4", payload=b""),
}
STRUCTURES: dict[str, Edit] = {
    "map in another file": link(MAP, h5py.ExternalLink("/etc/passwd", "/x")),
    "map behind a pipe": link(MAP, h5py.ExternalLink("pipe", "/x")),
    "map behind a link": link(MAP, h5py.SoftLink("/moved")),
    "image in another file": link("cow_1", h5py.ExternalLink("pipe", "/x")),
    "image behind a link": link("cow_1", h5py.SoftLink("/moved")),
    "image is an array": link("cow_1", np.zeros(3, np.uint8)),
    "map is a group": a_group,
    "map is a type": link(MAP, np.dtype("f2")),
    "virtual": virtual,
    "values in another file": external_values,
    "chunks that are not there": create(MAP, shape=(3, 1 << 20, 1 << 20), dtype="f2", chunks=True),
    "values that are not there": create(MAP, shape=(3, 1 << 20, 1 << 20), dtype="f2"),
    "chunk larger than the map": create(
        MAP,
        data=np.ones((3, 1, 2), "f2"),
        chunks=(3, 1 << 12, 1 << 12),
        maxshape=(None, None, None),
        compression="gzip",
    ),
    "stacked filters": stacked_filters,
    "other filter": create(MAP, data=np.ones((3, 1, 2), "f2"), fletcher32=True),
    "texts": create(MAP, shape=(3, 1, 2), dtype=h5py.string_dtype()),
    "lists": create(MAP, shape=(3, 1, 2), dtype=h5py.vlen_dtype(np.float16)),
    "references": create(MAP, shape=(3, 1, 2), dtype=h5py.ref_dtype),
    "records": create(MAP, shape=(3, 1, 2), dtype=[("a", "f2"), ("b", "f2")]),
    "no values": create(MAP, data=h5py.Empty("f2")),
    "other values": link(MAP, np.ones((3, 1, 2), "f2")),
    "table in another file": link("\\table", h5py.ExternalLink("pipe", "/x")),
    "details are texts of any length": link("\\details", "{}"),
    "kind of any length": attribute("/", "kind", "shard"),
    "kind is an array": attribute("/", "kind", np.array([b"shard"] * 3)),
    "kind is nothing": attribute("/", "kind", h5py.Empty("S32")),
    "format of any length": attribute("/", "format", "hypercolumn-cache"),
    "version is text": attribute("/", "format_version", "3"),
    "version is many": attribute("/", "format_version", np.array([3, 3])),
    "version is another": attribute("/", "format_version", 2),
    "fingerprint of another": attribute("/", "fingerprint", np.bytes_("0" * 32)),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("sound") / "cache")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "cache"))


@pytest.mark.parametrize("edit", SHARDS.values(), ids=SHARDS)
def test_a_hostile_shard(edit, copy):
    edit_shard(copy / SHARD, edit)
    refused_by_reading_and_verifying(copy, SHARD)


@pytest.mark.parametrize("name", ["identity is a list", "image outside", "shards are a list"])
def test_what_no_version_would_write_is_taken_for_no_newer_one(name, copy):
    edit_shard(copy / SHARD, SHARDS[name])
    with pytest.raises(CacheDamagedError, match="its header is damaged"):
        FeatureCache(copy)


def test_an_image_of_another_size_guides_no_refinement(copy):
    """It is refused where it is read alone, too."""
    edit_shard(copy / SHARD, SHARDS["image of another size"])
    with pytest.raises(CacheDamagedError, match=r"cow_1/image is damaged.*another size than its"):
        FeatureCache(copy)["train"].image("cow_1")


@pytest.mark.parametrize("edit", EIGHT_BITS.values(), ids=EIGHT_BITS)
def test_a_hostile_shard_of_8_bits(edit, tmp_path):
    cache = write_cache(tmp_path / "cache", dtype="int8")
    edit_shard(cache / SHARD, edit)
    refused_by_reading_and_verifying(cache, SHARD)


@pytest.mark.parametrize("edit", STRUCTURES.values(), ids=STRUCTURES)
def test_a_hostile_structure_misleads_nobody_and_is_named(edit, copy, sound):
    """Only other programs would be hurt, which read what HDF5 finds."""
    with editing_structure(copy / SHARD) as file:
        edit(file)
    os.mkfifo(copy / "pipe")
    said = within_limits(
        {
            "reading": lambda: same(read_shards(copy), read_shards(sound)),
            "verifying": lambda: [problem.what for problem in verify_cache(copy)],
        }
    )
    assert said["reading"] is True
    (problem,) = said["verifying"]
    require_one_line(problem, SHARD)
    assert "damaged for HDF5" in problem


IN_SAMPLES: dict[str, Edit] = {
    "count is text": in_header("count", "3"),
    "count is negative": in_header("count", -1),
    "count is huge": in_header("count", 10**18),
    "no count": header(lambda details: details.__delitem__("count")),
    "no drawing": header(lambda details: details.__delitem__("drawing")),
    "drawing is a list": in_header("drawing", []),
    "unknown taps": drawn("features", {"taps": ["nowhere"], "context": []}),
    "many contexts": drawn("features", {"context": ["global"] * 1_000_000}),
    "many channels": header(many_channels),
    "other dtype": lambda file: put("features", file["features"][()].astype(np.float64))(file),
    "other channels": lambda file: put("features", file["features"][:, 1:])(file),
    "values that are not there": create("features", shape=(4, 1 << 40), dtype="f4"),
    "big-endian": lambda file: put("y", file["y"][()].astype(">i8"))(file),
    "label that is no class": lambda file: put("label", file["label"][()] + np.uint8(9))(file),
    "image that is not listed": lambda file: put("image", file["image"][()] + 1)(file),
    "negative image": lambda file: put("image", file["image"][()] - 1)(file),
    "negative pixel": lambda file: put("y", file["y"][()] - 100)(file),
    "names are numbers": put("image_ids", np.arange(3)),
    "names in a table": put("image_ids", np.array([[b"cow_1"]])),
    "names are one name": put("image_ids", np.bytes_(b"cow_1")),
    "names of other letters": put("image_ids", np.array([b"\xff\xfe"])),
    "name is a path": put("image_ids", np.array([b"../../x"])),
    "two names for one image": put("image_ids", np.array([b"cow_1", b"cow_1"])),
    "label behind a pipe": link("label", h5py.ExternalLink("pipe", "/x")),
}


@pytest.mark.parametrize("edit", IN_SAMPLES.values(), ids=IN_SAMPLES)
def test_hostile_samples(edit, copy):
    with editing(copy / SAMPLES) as file:
        edit(file)
    refused_by_reading_and_verifying(copy, SAMPLES)


IN_INDEX: dict[str, Edit] = {
    "split behind a pipe": link("train", h5py.ExternalLink("pipe", "/x")),
    "split is an array": put("train", np.zeros(3, np.uint8)),
    "split is itself": lambda file: file.__setitem__("again", file["/"]),
    "image in another file": lambda file: (
        file["train"].pop("cow_1") is None
        or file["train"].__setitem__("cow_1", h5py.ExternalLink("/etc/passwd", "/cow_1"))
    ),
    "config is a list": config("[]"),
}


@pytest.mark.parametrize("edit", IN_INDEX.values(), ids=IN_INDEX)
def test_a_hostile_index(edit, copy):
    with editing(copy / "index.h5") as file:
        edit(file)
    refused_by_reading_and_verifying(copy, "index.h5")


MANIFESTS: dict[str, dict[str, Any]] = {
    "data set is a number": {"dataset": 5},
    "weights are a list": {"weights": ["random"]},
    "seed is huge": {"seed": 2**64},
    "no images in a shard": {"images_per_shard": 0},
    "compressed in no way": {"compression": "zip"},
    "drawing is a list": {"drawing": []},
    "drawing of huge seed": {"drawing": {"seed": -1}},
    "errors do what": {"on_error": "run"},
    "surprise": {"surprise": 1},
}


@pytest.mark.parametrize("made_from", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_says_where_from_in_no_way(made_from, copy):
    content = json.loads((copy / MANIFEST_NAME).read_text())
    del content["xxh3"]
    content["made_from"] |= made_from
    content["xxh3"] = manifest_digest(content)
    (copy / MANIFEST_NAME).write_text(json.dumps(content))
    refused_manifest(copy)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "[]", "1", "null", "9" * 100_000, "", "\ud800", "{}"],
    ids=lambda text: text[:6],
)
def test_a_manifest_that_is_none(text, copy):
    (copy / MANIFEST_NAME).write_bytes(text.encode(errors="surrogatepass"))
    refused_manifest(copy)


def test_a_manifest_of_a_gigabyte(copy):
    os.truncate(copy / MANIFEST_NAME, 1 << 30)
    refused_manifest(copy)


def refused_manifest(cache: Path) -> None:
    said = within_limits(
        {
            "reading": lambda: read_manifest_file(cache) and None,
            "verifying": lambda: [problem.what for problem in verify_cache(cache)],
            "describing": lambda: inspect_cache(cache)["problems"],
            "mending": lambda: repair_cache(cache) and None,
        }
    )
    require_one_line(said["reading"], MANIFEST_NAME)
    assert any(MANIFEST_NAME in problem for problem in said["verifying"])
    assert any(MANIFEST_NAME in problem for problem in said["describing"])
    assert "manifest cannot be read; give --dataset" in str(said["mending"])


@pytest.mark.parametrize("name", [SHARD, SAMPLES, "index.h5", MANIFEST_NAME])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_not_a_file_is_not_waited_for(name, kind, copy):
    path = copy / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    said = within_limits(
        {
            "reading": lambda: read_everything(copy) and None,
            "verifying": lambda: [problem.what for problem in verify_cache(copy)],
            "describing": lambda: inspect_cache(copy)["problems"],
        }
    )
    require_one_line(said["reading"], name)
    assert any(name in problem for problem in said["verifying"])


def read_everything(cache: Path) -> None:
    for read in (read_shards, read_samples_file, read_index, read_manifest_file):
        read(cache)


def test_a_shard_holds_no_more_images_than_a_header_can_list(tmp_path):
    sources = {f"image_{number}": {} for number in range(30_000)}
    plans = plan_shards(tmp_path, "train", sources, 10**9)
    assert [len(plan.sources) for plan in plans] == [25_000, 5_000]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with a pipe to be waited for; nothing else is there afterwards."""
    folder = tmp_path / "here"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    yield
    assert [path.name for path in folder.iterdir()] == ["pipe"]


def refused_by_reading_and_verifying(cache: Path, name: str) -> None:
    read = {SHARD: read_all_images, SAMPLES: read_samples_file, "index.h5": read_index}[name]
    os.mkfifo(cache / "pipe")
    said = within_limits(
        {
            "reading": lambda: read(cache) and None,
            "verifying": lambda: [problem.what for problem in verify_cache(cache)],
            "describing": lambda: inspect_cache(cache)["problems"],
        }
    )
    assert isinstance(said["reading"], CacheError)
    require_one_line(said["reading"], name)
    if isinstance(said["verifying"], CacheMismatchError):  # it may be of another version
        require_one_line(said["verifying"], name)
    else:
        assert any(name in problem for problem in said["verifying"])


def read_all_images(cache: Path) -> None:
    read_shards(cache)
    read_stored(cache)
