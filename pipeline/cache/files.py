"""HDF5 files of a cache: written whole or not at all, and saying what they are.

All text is stored with fixed length, in object headers that HDF5 protects by checksums. It keeps
text of variable length in a heap without any, where a flipped bit can make the library hang.
"""

import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from pipeline.cache.interrupts import uninterrupted
from pipeline.errors import (
    CacheDamagedError,
    CacheError,
    CacheMismatchError,
    CacheNotFoundError,
)
from pipeline.identity import FORMAT, FORMAT_VERSION, Identity
from pipeline.wholefile import UnbufferedFile, written_whole

REMEDY = "run 'pipeline cache repair'"
UNREADABLE = (KeyError, OSError, RuntimeError, ValueError, TypeError, RecursionError)
"""What h5py and json raise where a file is damaged, or does not hold what it should."""

_LONGEST_TEXT = 1 << 25
_KINDS = ("shard", "samples", "index")

ALIGNED = 64
"""Where there is a userblock, files are read without HDF5, and all begins at multiples of this."""


@contextmanager
def written_hdf5(
    path: Path, userblock: Callable[[int], bytes] | None = None
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

    Raises
    ------
    SpaceError
        If the disk is full.
    """
    with written_whole(path) as file:
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


def set_text(attributes: h5py.AttributeManager, name: str, text: str) -> None:
    """Set an attribute to text, stored with fixed length."""
    attributes[name] = np.bytes_(text.encode())


def get_text(attributes: h5py.AttributeManager, name: str) -> str:
    """Get an attribute that :func:`set_text` set."""
    attribute = _open_attribute(attributes, name)
    kind = attribute.get_type()
    # Text of variable length lies in a heap that must not be looked at before this is known.
    if not isinstance(kind, h5py.h5t.TypeStringID) or kind.is_variable_str():
        raise ValueError(f"attribute {name} is not text of fixed length")
    if attribute.shape != () or kind.get_size() > _LONGEST_TEXT:
        raise ValueError(f"attribute {name} is not one text")
    value = np.zeros((), f"S{kind.get_size()}")
    attribute.read(value, kind)
    return bytes(value[()]).decode()


def get_number(attributes: h5py.AttributeManager, name: str) -> int:
    """Get an attribute that is a whole number."""
    attribute = _open_attribute(attributes, name)
    if attribute.shape != () or attribute.dtype.kind not in "iu":
        raise ValueError(f"attribute {name} is not a number")
    value = np.zeros((), attribute.dtype)
    attribute.read(value)
    return int(value)


def _open_attribute(attributes: h5py.AttributeManager, name: str) -> h5py.h5a.AttrID:
    """Open an attribute the short way: a cache may have thousands of files."""
    return h5py.h5a.open(attributes._id, name.encode())


@uninterrupted()
def describe(file: h5py.File, identity: Identity, kind: str, details: dict[str, Any]) -> None:
    """Write a file's root attributes: format, fingerprint, the configuration as JSON, its digest.

    Parameters
    ----------
    file : h5py.File
        A file open for writing.
    identity : Identity
        What the features were made with.
    kind : str
        ``"samples"`` or ``"index"``; shards say the same in another way.
    details : dict
        What else there is to know; kept beside the identity and not part of the fingerprint.
    """
    config = json.dumps({"identity": identity.model_dump(mode="json"), **details})
    set_text(file.attrs, "format", FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    set_text(file.attrs, "kind", kind)
    set_text(file.attrs, "fingerprint", identity.fingerprint)
    set_text(file.attrs, "config", config)
    set_text(file.attrs, "xxh3", config_digest(kind, config))


def open_described(path: Path, kind: str) -> tuple[h5py.File, Identity, dict[str, Any]]:
    """Open a file for reading and check what it says about itself.

    Returns
    -------
    file : h5py.File
    identity : Identity
    details : dict
        As :func:`describe` was given them.

    Raises
    ------
    CacheMismatchError
        If the file was written by another version, or is of another kind.
    CacheNotFoundError
        If there is no such file.
    CacheDamagedError
        If the file is not readable, or its attributes contradict one another.
    CacheError
        If it cannot be opened, which says nothing about what is in it.
    """
    file = open_readable(path)
    try:
        identity, details = _described(file, path, kind)
    except CacheError:
        file.close()
        raise
    except UNREADABLE as error:
        file.close()
        raise damaged(path, "its header is damaged", error) from error
    return file, identity, details


def open_readable(path: Path) -> h5py.File:
    """Open a file for reading that has yet to be checked; raises as :func:`open_described`."""
    if path.exists() and not path.is_file():  # a pipe, say, would be waited for
        raise no_file(path)
    try:
        # Files are never changed once they are in place: no lock is needed, and none is possible
        # where the cache is read-only.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise cannot_open(path, error) from error


def no_file(path: Path) -> CacheDamagedError:
    """Say that there is something else in the place of a file."""
    return CacheDamagedError(f"{path}: is not a file; remove it, and run 'pipeline extract'")


def cannot_open(path: Path, error: OSError) -> CacheError:
    """Say why a file could not be opened: it is missing, damaged, or nobody knows."""
    if isinstance(error, FileNotFoundError):
        return CacheNotFoundError(
            f"{path}: no such file; if an extraction is going on, wait until it is done, "
            "or else run 'pipeline extract' again"
        )
    if error.errno not in (None, errno.EIO):
        return CacheError(
            f"{path}: cannot be opened ({os.strerror(error.errno)}); see to its rights and disk"
        )
    return damaged(path, "not a readable HDF5 file", error)


def _described(file: h5py.File, path: Path, kind: str) -> tuple[Identity, dict[str, Any]]:
    attributes = file.attrs
    if not all(h5py.h5a.exists(file.id, name) for name in (b"format", b"format_version")):
        raise CacheMismatchError(f"{path}: not a {kind} file of a feature cache")
    version = get_number(attributes, "format_version")
    # Before the text, which has variable length in version 1.
    if version != FORMAT_VERSION:
        raise CacheMismatchError(
            f"{path}: format version {version}, but this software "
            f"reads version {FORMAT_VERSION}; extract again with --replace"
        )
    if get_text(attributes, "format") != FORMAT:
        raise CacheMismatchError(f"{path}: not a {kind} file of a feature cache")
    if (found := get_text(attributes, "kind")) not in _KINDS:
        raise ValueError("it is of no kind")
    if found != kind:
        raise CacheMismatchError(f"{path}: a {found} file of a feature cache, not a {kind}")
    config = get_text(attributes, "config")
    if get_text(attributes, "xxh3") != config_digest(kind, config):
        raise ValueError("it does not match its digest")
    details = json.loads(config)
    if not isinstance(details, dict):
        raise ValueError("it is not a mapping")
    identity, fingerprint = _identity(json.dumps(details.pop("identity")))
    if get_text(attributes, "fingerprint") != fingerprint:
        raise ValueError("the fingerprint is not that of the configuration")
    return identity, details


@lru_cache(maxsize=8)
def _identity(text: str) -> tuple[Identity, str]:
    """Check an identity, and hash it, once for all files that have the same."""
    identity = Identity.model_validate_json(text)
    return identity, identity.fingerprint


def config_digest(kind: str, config: str) -> str:
    """Give the digest of what a file says about itself."""
    return xxhash.xxh3_128_hexdigest(f"{kind} {config}".encode())


def damaged(path: Path, what: str, error: Exception) -> CacheDamagedError:
    """Say what is wrong with a file, and what was raised where that was found."""
    reason = str(error).partition("\n")[0]
    return CacheDamagedError(f"{path}: {what}; {REMEDY} ({reason})")
