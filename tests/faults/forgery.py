"""Files of a cache changed in ways of their own, with the digests that belong to that."""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fuzz.shard_values import ShardParts
from pipeline.cache.arrays import place_digest, write_array
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import config_digest, set_text
from pipeline.cache.layout import DEFLATED, PLAIN, Form, Front

MAP, LABEL, ORIGINAL = "cow_1/deep", "cow_1/label", "cow_1/label_original"
Edit = Callable[[h5py.File], None]
ShardEdit = Callable[[ShardParts], dict[str, Any] | None]
"""Changes a shard; may give other fields of the userblock."""


@contextmanager
def editing(path: Path) -> Iterator[h5py.File]:
    """Change a file by HDF5."""
    with h5py.File(path, "r+", libver="v110") as file:
        yield file


@contextmanager
def editing_structure(path: Path) -> Iterator[h5py.File]:
    """Change what HDF5 finds in a shard, and nothing else."""
    front = Front.unpack(path.read_bytes()[:512])
    with editing(path) as file:
        yield file
    with path.open("r+b") as file:
        file.truncate(max(path.stat().st_size, front.size))
        file.write(replace(front, size=path.stat().st_size).pack())


def edit_shard(path: Path, edit: ShardEdit) -> None:
    """Change a shard, whose HDF5 is told nothing of it."""
    parts = ShardParts.of(path.read_bytes())
    front = edit(parts) or {}
    path.write_bytes(parts.together(**front))


def forge(name: str, values: Any, *, deflated: bool = False) -> ShardEdit:
    """Replace an array of a shard."""

    def edit(parts: ShardParts) -> None:
        parts.put(parts.index(*name.split("/")), np.asarray(values), deflated=deflated)

    return edit


def form(
    name: str,
    shape: tuple[int, ...] = (3, 1, 2),
    dtype: bytes = b"<f2",
    *,
    payload: bytes = bytes(12),
    size: int | None = None,
    filter_: int = PLAIN,
) -> ShardEdit:
    """Replace an array of a shard by one of which the table says anything."""

    def edit(parts: ShardParts) -> None:
        packed = bytearray(Form(0, shape, np.dtype("u1"), filter_).pack())
        packed[:8] = (len(payload) if size is None else size).to_bytes(8, "little")
        packed[20:23] = dtype
        parts.set(parts.index(*name.split("/")), bytes(packed), payload)

    return edit


def deflated(name: str, payload: bytes, shape: tuple[int, ...], dtype: bytes = b"|u1") -> ShardEdit:
    """Replace an array of a shard by something that was deflated."""
    return form(name, shape, dtype, payload=payload, filter_=DEFLATED)


def lying_at(name: str, offset: Callable[[ShardParts], int]) -> ShardEdit:
    """Have an array of a shard lie elsewhere."""

    def edit(parts: ShardParts) -> None:
        at = parts.index(*name.split("/"))
        parts.rows[at] = parts.rows[at]._replace(offset=offset(parts))

    return edit


def rows(change: Callable[[list[Any]], list[Any]]) -> ShardEdit:
    """Change the table of a shard."""

    def edit(parts: ShardParts) -> None:
        parts.rows = change(parts.rows)

    return edit


def userblock(**front: Any) -> ShardEdit:
    """Have the userblock of a shard say something else."""
    return lambda parts: front


def said(part: str, change: Callable[[Any], Any]) -> ShardEdit:
    """Change what a shard says about itself: its ``identity`` or its ``details``."""

    def edit(parts: ShardParts) -> None:
        value = json.loads(getattr(parts, part))
        changed = change(value)
        text = json.dumps(value if changed is None else changed)
        setattr(parts, part, text.encode())

    return edit


def text(part: str, content: str) -> ShardEdit:
    """Replace what a shard says about itself."""
    return lambda parts: setattr(parts, part, content.encode())


def nested(key: str, depth: int) -> ShardEdit:
    """Nest lists in the preprocessing, of which anything is allowed."""

    def edit(parts: ShardParts) -> None:
        old = f'"{key}":'.encode()
        assert old in parts.identity
        lists = b"[" * depth + b"]" * depth
        parts.identity = parts.identity.replace(old, old + lists + b',"unused":', 1)

    return edit


def image_called(image_id: str) -> ShardEdit:
    """Give the image another id."""
    return said("details", lambda d: d.update(images={image_id: d["images"]["cow_1"]}))


def in_details(key: str, value: Any) -> ShardEdit:
    return said("details", lambda details: details.__setitem__(key, value))


def of_identity(key: str, value: Any) -> ShardEdit:
    return said("identity", lambda identity: identity.__setitem__(key, value))


def with_many_channels(identity: dict[str, Any]) -> None:
    identity["taps"][1]["channels"] = 10**15


def with_dictionary(content: bytes) -> bytes:
    """Deflate something that cannot be inflated without a dictionary."""
    deflating = zlib.compressobj(zdict=b"a dictionary")
    return deflating.compress(content) + deflating.flush()


BOMB = zlib.compress(bytes(12_000 * 10_000))


def put(name: str, values: Any) -> Edit:
    """Replace a dataset."""

    def edit(file: h5py.File) -> None:
        del file[name]
        group, _, last = name.rpartition("/")
        write_array(file[group or "/"], last, StoredArray(np.asarray(values)))

    return edit


def create(name: str, values: Any = 0, **layout: Any) -> Edit:
    """Replace a dataset by one that is laid out in a way of its own."""

    def edit(file: h5py.File) -> None:
        del file[name]
        dataset = file.create_dataset(name, **layout)
        digest = place_digest(dataset.name, StoredArray(np.asarray(values)).digest)
        set_text(dataset.attrs, "xxh3", digest)

    return edit


def link(name: str, target: Any) -> Edit:
    """Replace what has a name by a link."""

    def edit(file: h5py.File) -> None:
        file.move(name, "/moved")
        file[name] = target

    return edit


def attribute(name: str, key: str, value: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[name].attrs[key]
        file[name].attrs[key] = value

    return edit


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3, 1, 2), "f2")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3, 1, 2))
    del file[MAP]
    file.create_virtual_dataset(MAP, layout)


def a_group(file: h5py.File) -> None:
    del file[MAP]
    file.create_group(MAP)


def external_values(file: h5py.File) -> None:
    create(MAP, shape=(3, 1, 2), dtype="f2", external=[("/etc/passwd", 0, 12)])(file)


def stacked_filters(file: h5py.File) -> None:
    """Compress zeros four times over: ten bytes become a gigabyte."""
    del file[MAP]
    shape = (3, 16, 1 << 16)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk(shape)
    for _ in range(4):
        layout.set_deflate(9)
    space = h5py.h5s.create_simple(shape)
    made = h5py.h5d.create(file.id, MAP.encode(), h5py.h5t.IEEE_F16LE, space, layout)
    h5py.Dataset(made)[()] = np.zeros(shape, "f2")


def header(change: Callable[[dict[str, Any]], Any]) -> Edit:
    """Change what a file says about itself."""

    def edit(file: h5py.File) -> None:
        details = json.loads(file.attrs["config"].decode())
        changed = change(details)
        write_config(file, json.dumps(details if changed is None else changed))

    return edit


def write_config(file: h5py.File, config: str) -> None:
    set_text(file.attrs, "config", config)
    kind = file.attrs["kind"].decode()
    set_text(file.attrs, "xxh3", config_digest(kind, config))


def config(text: str) -> Edit:
    return lambda file: write_config(file, text)


def in_header(key: str, value: Any) -> Edit:
    return header(lambda details: details.__setitem__(key, value))


def many_channels(details: dict[str, Any]) -> None:
    with_many_channels(details["identity"])


def drawn(key: str, value: Any) -> Edit:
    return header(lambda details: details["drawing"].__setitem__(key, value))
