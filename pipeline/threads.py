"""Work on one image or part of it after another in several threads, which no result depends on."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

MOST_AT_ONCE = 16
"""Images in work at a time on the CPU, however many cores there are: each takes memory."""


def in_order(
    work: Callable[[T], R], items: Iterable[T], *, threads: int, alone: bool = False
) -> Generator[R]:
    """Do a piece of work for every item in threads, and give the results in the items' order.

    Parameters
    ----------
    work
        What is done with an item.
    items
        They are taken as they are needed: twice as many as there are threads are in work or wait
        for their turn, so that nobody waits for a slow neighbour, and memory is bounded.
    threads
        How many items are in work at a time.
    alone
        Whether torch computes each on one thread. Convolutions add up in an order that torch
        chooses by the number of images in the batch and by the number of threads; an image that
        goes through a backbone by itself and on one thread has the same bits for every number of
        ``threads``, on one kind of CPU. With one image per core it takes no longer.

    Raises
    ------
    Exception
        What ``work`` raises; items that are waiting are not begun then.
    """
    torch_threads = torch.get_num_threads()
    waiting = iter(items)
    pool = ThreadPoolExecutor(threads, initializer=_compute_on_one_thread if alone else None)
    try:
        running: deque[Future[R]] = deque(
            pool.submit(work, item) for item in islice(waiting, 2 * threads)
        )
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(work, item) for item in islice(waiting, 1))
            yield result
            del result  # or it would be kept in memory while the next one is waited for
    finally:
        pool.shutdown(cancel_futures=True)
        if alone:
            # What the pool's threads set for themselves is also what later threads start with.
            torch.set_num_threads(torch_threads)


@contextmanager
def on_one_thread() -> Iterator[int]:
    """Have torch compute on the calling thread alone; give the number of threads it had before.

    Where others compute beside it, threads of its own would wait for a core, and those that have
    nothing to do keep one busy, for some 4 ms after the last operation. In a process that was
    forked they are not there, and would be waited for forever.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _compute_on_one_thread() -> None:
    """Have the calling thread compute alone; torch keeps the number for each thread."""
    torch.get_num_threads()  # sets it when first called, which would undo what is set before
    torch.set_num_threads(1)
