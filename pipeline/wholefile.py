"""Files that exist whole or not at all, whenever the power goes.

What is written goes to ``<name>.<random>.partial`` beside its place, is synced to the disk, and
then renamed. The writer holds a lock on its partial file, so that what a dead run left can be told
from what a live one is writing.
"""

import io
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

from pipeline.errors import cannot_write
from pipeline.folders import make_folder, sync_folder
from pipeline.locks import hold

PARTIAL = ".partial"
_RANDOM_BYTES = 4

_SYNCED_AT_ONCE = 1 << 26
"""Bytes."""


class UnbufferedFile(io.FileIO):
    """A file whose every ``write`` writes everything, or raises at once rather than when closed.

    What has been written is synced to the disk in a thread meanwhile, some megabytes at a time:
    waiting for a large file at its end would leave the processor with nothing to do.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self._thread = ThreadPoolExecutor(1)  # starts with the first task; closed in any case
        super().__init__(path, mode)
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer."""
        rest = memoryview(data).cast("B")
        count = rest.nbytes
        while rest:
            rest = rest[super().write(rest) :]
        self._unsynced += count
        if self._unsynced >= _SYNCED_AT_ONCE and (self._syncing is None or self._syncing.done()):
            self._wait()
            self._syncing = self._thread.submit(os.fsync, self.fileno())
            self._unsynced = 0
        return count

    def sync(self) -> None:
        """Have all that was written on the disk.

        Raises
        ------
        OSError
            If that fails, or has failed before: the system tells it only once.
        """
        self._wait()
        os.fsync(self.fileno())

    def close(self) -> None:
        """Close the file when the disk is done with it."""
        self._thread.shutdown()
        super().close()

    def _wait(self) -> None:
        if self._syncing is not None:
            self._syncing.result()


@contextmanager
def written_whole(path: Path, *, tidied: bool = False) -> Iterator[UnbufferedFile]:
    """Open a file for writing that takes its place only when the block has ended well.

    Parameters
    ----------
    path : Path
        Where it shall be. Its folder is made if need be; what dead runs left of it is removed.
    tidied : bool
        Whether that has been removed from the folder already: to look for it, all names there are
        read, which is too much for each of very many files.

    Yields
    ------
    UnbufferedFile
        Open for writing and reading.

    Raises
    ------
    SpaceError
        If the disk is full, or a quota or limit is reached. Nothing is left behind.
    WriteError
        If it cannot be written for another reason.
    """
    make_folder(path.parent)
    try:
        if not tidied:
            remove_leftovers(path)
        partial, file = _open_partial(path)
        with file:
            try:
                yield file
                file.sync()
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        sync_folder(path.parent)
    except OSError as error:
        # Errors that have been put into words have no number; those of other files name them.
        ours = error.filename is None or str(error.filename).startswith(str(path))
        if error.errno is not None and ours:
            raise cannot_write(path, error) from error
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that exists whole or not at all; text is encoded as UTF-8."""
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def leftovers(path: Path) -> list[Path]:
    """List the partial files that dead runs left of a file; ``*`` in its name is a wildcard."""
    found = []
    for partial in _partials(path):
        with _held_if_dead(partial) as dead:
            if dead:
                found.append(partial)
    return found


def remove_leftovers(path: Path) -> None:
    """Remove what :func:`leftovers` lists."""
    for partial in _partials(path):
        with _held_if_dead(partial) as dead:
            if dead:
                partial.unlink(missing_ok=True)


def _partials(path: Path) -> list[Path]:
    pattern = "*".join(escape(part) for part in path.name.split("*"))
    # What somebody else calls notes.partial is theirs: eight hexadecimal digits are ours.
    digits = "[0-9a-f]" * 2 * _RANDOM_BYTES
    return sorted(path.parent.glob(f"{pattern}.{digits}{PARTIAL}"))


def _open_partial(path: Path) -> tuple[Path, UnbufferedFile]:
    while True:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(_RANDOM_BYTES)}{PARTIAL}")
        file = UnbufferedFile(partial, "x+b")
        held = False
        try:
            # Between the two, another process may have taken it for a dead run's.
            held = hold(file.fileno(), partial)
        finally:
            if not held:
                partial.unlink(missing_ok=True)
                file.close()
        if held:
            return partial, file


@contextmanager
def _held_if_dead(partial: Path) -> Iterator[bool]:
    """Tell whether nobody writes a partial file, and see to it that nobody begins to."""
    try:
        file = partial.open("rb+")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        yield False  # finished by now, or none of ours
        return
    with file:
        yield hold(file.fileno(), partial)
