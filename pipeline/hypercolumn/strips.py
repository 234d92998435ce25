"""An image in strips of rows, of which every core of a CPU takes another one.

A strip reads maps and pixels of its own and shares nothing with the next one but a few cells at the
border, which both compute. How an image is divided does not depend on the number of threads, so
neither does any sum over its strips.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import torch

from pipeline.hypercolumn.reads import Rows, Size
from pipeline.threads import in_order, on_one_thread

R = TypeVar("R")

_PIXELS = 1 << 14
"""Of a strip, at most, or a single row has more: 4 strips of an image of 224x224."""


def over_strips(work: Callable[[Rows], R], size: Size, device: torch.device) -> Iterator[R]:
    """Do a piece of work for every strip of an image, and give the results from top to bottom.

    Parameters
    ----------
    work
        What is done with a strip; gradients are not recorded.
    size : (H, W)
        The image's size in pixels.
    device : torch.device
        Where the work is done. A GPU does all of it at once: there the image is one strip.
    """
    if device.type != "cpu":
        yield _without_gradients(work)((0, size[0]))
        return
    count = -(-size[0] // max(1, _PIXELS // size[1]))
    bounds = [size[0] * i // count for i in range(count + 1)]
    strips = pairwise(bounds)
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        yield from map(_without_gradients(work), strips)
    else:
        with on_one_thread():  # and who adds up the results, beside those that still compute
            yield from in_order(_without_gradients(work), strips, threads=threads, alone=True)


def _without_gradients(work: Callable[[Rows], R]) -> Callable[[Rows], R]:
    def alone(strip: Rows) -> R:
        with torch.no_grad():  # which is said for each thread
            return work(strip)

    return alone
