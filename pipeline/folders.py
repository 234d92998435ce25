"""Folders that outlast a loss of power, and so do the names of the files in them."""

import errno
import os
from pathlib import Path

from pipeline.errors import WriteError, cannot_write


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there, and those it lies in.

    Raises
    ------
    WriteError
        If that cannot be done.
    """
    _require_no_file(path)
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def _require_no_file(path: Path) -> None:
    """Raise WriteError if a file, or a link to nowhere, is where a folder would have to be."""
    # Not by next() on a generator: Ctrl-C would be lost in one that is thrown away half-way.
    for found in (path, *path.parents):
        try:
            there, sound, folder = os.path.lexists(found), found.exists(), found.is_dir()
        except PermissionError:
            return  # making the folder will tell
        if there and not sound:
            raise WriteError(
                f"{found}: is a link that leads nowhere; give another path, or remove it"
            )
        if there and not folder:
            raise WriteError(f"{found}: is no folder; give another path, or remove it")
        if there:
            return  # what it lies in is a folder, or it could not be there


def sync_folder(folder: Path) -> None:
    """Have the operating system write a folder's entries to the disk now, where it can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write into it, but not list it
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no such thing
            raise
    finally:
        os.close(descriptor)
