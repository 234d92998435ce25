"""HDF5 files of a cache that say what they are, and opening them.

All text is stored with fixed length, in object headers that HDF5 protects by checksums. It keeps
text of variable length in a heap without any, where a flipped bit can make the library hang.
"""

import errno
import json
import os
from functools import lru_cache
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

REMEDY = "run 'pipeline cache repair'"
UNREADABLE = (KeyError, OSError, RuntimeError, ValueError, TypeError, RecursionError)
"""What h5py and json raise where a file is damaged, or does not hold what it should."""

_LONGEST_TEXT = 1 << 25
_KINDS = ("shard", "samples", "index")


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
