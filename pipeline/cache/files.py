"""Files that exist whole or not at all, and the attributes every HDF5 file of a cache carries."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from pipeline.identity import FORMAT, FORMAT_VERSION, Identity

REMEDY = "delete it and run 'pipeline extract' again"
UNREADABLE = (KeyError, OSError, RuntimeError, ValueError)
"""What h5py raises where a file is damaged, or does not hold what it should."""


@contextmanager
def written_whole(path: Path) -> Iterator[h5py.File]:
    """Open ``path`` for writing under the name ``*.partial``; on success, fsync and rename it."""
    partial = path.with_name(path.name + ".partial")
    # Since format 1.10 HDF5 checks its own structures; damage in older ones crashes the library.
    with h5py.File(partial, "w", track_order=True, libver="v110") as file:
        yield file
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the operating system write a file or folder to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def describe(file: h5py.File, identity: Identity, kind: str, details: dict[str, Any]) -> None:
    """Write a file's root attributes: format, fingerprint and the whole configuration as JSON.

    Parameters
    ----------
    file : h5py.File
        A file open for writing.
    identity : Identity
        What the features were made with.
    kind : str
        ``"shard"``, ``"samples"`` or ``"index"``.
    details : dict
        What else there is to know; kept beside the identity and not part of the fingerprint.
    """
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["kind"] = kind
    file.attrs["fingerprint"] = identity.fingerprint
    file.attrs["config"] = json.dumps({"identity": identity.model_dump(mode="json"), **details})


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
    CacheDamagedError
        If the file is not readable, or its attributes contradict one another.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _damaged(path, "not a readable HDF5 file", error) from error
    try:
        if file.attrs.get("format") != FORMAT or file.attrs.get("kind") != kind:
            raise CacheMismatchError(f"{path}: not a {kind} file of a feature cache")
        if file.attrs["format_version"] != FORMAT_VERSION:
            raise CacheMismatchError(
                f"{path}: format version {file.attrs['format_version']}, but this software "
                f"reads version {FORMAT_VERSION}; extract again"
            )
        details = json.loads(file.attrs["config"])
        identity = Identity.model_validate(details.pop("identity"))
        if file.attrs["fingerprint"] != identity.fingerprint:
            raise CacheDamagedError(f"{path}: the fingerprint does not match; {REMEDY}")
    except CacheError:
        file.close()
        raise
    except UNREADABLE as error:
        file.close()
        raise _damaged(path, "the header is damaged", error) from error
    return file, identity, details


def _damaged(path: Path, what: str, error: Exception) -> CacheDamagedError:
    reason = str(error).partition("\n")[0]
    return CacheDamagedError(f"{path}: {what}; {REMEDY} ({reason})")
