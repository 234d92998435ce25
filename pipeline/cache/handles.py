"""Open shards, and where in them arrays lie that have been read before.

To find an array through HDF5 takes longer than to read it. What has been found once is read by its
place in the file from then on: training reads every image once an epoch.
"""

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.cache.arrays import Unchecked
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import UNREADABLE, get_text, open_described, open_readable
from pipeline.errors import CacheMismatchError

_OPEN_FILES = 8
_MOST_PLACES = 50_000
"""Some 20 MB; those of the arrays that were read last."""

Shard = tuple[Path, str]
"""A shard's file, and the digest of its header."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array lies, in one piece and as it is, and what was read beside it."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    scale: NDArray[np.float32] | None
    name: str
    digest: bytes


class _Raw:
    """A file opened for reading, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


class Handles:
    """A few open files, reopened in every process: HDF5 handles survive neither fork nor pickle."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self.checks = ThreadPoolExecutor(1)  # has no thread before something is submitted
        self.files: OrderedDict[Shard, h5py.File] = OrderedDict()
        self._raw: OrderedDict[Shard, _Raw] = OrderedDict()
        self._states: dict[Shard, tuple[int, ...]] = {}
        self._places: OrderedDict[tuple[Shard, str, str], _Place] = OrderedDict()

    def get(self, shard: Shard) -> h5py.File:
        """Give a shard, opened in this process.

        Raises
        ------
        CacheMismatchError
            If its header has another digest: it has been written anew.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            file = self.files.pop(shard, None)
            if file is None:
                file = _open_shard(*shard)
                self._states[shard] = _state(file.id.get_vfd_handle())
            _keep(self.files, shard, file)
        return file

    def remember(self, shard: Shard, image_id: str, dataset: h5py.Dataset, read: Unchecked) -> None:
        """Note where an array lies that has been read, unless it is compressed."""
        offset = dataset.id.get_offset()
        if offset is None or not hasattr(os, "preadv"):  # which macOS may lack
            return
        values, scale = read.array.values, read.array.scale
        place = _Place(offset, values.dtype, values.shape, scale, read.place, read.digest)
        with self._lock:
            self._places[shard, image_id, read.place.rpartition("/")[2]] = place
            if len(self._places) > _MOST_PLACES:
                self._places.popitem(last=False)

    def read_again(self, shard: Shard, image_id: str, name: str) -> Unchecked | None:
        """Read an array by its place, if that is known and the file still is what it was.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            place = self._places.get((shard, image_id, name))
            file = None if place is None else self._reopened(shard)
        if place is None or file is None:
            return None
        values = np.empty(place.shape, place.dtype)
        rest, offset = values.data.cast("B"), place.offset
        while rest:
            count = os.preadv(file.descriptor, [rest], offset)
            if not count:
                return None  # it is shorter than it was: let HDF5 say what is wrong
            rest, offset = rest[count:], offset + count
        return Unchecked(StoredArray(values, place.scale), place.name, place.digest)

    def _reopened(self, shard: Shard) -> _Raw | None:
        file = self._raw.pop(shard, None)
        if file is None:
            try:
                file = _Raw(shard[0])
            except OSError:
                return None  # HDF5 will say why
        if _state(file.descriptor) != self._states.get(shard):
            return None
        _keep(self._raw, shard, file)
        return file

    def close(self) -> None:
        """Close those of this process."""
        if self._process == os.getpid():
            self.checks.shutdown()
            for file in self.files.values():
                file.close()
        self._begin()

    def __reduce__(self) -> tuple[type["Handles"], tuple[()]]:
        return Handles, ()


def _keep(files: OrderedDict[Shard, Any], shard: Shard, file: Any) -> None:
    files[shard] = file
    if len(files) > _OPEN_FILES:
        # Not closed but let go: another thread may be reading from it.
        files.popitem(last=False)


def _state(descriptor: int) -> tuple[int, ...]:
    """Tell one file from another, and from what it is after a change."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _open_shard(path: Path, digest: str) -> h5py.File:
    """Open a shard whose header has been read before; what it is to say is known."""
    file = open_readable(path)
    if not _has_digest(file, digest):
        file.close()
        open_described(path, "shard")[0].close()  # may have better words
        raise CacheMismatchError(
            f"{path}: was written anew while it was being read; run this again"
        )
    return file


def _has_digest(file: h5py.File, digest: str) -> bool:
    try:
        return get_text(file.attrs, "xxh3") == digest
    except UNREADABLE:
        return False
