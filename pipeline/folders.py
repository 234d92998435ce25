"""Folders that outlast a loss of power, and so do the names of the files in them."""

import errno
import os
from pathlib import Path

from pipeline.errors import cannot_write


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there, and those it lies in.

    Raises
    ------
    WriteError
        If that cannot be done.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


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
