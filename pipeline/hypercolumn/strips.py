"""Images in strips of rows, of which every core of a CPU takes another one.

A strip reads maps and pixels of its own and shares nothing with the next one but a few cells at the
border, which both compute. How an image is divided does not depend on the number of threads, so
neither does any sum over its strips.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from typing import TypeVar

import torch

from pipeline.hypercolumn.reads import Rows, Size
from pipeline.threads import in_order, on_one_thread

R = TypeVar("R")
T = TypeVar("T")

_PIXELS = 1 << 14
"""Of a strip, at most, or a single row has more: 4 strips of an image of 224x224."""

_NARROW, _NARROW_PIXELS = 64, 1 << 18
"""With fewer values than that to compute for each pixel, strips are of so many pixels: what takes
time is to begin with one."""


def over_strips(
    work: Callable[[T, Rows], R],
    images: Iterable[tuple[T, Size]],
    device: torch.device,
    *,
    width: int,
    threads: int | None = None,
) -> Generator[R]:
    """Do a piece of work for every strip of images, and give the results in their order.

    Parameters
    ----------
    work
        What is done with an image and rows of it; gradients are not recorded, and autocast is off.
    images : iterable of (image, (H, W))
        Whatever ``work`` takes, and the image's size in pixels. They are taken as they are needed.
    device : torch.device
        Where the work is done. A GPU does all of it at once: there an image is one strip.
    width : int
        Values that are computed for each pixel.
    threads : int, optional
        How many strips are computed at a time on a CPU; by default as many as torch has threads.
    """
    alike = _alike(work, device)
    pieces = ((image, strip) for image, size in images for strip in _divided(size, width, device))
    if device.type != "cpu":
        yield from map(alike, pieces)
        return
    # Who adds up the results computes on one thread too, beside those that still compute.
    with on_one_thread() as there:
        threads = threads or there
        if threads == 1:
            yield from map(alike, pieces)
            return
        with closing(in_order(alike, pieces, threads=threads, alone=True)) as results:
            yield from results


def _divided(size: Size, width: int, device: torch.device) -> Iterator[Rows]:
    pixels = _PIXELS if width >= _NARROW else _NARROW_PIXELS
    count = -(-size[0] // max(1, pixels // size[1])) if device.type == "cpu" else 1
    return pairwise(size[0] * i // count for i in range(count + 1))


def _alike(work: Callable[[T, Rows], R], device: torch.device) -> Callable[[tuple[T, Rows]], R]:
    """Have work done in one way on every thread: torch keeps its modes for each."""
    inference = torch.is_inference_mode_enabled()

    def alike(piece: tuple[T, Rows]) -> R:
        with (
            torch.inference_mode(inference),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            return work(*piece)

    return alike
