"""Locks between processes, on one machine or on a shared file system.

A lock is a file of its own with an advisory lock of the operating system (``flock``) on it. It ends
with the process that holds it, however that ends, so a file without a lock on it is a dead run's.
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from pipeline.errors import BusyError, cannot_write
from pipeline.folders import make_folder

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def hold(descriptor: int, path: Path, *, shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file.

    Parameters
    ----------
    descriptor : int
        Of the open file.
    path : Path
        Its path. If it does not lead to this file any more, because another process removed it,
        the lock is worth nothing and False is returned.
    shared : bool
        Whether others may hold it too, if they share as well.
    wait : bool
        Whether to wait for others to let go.

    Returns
    -------
    bool
        Whether the lock is held now.

    Raises
    ------
    BusyError
        If the file system knows no locks.
    """
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, operation if wait else operation | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two depends on the file system
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise BusyError(
                f"{path}: this file system has no file locks (flock), without which two runs "
                "could hurt one another; write to another one"
            ) from error
        raise cannot_write(path, error) from error
    return _is_at(descriptor, path)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        held = os.fstat(descriptor)
        # Elsewhere on a network, the name may lead to a removed file for a while.
        return held.st_nlink > 0 and os.path.samestat(held, path.lstat())
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise


class Lock:
    """A lock that is held; it is let go at the end of a ``with`` block, and its file removed.

    Attributes
    ----------
    path : Path
        The lock's file.
    held : bool
        Whether it is held still.
    """

    def __init__(self, path: Path, descriptor: int, *, shared: bool) -> None:
        self.path = path
        self.held = True
        self._descriptor = descriptor
        self._shared = shared

    @classmethod
    def take(cls, path: Path) -> "Lock | None":
        """Take a lock for oneself, or give None if another process holds it.

        Raises
        ------
        BusyError
            If the file system knows no locks.
        WriteError
            If its file cannot be made.
        """
        while True:
            descriptor = _open(path)
            with _closed_on_error(descriptor):
                if hold(descriptor, path):
                    return cls(path, descriptor, shared=False)
                taken = _is_at(descriptor, path)
            os.close(descriptor)
            if taken:
                return None

    @classmethod
    def join(cls, path: Path) -> "Lock":
        """Share a lock with others, waiting for one who has it alone.

        Raises
        ------
        BusyError
            If the file system knows no locks.
        WriteError
            If its file cannot be made.
        """
        while True:
            descriptor = _open(path)
            with _closed_on_error(descriptor):
                if hold(descriptor, path, shared=True, wait=True):
                    return cls(path, descriptor, shared=True)
            os.close(descriptor)

    @property
    def note(self) -> str:
        """What its holders wrote for those who come after."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return os.read(self._descriptor, 65536).decode(errors="replace")

    def write_note(self, text: str, *, anew: bool = False) -> None:
        """Add to the note, or write another one.

        Raises
        ------
        WriteError
            If it cannot be written.
        """
        try:
            if anew:
                os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, text.encode())
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def share(self) -> None:
        """Let others in who share.

        Another process may have had it alone in between, and removed its file: see ``held``.
        """
        self._shared = True
        self.held = hold(self._descriptor, self.path, shared=True, wait=True)

    def alone(self) -> bool:
        """Try to have the lock to oneself; if others share it, nothing is held any more."""
        if self.held and self._shared:
            self._shared = False
            self.held = hold(self._descriptor, self.path)
            if not self.held:
                # Some systems keep the shared lock when they refuse the other. Then of two
                # processes that try at the same time, neither would be the last.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                self.held = hold(self._descriptor, self.path)
        return self.held

    def release(self) -> None:
        """Let go, and remove the file if nobody else holds the lock."""
        try:
            if self.alone():
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Keep other runs from working on the same file; the lock lies beside it.

    Raises
    ------
    BusyError
        If one does.
    WriteError
        If nothing can be written there.
    """
    make_folder(path.parent)
    lock = Lock.take(path.with_name(f"{path.name}.lock"))
    if lock is None:
        raise BusyError(f"{path}: another run is writing it; wait until it is done")
    with lock:
        yield


def _open(path: Path) -> int:
    # Not through a link: in a cache from elsewhere it may lead to any file of the user's.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def signature() -> str:
    """Say who this process is: ``process 123 on host``."""
    return f"process {os.getpid()} on {socket.gethostname()}"
