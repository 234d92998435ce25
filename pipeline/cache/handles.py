"""Open shards, read by their descriptors: HDF5 is not asked where an array lies, the table says it.

A hundred thousand small images lie in many shards, and a cache of large ones is read in any order:
a few files are open at a time.
"""

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from functools import partial
from itertools import accumulate
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
_PIECE = 1 << 21
"""Bytes that are read before they are digested. The fewer, the more often two threads wait for the
interpreter."""
_WORTH_TWO_THREADS = 1 << 23
"""Bytes of which half takes longer than waking another thread does."""
_HEAD_START = 1 << 20
"""Bytes that are read and digested before another thread has woken up."""

Stored: TypeAlias = NDArray[np.uint8]


class Part(NamedTuple):
    """A part of a file that is to be read, and a digest that it is to be added to."""

    offset: int
    bytes: int
    digest: xxhash.xxh3_128


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

        If there is much to read, another thread takes about half of them. A part is not divided.

        Parameters
        ----------
        parts : sequence of Part
        beside : Executor
            With one thread.

        Raises
        ------
        OSError, ValueError
            If they cannot be read.
        """
        found = [_aligned(part.offset, part.bytes) for part in parts]
        work = list(zip(parts, found, strict=True))
        cut = _middle([part.bytes for part in parts])
        other = beside.submit(self._read_digested, work[cut:]) if cut < len(work) else None
        stolen = False
        try:
            self._read_digested(work[:cut])
        finally:
            if other is not None:
                stolen = other.cancel()
                if not stolen:
                    wait([other])
        if stolen:  # it had not woken up yet, or was busy with another image's
            self._read_digested(work[cut:])
        elif other is not None:
            other.result()
        return found

    def _read_digested(self, work: Sequence[tuple[Part, Stored]]) -> None:
        """Read parts and digest them, in pieces that are in the processor's own memory then."""
        for part, values in work:
            for at in range(0, part.bytes, _PIECE):
                piece = values.data[at : at + _PIECE]
                self._fill(piece, part.offset + at)
                part.digest.update(piece)

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


def _middle(sizes: Sequence[int]) -> int:
    """Give how many of the first parts are for the calling thread, when another does the rest."""
    total = sum(sizes)
    if total < _WORTH_TWO_THREADS:
        return len(sizes)
    before = list(accumulate(sizes, initial=0))
    return min(range(len(before)), key=lambda count: abs(2 * before[count] - total - _HEAD_START))


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
