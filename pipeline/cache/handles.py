"""Open shards, read by their descriptors: HDF5 is not asked where an array lies, the table says it.

A hundred thousand small images lie in many shards, and a cache of large ones is read in any order:
a few files are open at a time.
"""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.cache.files import UNREADABLE, cannot_open, damaged, no_file, open_described
from pipeline.cache.layout import ROW, USERBLOCK, Extent, Front, Row, unpack_rows, version_of
from pipeline.cache.whole_hdf5 import ALIGNED
from pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from pipeline.identity import FORMAT_VERSION

_OPEN_FILES = 32
_PIECE = 1 << 22
"""Bytes that are digested while the next ones are read; for fewer, threads cost more than that."""

_GAP = 1 << 14
"""Bytes between parts that are read in passing: as long as another call would take."""

Stored: TypeAlias = NDArray[np.uint8]


class Part(NamedTuple):
    """A part of a file that is to be read, and a digest that it is to be added to."""

    offset: int
    bytes: int
    digest: xxhash.xxh3_128


def _beside(parts: Sequence[Part]) -> Sequence[Part]:
    """Give the first parts, as many as can be read together."""
    for count, (one, other) in enumerate(pairwise(parts), 1):
        if not 0 <= other.offset - one.offset - one.bytes <= _GAP:
            return parts[:count]
    return parts


class ShardFile:
    """A shard opened for reading; it is closed when nobody holds it any more.

    Attributes
    ----------
    front : Front
        What its userblock says.

    Raises
    ------
    CacheNotFoundError
        If there is no such file.
    CacheMismatchError
        If it was written by another version, or is no shard.
    CacheDamagedError
        If it is damaged, so far as it is read here.
    CacheError
        If it cannot be opened, which says nothing about what is in it.
    """

    def __init__(self, path: Path) -> None:
        try:
            # Without waiting: a pipe, say, would be waited for.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise cannot_open(path, error) from error
        self._close = partial(os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise no_file(path)
        try:
            block = self.read(Extent(0, min(USERBLOCK, found.st_size))).tobytes()
            version = version_of(block)
            if version is None:
                raise _refused(path)
            if version != FORMAT_VERSION:
                raise CacheMismatchError(
                    f"{path}: format version {version}, but this software "
                    f"reads version {FORMAT_VERSION}; extract again with --replace"
                )
            self.front = Front.unpack(block)
            if self.front.size != found.st_size:
                raise ValueError(f"it has {found.st_size} bytes, not {self.front.size}")
        except CacheError:
            raise
        except UNREADABLE as error:
            raise damaged(path, "its header is damaged", error) from error

    # No function of Python's: Ctrl-C would be lost in one, as all that is raised there is.
    __del__ = property(attrgetter("_close"))

    def read(self, part: Extent) -> Stored:
        """Read a part of the file as it is.

        Raises
        ------
        OSError, ValueError
            If it cannot be read, or the file ends before.
        """
        values = np.empty(part.bytes, np.uint8)
        self._fill(values.data, part.offset)
        return values

    def rows(self, start: int, count: int) -> list[Row]:
        """Read rows of the table, which their digests vouch for and nothing else.

        Raises
        ------
        OSError, ValueError
            If they cannot be read.
        """
        table, size = self.front.table, ROW.itemsize
        if (start + count) * size > table.bytes:
            raise ValueError(f"a table of {table.bytes} bytes")
        return unpack_rows(self.read(Extent(table.offset + start * size, count * size)).tobytes())

    def digested(self, parts: Sequence[Part], beside: Executor) -> list[Stored]:
        """Read parts of the file, in order, and digest them meanwhile.

        Parts that lie beside one another are read together, and views into the same memory.

        Parameters
        ----------
        parts : sequence of Part
        beside : Executor
            With one thread, which digests what has been read of large parts.

        Raises
        ------
        OSError, ValueError
            If they cannot be read.
        """
        found: list[Stored] = []
        running: list[Future[None]] = []
        while len(found) < len(parts):
            run = _beside(parts[len(found) :])
            begin, end = run[0].offset, run[-1].offset + run[-1].bytes
            values = _aligned(begin, end - begin)
            found += [values[p.offset - begin : p.offset - begin + p.bytes] for p in run]
            for at in range(begin, end, _PIECE):
                stop = min(at + _PIECE, end)
                self._fill(values.data[at - begin : stop - begin], at)
                if end - begin < 2 * _PIECE:
                    _digest(run, values.data, begin, at, stop)
                else:
                    running.append(beside.submit(_digest, run, values.data, begin, at, stop))
        for digesting in running:
            digesting.result()
        return found

    def _fill(self, rest: memoryview, offset: int) -> None:
        while rest:
            count = os.preadv(self._descriptor, [rest], offset)
            if not count:
                raise ValueError("it is cut short")
            rest, offset = rest[count:], offset + count


def _aligned(offset: int, count: int) -> Stored:
    """Give memory in which values lie as their type needs it, as they do in the file."""
    memory = np.empty(count + ALIGNED, np.uint8)
    start = (offset - memory.ctypes.data) % ALIGNED
    return memory[start : start + count]


def _digest(run: Sequence[Part], values: memoryview, begin: int, at: int, stop: int) -> None:
    """Digest the bytes of a run, which begins at ``begin``, from ``at`` to ``stop``."""
    for part in run:
        first, last = max(part.offset, at), min(part.offset + part.bytes, stop)
        if first < last:
            part.digest.update(values[first - begin : last - begin])


def _refused(path: Path) -> CacheError:
    """Say what a file is that does not begin as a shard does; HDF5 may have the words."""
    try:
        open_described(path, "shard")[0].close()
    except CacheError as error:
        return error
    return CacheDamagedError(f"{path}: not a shard of this version")


class Handles:
    """A few open shards, opened anew in every process: files survive neither fork nor pickle."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self.beside = ThreadPoolExecutor(1)  # has no thread before something is submitted
        self.files: OrderedDict[Path, ShardFile] = OrderedDict()

    def get(self, path: Path, front: Front) -> ShardFile:
        """Give a shard that was opened before, when its userblock said ``front``.

        Raises
        ------
        CacheMismatchError
            If it says something else: the shard has been written anew.
        CacheError
            As :class:`ShardFile` raises it.
        """
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            file = self.files.pop(path, None)
            if file is None:
                file = ShardFile(path)
            if file.front is not front and file.front != front:
                raise CacheMismatchError(
                    f"{path}: was written anew while it was being read; run this again"
                )
            file.front = front  # the next time, a glance tells that they are equal
            self.files[path] = file
            if len(self.files) > _OPEN_FILES:
                # Not closed but let go: another thread may be reading from it.
                self.files.popitem(last=False)
        return file

    def close(self) -> None:
        """Close those of this process that nobody is reading from."""
        if self._process == os.getpid():
            self.beside.shutdown()
        self._begin()

    def __reduce__(self) -> tuple[type["Handles"], tuple[()]]:
        return Handles, ()
