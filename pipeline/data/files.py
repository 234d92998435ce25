"""What stands where a file should be, looked at before anything of it is read."""

import os
import stat
from pathlib import Path

from pipeline.errors import DataError

MAX_BYTES = 1_000_000_000
"""Largest file that is opened: a WebP, for one, is read as a whole before its size is known."""

MAX_TEXT_BYTES = 64 * 2**20
"""Largest list of images or classes that is read."""


def require_file(path: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Raise DataError unless there is a regular file that can be read.

    Anything else could hold up a run for ever, as a pipe does, or fill the memory, as a device
    does.

    Parameters
    ----------
    path
        Where the file should be.
    max_bytes
        The largest file that makes sense there.

    Raises
    ------
    DataError
        If it is missing, larger, a folder, a pipe or a device, a link that leads nowhere, or its
        rights forbid to read it.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(
                f"{path} is a link that leads nowhere: restore the file it leads to"
            ) from None
        raise DataError(f"{path} does not exist: restore the file, or name another") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be reached ({_reason(error)}): check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise DataError(f"{path} is a folder: put a file in its place")
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is a pipe, a socket or a device: put a file in its place")
    if status.st_size > max_bytes:
        raise DataError(
            f"{path} is larger than the {max_bytes / 1e6:.0f} MB that such a file may have:"
            " make it smaller"
        )
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read: change its rights, as with chmod u+r")


def list_folder(folder: Path) -> list[Path]:
    """List what is in a folder, sorted by name.

    Raises
    ------
    DataError
        If there is no such folder, or its rights forbid to list it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name an existing one")
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({_reason(error)}): change its rights, as with chmod u+rx"
        ) from error


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8, with or without a byte order mark.

    Lines end as editors end them, with LF, CRLF or CR. The other signs that Unicode counts as line
    ends stay where they are.

    Raises
    ------
    DataError
        If there is no such file, it is larger than `MAX_TEXT_BYTES`, or not UTF-8.
    """
    require_file(path, max_bytes=MAX_TEXT_BYTES)
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read as UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): restore the file") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())
