"""Caches made to hurt, with right digests: refused in a line, at once, in little memory."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from forgery import (
    LABEL,
    MAP,
    ORIGINAL,
    Edit,
    a_group,
    attribute,
    config,
    create,
    drawn,
    editing,
    external_values,
    header,
    image_called,
    in_header,
    in_identity,
    link,
    many_channels,
    nested,
    put,
    scale_of,
    stacked_filters,
    virtual,
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

from pipeline.cache import plan_shards
from pipeline.cache.manifest import MANIFEST_NAME, manifest_digest
from pipeline.errors import CacheError
from pipeline.stages.inspect import inspect_cache, verify_cache
from pipeline.stages.maintain import repair_cache

SHARDS: dict[str, Edit] = {
    "map in another file": link(MAP, h5py.ExternalLink("/etc/passwd", "/x")),
    "map behind a pipe": link(MAP, h5py.ExternalLink("pipe", "/x")),
    "map behind a link": link(MAP, h5py.SoftLink("/moved")),
    "image in another file": link("cow_1", h5py.ExternalLink("pipe", "/x")),
    "image behind a link": link("cow_1", h5py.SoftLink("/moved")),
    "image is an array": put("cow_1", np.zeros(3, np.uint8)),
    "map is a group": a_group,
    "map is a type": link(MAP, np.dtype("f2")),
    "virtual": virtual,
    "values in another file": external_values,
    "chunks that are not there": create(MAP, shape=(3, 1 << 20, 1 << 20), dtype="f2", chunks=True),
    "values that are not there": create(MAP, shape=(3, 1 << 20, 1 << 20), dtype="f2"),
    "chunk larger than the map": create(
        MAP,
        np.ones((3, 1, 2), "f2"),
        data=np.ones((3, 1, 2), "f2"),
        chunks=(3, 1 << 12, 1 << 12),
        maxshape=(None, None, None),
        compression="gzip",
    ),
    "stacked filters": stacked_filters,
    "other filter": create(
        MAP, np.ones((3, 1, 2), "f2"), data=np.ones((3, 1, 2), "f2"), fletcher32=True
    ),
    "bomb among labels": create(
        ORIGINAL,
        np.zeros((12_000, 10_000), np.uint8),
        data=np.zeros((12_000, 10_000), np.uint8),
        compression="gzip",
    ),
    "texts": create(MAP, shape=(3, 1, 2), dtype=h5py.string_dtype()),
    "lists": create(MAP, shape=(3, 1, 2), dtype=h5py.vlen_dtype(np.float16)),
    "references": create(MAP, shape=(3, 1, 2), dtype=h5py.ref_dtype),
    "records": create(MAP, shape=(3, 1, 2), dtype=[("a", "f2"), ("b", "f2")]),
    "truths": put(MAP, np.ones((3, 1, 2), bool)),
    "big-endian": put(MAP, np.ones((3, 1, 2), ">f2")),
    "other dtype": put(MAP, np.ones((3, 1, 2), np.float32)),
    "no values": create(MAP, data=h5py.Empty("f2")),
    "a scalar": put(MAP, np.float16(1)),
    "wrong rank": put(MAP, np.ones((3, 2), np.float16)),
    "wrong channels": put(MAP, np.ones((4, 1, 2), np.float16)),
    "no cells": put(MAP, np.ones((3, 0, 2), np.float16)),
    "label of no pixels": put(LABEL, np.ones((0, 3), np.uint8)),
    "label of another rank": put(LABEL, np.ones((2, 3, 1), np.uint8)),
    "label of another dtype": put(LABEL, np.ones((2, 3), np.int64)),
    "label that is no class": put(LABEL, np.full((2, 3), 3, np.uint8)),
    "original label that is no class": put(ORIGINAL, np.full((3, 3), 254, np.uint8)),
    "image without colours": put("cow_1/image", np.ones((2, 3), np.uint8)),
    "image of four colours": put("cow_1/image", np.ones((2, 3, 4), np.uint8)),
    "image of another size": put("cow_1/image", np.ones((3, 3, 3), np.uint8)),
    "scale where none belongs": scale_of(np.ones(3, np.float32)),
    "many digests": attribute(MAP, "xxh3", np.array([b"0" * 32] * 100_000)),
    "digest is text of any length": attribute(MAP, "xxh3", "0" * 32),
    "digest is a number": attribute(MAP, "xxh3", 7),
    "digest is nothing": attribute(MAP, "xxh3", h5py.Empty("S32")),
    "config of any length": attribute("/", "config", "{}"),
    "config is an array": attribute("/", "config", np.array([b"{}"] * 3)),
    "config is nothing": attribute("/", "config", h5py.Empty("S32")),
    "format of any length": attribute("/", "format", "hypercolumn-cache"),
    "version is text": attribute("/", "format_version", "2"),
    "version is many": attribute("/", "format_version", np.array([2, 2])),
    "config is a list": config("[]"),
    "config is text": config('"identity"'),
    "config is a number": config("1"),
    "config is null": config("null"),
    "config is empty": config(""),
    "config is a huge number": config("9" * 100_000),
    "config is too long": config(" " * 40_000_000),
    "config nested too deeply": config("[" * 100_000),
    "preprocessing nested too deeply": nested("input_size", 100_000),
    "preprocessing nested deeply": nested("input_size", 900),
    "no identity": header(lambda details: details.__delitem__("identity")),
    "identity is a list": in_header("identity", []),
    "many channels": header(many_channels),
    "no taps": in_identity("taps", []),
    "many shards": in_header("parts", 10**12),
    "shard of a negative number": in_header("part", -1),
    "shards are a list": in_header("parts", []),
    "images are a list": in_header("images", ["cow_1"]),
    "unknown field": in_header("surprise", 1),
    "image that is not there": image_called("cow_2"),
    "image with no name": image_called(""),
    "image called .": image_called("."),
    "image called ..": image_called(".."),
    "image outside": image_called("../../x"),
    "image at the root": image_called("/etc/passwd"),
    "image in a group": image_called("a/cow_1", reach="a/cow_1"),
    "image with a line break": image_called("a\nb", reach="a\nb"),
    "image with a colour": image_called("\x1b[31mred", reach="\x1b[31mred"),
    "image with a long name": image_called("x" * 5000, reach="x" * 5000),
}
EIGHT_BITS: dict[str, Edit] = {
    "scale of nan": scale_of(np.full(3, np.nan, np.float32)),
    "scale of infinity": scale_of(np.full(3, np.inf, np.float32)),
    "negative scale": scale_of(np.full(3, -1, np.float32)),
    "scale of zero": scale_of(np.zeros(3, np.float32)),
    "scale of another dtype": scale_of(np.ones(3)),
    "scale of another shape": scale_of(np.ones((3, 1), np.float32)),
    "scale of one": scale_of(np.ones(1, np.float32)),
    "scale is text": attribute(MAP, "scale", "1"),
    "scale is nothing": attribute(MAP, "scale", h5py.Empty("f4")),
    "huge scale": attribute(MAP, "scale", np.ones(1 << 20, np.float32)),
    "no scale": lambda file: file[MAP].attrs.__delitem__("scale"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("sound") / "cache")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "cache"))


@pytest.mark.parametrize("edit", SHARDS.values(), ids=SHARDS)
def test_a_hostile_shard(edit, copy):
    refused_by_reading_and_verifying(copy, edit, SHARD)


@pytest.mark.parametrize("edit", EIGHT_BITS.values(), ids=EIGHT_BITS)
def test_a_hostile_shard_of_8_bits(edit, tmp_path):
    cache = write_cache(tmp_path / "cache", dtype="int8")
    refused_by_reading_and_verifying(cache, edit, SHARD)


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
    refused_by_reading_and_verifying(copy, edit, SAMPLES)


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
    refused_by_reading_and_verifying(copy, edit, "index.h5")


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


def refused_by_reading_and_verifying(cache: Path, edit: Edit, name: str) -> None:
    read = {SHARD: read_all_images, SAMPLES: read_samples_file, "index.h5": read_index}[name]
    with editing(cache / name) as file:
        edit(file)
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
    assert any(name in problem for problem in said["verifying"])


def read_all_images(cache: Path) -> None:
    read_shards(cache)
    read_stored(cache)
