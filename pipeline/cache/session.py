"""Several processes that extract into one cache: they divide the shards among them.

Everyone who writes into a cache shares a lock on ``<cache>/.lock`` as long as it works, and one on
``<cache>/.<split>.lock`` for every split it extracts. The first one has it alone while it makes
way, and notes what is being done; others join if they are to do exactly the same. So several
processes extract one split together, and others another split beside them. Each shard is written
under a lock of its own.
"""

import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.errors import BusyError
from pipeline.folders import make_folder
from pipeline.locks import Lock, signature

_POLL_SECONDS = 0.1
_LOCK = ".lock"

T = TypeVar("T")


@contextmanager
def joint_session(
    directory: Path,
    key: str,
    *,
    split: str | None = None,
    begin: Callable[[], None],
    end: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Work on a cache, alone or together with other processes that have the same to do.

    Parameters
    ----------
    directory : Path
        The cache; it is made if need be.
    key : str
        What is to be done. Only processes with the same key work at the same time.
    split : str, optional
        The session is about this split only; by default, about all of the cache.
    begin : callable
        Called by the first process, while it is alone.
    end : callable, optional
        Called by the last process, if all has gone well with it, while it is alone.

    Raises
    ------
    BusyError
        If another process works there with another key.
    WriteError
        If nothing can be written there.
    """
    make_folder(directory)
    what = "with other settings"
    if split is not None:
        what = f"other images or samples of split '{split}', or divided otherwise"
    with _joined(
        directory / (_LOCK if split is None else f".{split}{_LOCK}"), key, what, begin
    ) as lock:
        yield
        if end is not None and lock.alone():
            end()


def _joined(path: Path, key: str, what: str, begin: Callable[[], None]) -> Lock:
    while True:
        lock = Lock.take(path)
        try:
            if lock is None:
                lock = Lock.join(path)
            else:
                lock.write_note("", anew=True)
                begin()
                lock.write_note(f"{key}\n")
                lock.share()
            found, _, others = lock.note.partition("\n")
            if lock.held and found == key:
                lock.write_note(f"{signature()}\n")
                return lock
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        lock.release()
        if found not in ("", key):
            raise BusyError(
                f"{path.parent}: {_named(others)} extracting {what}; "
                "wait until that is finished, or give another --out"
            )
        time.sleep(random.uniform(0, _POLL_SECONDS))  # the first one failed: somebody else is it


def _named(signatures: str) -> str:
    first, *others = signatures.splitlines() or ["another process"]
    return f"{first} and {len(others)} more are" if others else f"{first} is"


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keep all others from writing into a cache.

    Raises
    ------
    BusyError
        If somebody is.
    """
    lock = Lock.take(directory / _LOCK)
    if lock is None:
        raise BusyError(f"{directory}: an extraction is writing into it; wait until it is done")
    with lock:
        lock.write_note("", anew=True)
        remove_dead_locks(directory)
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Wait until no other process is writing a file, and let the others wait."""
    while (lock := Lock.take(_claim(path))) is None:
        time.sleep(_POLL_SECONDS)
    with lock:
        yield


def in_turn(
    items: Iterable[T],
    *,
    path: Callable[[T], Path],
    done: Callable[[T], bool],
    on_wait: Callable[[int], None],
) -> Generator[T]:
    """Give the items that are not done, each while no other process has it, until all are done.

    Close it after use: as long as somebody keeps it, even in a traceback, it keeps the lock.

    Parameters
    ----------
    items : iterable
        What several processes are to do together.
    path : callable
        The file that comes of an item; the lock lies beside it.
    done : callable
        Tell whether an item is done, by whomever.
    on_wait : callable
        Called once with the number of items left when others are doing all of them.
    """
    left = list(items)
    waited = False
    while left:
        busy = []
        for item in left:
            if done(item):
                continue
            lock = Lock.take(_claim(path(item)))
            if lock is None:
                busy.append(item)
                continue
            with lock:
                if not done(item):  # somebody may have finished it just now
                    yield item
        if len(busy) == len(left):
            if not waited:
                on_wait(len(busy))
                waited = True
            time.sleep(_POLL_SECONDS)
        left = busy


def remove_dead_locks(directory: Path) -> None:
    """Remove the lock files that no process holds."""
    for pattern in (f"*.h5{_LOCK}", f"*.json{_LOCK}", f".?*{_LOCK}"):
        for path in directory.glob(pattern):
            if (lock := Lock.take(path)) is not None:
                lock.release()


def _claim(path: Path) -> Path:
    return path.with_name(path.name + _LOCK)
