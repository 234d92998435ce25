"""HDF5 files that are changed in ways of their own, with the digests that belong to that."""

import json
import random
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

import h5py
import numpy as np
from pydantic import ValidationError

from fuzz.json_values import mutate_json, to_text
from pipeline.cache.arrays import (
    set_digest,
    write_array,
)
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import (
    config_digest,
    set_text,
)
from pipeline.identity import Identity

_MOST_SIGNED = 1 << 16


def changed(content: bytes, chances: Sequence[random.Random], kind: str) -> bytes:
    """Change a file: what it says of itself, its arrays, where something leads; and sign that.

    Parameters
    ----------
    content : bytes
        The file.
    chances : sequence of Random
        One for each change.
    kind : str
        What the file says it is.
    """
    file = BytesIO(content)
    with h5py.File(file, "r+", track_order=True, libver="v110") as hdf5:
        for chance in chances:
            try:
                _change(hdf5, chance, kind)
            except (KeyError, ValueError, TypeError, OSError, RuntimeError, AttributeError):
                continue  # what an earlier change took away
    return file.getvalue()


def _change(hdf5: h5py.File, chance: random.Random, kind: str) -> None:
    """Change what a file says of itself, an array, or where something leads."""
    if chance.random() < 0.5:
        config = to_text(mutate_json(json.loads(hdf5.attrs["config"]), chance))
        config = config.encode(errors="replace").decode()
        set_text(hdf5.attrs, "config", config)
        set_text(hdf5.attrs, "fingerprint", _fingerprint_of(config))
        set_text(hdf5.attrs, "xxh3", config_digest(kind, config))
    else:
        _change_member(hdf5, chance)


def _fingerprint_of(config: str) -> str:
    """Give the fingerprint of a configuration, if it has one."""
    try:
        return Identity.model_validate(json.loads(config)["identity"]).fingerprint
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
        return "0" * 32


def _change_member(hdf5: h5py.File, chance: random.Random) -> None:
    names: list[str] = []
    hdf5.visit(names.append)
    if not names:
        return
    name = chance.choice(names)
    group, _, last = name.rpartition("/")
    parent = hdf5[group or "/"]
    old = parent.get(last)
    small = isinstance(old, h5py.Dataset) and old.size * old.dtype.itemsize <= _MOST_SIGNED
    array = old[()] if small else np.zeros((2, 2), np.float32)
    action = chance.randrange(12)
    if action == 0:
        old.attrs[chance.choice(("xxh3", "a"))] = chance.choice(
            (np.zeros(3, np.float32), np.float64(2), "text", np.bytes_(b"0" * 32), h5py.Empty("f4"))
        )
        return
    if action == 1:
        set_digest(old, StoredArray(array).digest)
        return
    del parent[last]
    if action == 2:
        parent[last] = h5py.SoftLink(chance.choice(("/", "/nothing", f"/{names[0]}", name)))
    elif action == 3:
        parent[last] = h5py.ExternalLink(chance.choice(("other.h5", "/dev/zero", "")), f"/{name}")
    elif action == 4:
        parent[last] = hdf5[chance.choice([n for n in names if n in hdf5] or ["/"])]
    elif action == 5:
        parent.create_group(last)
    elif action == 6:
        layout = h5py.VirtualLayout((3, 4, 5), "f4")
        layout[:] = h5py.VirtualSource("other.h5", name, (3, 4, 5))
        parent.create_virtual_dataset(last, layout)
    elif action == 7:
        size = 4 * array.size
        parent.create_dataset(last, (size,), "u1", external=[("/etc/passwd", 0, size or 1)])
    elif action == 8:
        shape = chance.choice(((10**4, 10**4, 10**4), (2**40,), (3, 10**9), (0, 2**40)))
        chunks = chance.choice((None, tuple(min(n, 64) or 1 for n in shape)))
        parent.create_dataset(last, shape, "f4", chunks=chunks)
    elif action == 9:
        shape = (chance.choice((2**16, 2**20)),)
        parent.create_dataset(last, data=np.zeros(shape, "u1"), compression="gzip", chunks=shape)
    elif action == 10:
        dtype = chance.choice(
            (
                "S4",
                "i8",
                "f8",
                "c8",
                "?",
                "i4,f4",
                h5py.string_dtype(),
                h5py.vlen_dtype("i4"),
                ">f4",
            )
        )
        parent.create_dataset(last, (2,), dtype)
    else:
        _put(parent, last, _other_values(array, chance))


def _put(parent: h5py.Group, name: str, array: Any) -> None:
    if array.size <= _MOST_SIGNED:
        write_array(parent, name, StoredArray(array))


def _other_values(array: Any, chance: random.Random) -> Any:
    changes: tuple[Callable[[], Any], ...] = (
        lambda: array[..., None],
        lambda: array[:1],
        lambda: array[:0],
        lambda: array.T,
        lambda: array.ravel(),
        lambda: array.astype(chance.choice(("f2", "f4", "f8", "i1", "u1", "i8"))),
        lambda: array * 0 - 1,
        lambda: array * np.array(np.nan).astype(array.dtype),
        lambda: np.full_like(array, chance.choice((7, 127))),
        lambda: np.float32(1),
    )
    array = np.atleast_1d(array)
    with np.errstate(all="ignore"):
        return np.asarray(chance.choice(changes)())
