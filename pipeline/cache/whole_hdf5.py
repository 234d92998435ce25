"""HDF5 files that are written whole or not at all, also on a disk that runs full."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import h5py

from pipeline.cache.interrupts import uninterrupted
from pipeline.wholefile import UnbufferedFile, written_whole

ALIGNED = 64
"""Where there is a userblock, files are read without HDF5, and all begins at multiples of this."""


@contextmanager
def written_hdf5(
    path: Path, userblock: Callable[[int], bytes] | None = None, *, tidied: bool = False
) -> Iterator[h5py.File]:
    """Open an HDF5 file for writing that takes its place only when the block has ended well.

    What is done to it in the block is to be done :func:`uninterrupted`.

    Parameters
    ----------
    path : Path
        Where it shall be.
    userblock : callable, optional
        Gives the 512 bytes that the file begins with, before what is HDF5's; it is called with
        the number of bytes of the whole file when all the rest is written.
    tidied : bool
        As :func:`~pipeline.wholefile.written_whole` takes it.

    Raises
    ------
    SpaceError
        If the disk is full.
    """
    with written_whole(path, tidied=tidied) as file:
        storage = _Storage(file)
        hdf5: h5py.File | None = None
        # All in one: were there a second generator, Ctrl-C could close the file before HDF5's.
        try:
            with uninterrupted():
                hdf5 = _new_hdf5(storage, 512 if userblock else 0)
            yield hdf5
            with uninterrupted():
                hdf5.close()
            if userblock is not None:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                file.write(userblock(size))
        finally:
            if hdf5 is not None:
                with uninterrupted():
                    hdf5.close()
            if storage.error is not None:
                raise storage.error


def _new_hdf5(storage: "_Storage", userblock_size: int) -> h5py.File:
    # Since format 1.10 HDF5 checks its own structures; in older ones damage crashes it.
    return h5py.File(
        storage,
        "w",
        track_order=True,
        libver="v110",
        userblock_size=userblock_size,
        alignment_threshold=1,
        alignment_interval=ALIGNED if userblock_size else 1,
    )


def chunk_offset(dataset: h5py.h5d.DatasetID) -> int:
    """Give the place in a file with a userblock of the only chunk of a dataset."""
    return int(dataset.get_chunk_info(0).byte_offset) + _left_out()


@cache
def _left_out() -> int:
    """Find out what is to be added: earlier versions of HDF5 leave out the userblock."""
    memory, mark = io.BytesIO(), b"where is it"
    with h5py.File(memory, "w", userblock_size=512) as file:
        layout = {"chunks": (len(mark),), "compression": 1}
        dataset = file.create_dataset("x", (len(mark),), "u1", **layout).id
        dataset.write_direct_chunk((0,), mark)
        offset: int = dataset.get_chunk_info(0).byte_offset
    return memory.getvalue().index(mark) - offset


class _Storage(io.RawIOBase):
    """Where HDF5 writes to. It never hears of a full disk, which it cannot cope with."""

    def __init__(self, file: UnbufferedFile) -> None:
        self._file = file
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return self._file.truncate(size)
            except OSError as error:
                self.error = error
        return size or 0
