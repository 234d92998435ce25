"""An image in strips of rows, of which every core of a CPU takes another one.

A strip reads maps and pixels of its own and shares nothing with the next one but a few cells at the
border, which both compute. How an image is divided does not depend on the number of threads, so
neither does any sum over its strips.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from itertools import pairwise
from typing import TypeVar

import torch

from pipeline.hypercolumn.reads import Rows, Size
from pipeline.threads import in_order, on_one_thread

R = TypeVar("R")

_PIXELS = 1 << 14
"""Of a strip, at most, or a single row has more: 4 strips of an image of 224x224."""


def over_strips(
    work: Callable[[Rows], R], size: Size, device: torch.device, *, whole: bool = False
) -> Generator[R]:
    """Do a piece of work for every strip of an image, and give the results from top to bottom.

    Parameters
    ----------
    work
        What is done with a strip; gradients are not recorded, and autocast is off.
    size : (H, W)
        The image's size in pixels.
    device : torch.device
        Where the work is done. A GPU does all of it at once: there the image is one strip.
    whole : bool
        Whether it is one strip here too, as there is not much to do.
    """
    alike = _alike(work, device)
    if whole or device.type != "cpu":
        yield alike((0, size[0]))
        return
    count = -(-size[0] // max(1, _PIXELS // size[1]))
    bounds = [size[0] * i // count for i in range(count + 1)]
    strips = pairwise(bounds)
    threads = min(torch.get_num_threads(), count)
    # Who adds up the results computes on one thread too, beside those that still compute.
    with on_one_thread():
        if threads == 1:
            yield from map(alike, strips)
            return
        with closing(in_order(alike, strips, threads=threads, alone=True)) as results:
            yield from results


def _alike(work: Callable[[Rows], R], device: torch.device) -> Callable[[Rows], R]:
    """Have work done in one way on every thread: torch keeps its modes for each."""
    inference = torch.is_inference_mode_enabled()

    def alike(strip: Rows) -> R:
        with (
            torch.inference_mode(inference),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            return work(strip)

    return alike
