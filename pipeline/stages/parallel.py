"""Worker processes for an extraction, on this machine or on a cluster, through joblib."""

import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import joblib

from pipeline.errors import ParamsError, PeerLostError, PipelineError
from pipeline.locks import Lock
from pipeline.progress import Progress, Silent

_POLL_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes that are to do a work together.

    Attributes
    ----------
    count : int, optional
        How many; by default one per core of this machine, per worker process of a dask cluster, or
        per core of a ray cluster.
    backend : {"loky", "dask", "ray"}
        What runs them: joblib on this machine, or an engine of which there is a cluster.
    address : str, optional
        Of the cluster; a dask scheduler's, such as ``tcp://host:8786``, has to be given.

    Raises
    ------
    ParamsError
        If these do not fit one another, or the engine is not installed.
    """

    count: int | None = None
    backend: Literal["loky", "dask", "ray"] = "loky"
    address: str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.count is not None and self.count < 1:
            raise ParamsError(f"{self.count} workers can do nothing; give --workers 1 or more")
        if self.backend == "loky":
            if self.address is not None:
                raise ParamsError("an address is a cluster's; give --backend dask or ray with it")
            return
        if self.backend not in ("dask", "ray"):
            raise ParamsError(f"no backend '{self.backend}'; use loky, dask or ray")
        if self.backend == "dask" and self.address is None:
            raise ParamsError("which cluster? give --address tcp://host:8786, of dask's scheduler")

    @property
    def is_this_process(self) -> bool:
        """Whether this process does it by itself."""
        return self.backend == "loky" and self.count == 1

    @property
    def threads(self) -> int | None:
        """How many threads each is to compute with; None where that is the cluster's affair."""
        if self.backend != "loky":
            return None
        cores: int = joblib.cpu_count()
        return max(1, cores // (self.count or cores))

    def run(self, task: Callable[[int], T]) -> list[T]:
        """Run a task in every worker, giving it the worker's number, and wait for the results.

        An error in one of them ends the others.

        Raises
        ------
        PeerLostError
            If a worker was killed, or the cluster cannot be reached.
        """
        with _named(self), ExitStack() as stack:
            count = stack.enter_context(_ENGINES[self.backend](self))
            # Each task is for a worker of its own, and all of them are to begin.
            parallel = stack.enter_context(
                joblib.Parallel(n_jobs=count, batch_size=1, pre_dispatch="all")
            )
            parent = None
            if self.backend == "loky":
                parent = os.getpid()
                with _without_interrupts():
                    parallel(joblib.delayed(_begin)() for _ in range(count))
            results: list[T] = parallel(
                joblib.delayed(_do)(task, number, parent) for number in range(count)
            )
            return results


@contextmanager
def _loky(workers: Workers) -> Iterator[int]:
    count = workers.count or joblib.cpu_count()
    with joblib.parallel_config(backend="loky", n_jobs=count, idle_worker_timeout=10):
        yield count


@contextmanager
def _dask(workers: Workers) -> Iterator[int]:
    distributed = _engine("distributed", "dask")
    with distributed.Client(workers.address, set_as_default=False) as client:
        count = workers.count or len(client.scheduler_info(n_workers=-1)["workers"]) or 1
        with joblib.parallel_config(backend="dask", client=client, n_jobs=count):
            yield count


@contextmanager
def _ray(workers: Workers) -> Iterator[int]:
    ray = _engine("ray", "ray")
    engine = _engine("ray.util.joblib", "ray")
    started = not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        ray.init(address=workers.address, **quiet)
    try:
        engine.register_ray()
        count = workers.count or int(ray.cluster_resources().get("CPU", 1))
        with joblib.parallel_config(backend="ray", n_jobs=count):
            yield count
    finally:
        if started:
            ray.shutdown()


_ENGINES = {"loky": _loky, "dask": _dask, "ray": _ray}


def _engine(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ParamsError(
            f"{extra} is not installed; run: pip install 'hypercolumn-pipeline[{extra}]'"
        ) from error


@contextmanager
def _named(workers: Workers) -> Iterator[None]:
    """Raise what a task raised as it is, and say what has become of a worker or a cluster."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        cause = getattr(error, "cause", None)  # where ray keeps what the task has raised
        if isinstance(cause, PipelineError | OSError):
            raise cause from None
        engine = type(error).__module__.partition(".")[0]
        if isinstance(error, BrokenProcessPool) or engine in ("distributed", "ray"):
            raise PeerLostError(
                "a worker was killed, maybe for want of memory; what is finished is kept: run "
                "it again, with fewer --workers"
            ) from error
        if isinstance(error, OSError | TimeoutError) and workers.address is not None:
            raise PeerLostError(
                f"{workers.address}: no {workers.backend} cluster with workers answers there; "
                "start it, or correct --address"
            ) from error
        raise


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach: it is for the one that started them to act."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _do(task: Callable[[int], T], number: int, parent: int | None) -> T:
    """Run a task: what dask is given has to be hashable, which a task need not be."""
    if parent is not None and parent != os.getpid():
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return task(number)


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, which joblib's would not notice."""
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)  # as a crash would: nothing that is finished is lost


def _begin() -> None:
    """Do nothing, in a process that has been started for it."""


class Leash(Silent):
    """The progress of a worker: it shows nothing, and ends the work when nobody waits for it.

    Parameters
    ----------
    path : Path
        A lock that the run which started the worker holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next = 0.0

    def track(self, items: Iterable[T], *, total: int, unit: str, what: str) -> Iterator[T]:
        """Pass ``items`` on.

        Raises
        ------
        PeerLostError
            If the run that started the worker has ended.
        """
        del total, unit, what
        for item in items:
            yield item
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + 2 * _POLL_SECONDS
                self._require_held()

    def _require_held(self) -> None:
        if (lock := Lock.take(self._path)) is not None:
            lock.release()
            raise PeerLostError("the run that started this worker has ended; start it again")


@contextmanager
def shown(
    progress: Progress, count: Callable[[], int], *, total: int, unit: str, what: str
) -> Iterator[None]:
    """Show, while the block lasts, how far others have come.

    Parameters
    ----------
    progress : Progress
        What to report to, from another thread.
    count : callable
        Tells how many of ``total`` are done.
    total, unit, what
        As for :meth:`Progress.track`.
    """
    over, well = threading.Event(), threading.Event()

    def steps() -> Iterator[bool]:
        done = 0
        while done < total:
            last = over.wait(_POLL_SECONDS)
            now = count()
            yield from (True for _ in range(done, now))
            done = now
            if last:
                yield from () if well.is_set() else (False,)
                return

    def show() -> None:
        for going_on in progress.track(steps(), total=total, unit=unit, what=what):
            if not going_on:
                break

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
        well.set()
    finally:
        over.set()
        thread.join()
