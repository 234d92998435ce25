"""Files of a cache changed in ways of their own, with the digests that belong to that."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.cache.arrays import (
    place_digest,
    write_array,
)
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import (
    config_digest,
    set_text,
)

MAP, LABEL, ORIGINAL = "cow_1/deep", "cow_1/label", "cow_1/label_original"
Edit = Callable[[h5py.File], None]


@contextmanager
def editing(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+", libver="v110") as file:
        yield file


def vouch(dataset: h5py.Dataset, values: Any) -> None:
    """Give a dataset the digest that its values have."""
    digest = place_digest(dataset.name, StoredArray(values).digest)
    set_text(dataset.attrs, "xxh3", digest)


def put(name: str, values: Any, scale: Any = None) -> Edit:
    """Replace a dataset."""

    def edit(file: h5py.File) -> None:
        del file[name]
        group, _, last = name.rpartition("/")
        write_array(file[group or "/"], last, StoredArray(np.asarray(values), scale))

    return edit


def create(name: str, values: Any = 0, **layout: Any) -> Edit:
    """Replace a dataset by one that is laid out in a way of its own."""

    def edit(file: h5py.File) -> None:
        del file[name]
        vouch(file.create_dataset(name, **layout), np.asarray(values))

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
    vouch(file.create_virtual_dataset(MAP, layout), np.zeros((3, 1, 2), "f2"))


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
    dataset = h5py.Dataset(made)
    dataset[()] = np.zeros(shape, "f2")
    vouch(dataset, np.zeros(shape, "f2"))


def scale_of(values: Any) -> Edit:
    """Store a map in 8 bits with a scale of one's own."""
    return put(MAP, np.ones((3, 1, 2), np.int8), np.asarray(values))


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


def nested(key: str, depth: int) -> Edit:
    """Nest lists in the preprocessing, of which anything is allowed."""

    def edit(file: h5py.File) -> None:
        text = file.attrs["config"].decode()
        old = f'"{key}": '
        assert old in text
        write_config(file, text.replace(old, f'"{key}": {"[" * depth}{"]" * depth}, "unused": ', 1))

    return edit


def image_called(image_id: str, reach: str | None = None) -> Edit:
    """Give the image another id, which is the path to it in the file."""

    def edit(file: h5py.File) -> None:
        if reach is not None:
            file.move("cow_1", reach)
        header(lambda d: d.update(images={image_id: d["images"]["cow_1"]}))(file)

    return edit


def in_header(key: str, value: Any) -> Edit:
    return header(lambda details: details.__setitem__(key, value))


def in_identity(key: str, value: Any) -> Edit:
    return header(lambda details: details["identity"].__setitem__(key, value))


def many_channels(details: dict[str, Any]) -> None:
    details["identity"]["taps"][1]["channels"] = 10**15


def drawn(key: str, value: Any) -> Edit:
    return header(lambda details: details["drawing"].__setitem__(key, value))
