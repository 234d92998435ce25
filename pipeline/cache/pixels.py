"""Pixel samples: which pixels of an image, and what is kept of them."""

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.hypercolumn import Features


class Drawing(BaseModel):
    """How samples are drawn: everything that decides which pixels and which channels.

    Attributes
    ----------
    features : Features
        What their hypercolumns are made of.
    pixels_per_class : int
        Of each class that is in an image.
    pixels_per_image : int or None
        If given, so many of all pixels of an image alike in place of that: classes are then as
        frequent among the samples as they are in images.
    void_as_background : bool
        Whether void pixels are samples of class 0, or none.
    seed : int
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Features = Features()
    pixels_per_class: int = Field(default=3, ge=1)
    pixels_per_image: int | None = Field(default=None, ge=1)
    void_as_background: bool = False
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Samples:
    """Pixel samples of one split; shapes and dtypes as in :mod:`pipeline.cache.samples`."""

    features: NDArray[np.float32]
    label: NDArray[np.uint8]
    image: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    image_ids: tuple[str, ...]
    drawing: Drawing

    def __len__(self) -> int:
        return len(self.label)


_MANY, _PART = 10_000, 50
"""NumPy's ``choice`` shuffles more than so many, if more than this part of them are wanted."""


def draw_pixels(
    label: NDArray[np.uint8], image_id: str, drawing: Drawing, *, void: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose pixels of an image, without replacement.

    The choice depends on the label, the image's id and the drawing alone, so neither the order of
    the images nor who draws them matters.

    Parameters
    ----------
    label : array of uint8, shape (H, W)
    image_id : str
    drawing : Drawing
    void : int
        The label of pixels that are not chosen.

    Returns
    -------
    ys, xs : array of int64, shape (n,)
        As many as ``drawing`` says, of each class or of all; fewer where there are fewer.
    """
    from pipeline.cache.pixel_loops import count, locate

    if drawing.pixels_per_image is None:
        groups, most = np.arange(256), drawing.pixels_per_class
    else:
        groups, most = np.zeros(256, np.int64), drawing.pixels_per_image
    groups[void] = -1
    flat = label.reshape(-1)
    starts, counts = np.empty(flat.size + 1, np.int64), np.zeros(256, np.int64)
    runs = count(flat, groups, starts, counts)
    wanted = np.minimum(counts, most)
    generator = np.random.default_rng([drawing.seed, xxhash.xxh3_64_intdigest(image_id.encode())])
    numbers = _numbers(generator, counts, wanted)
    locate(flat, groups, starts[: runs + 1], wanted, numbers)
    ys, xs = np.divmod(numbers, label.shape[1])
    return ys, xs


def _numbers(
    generator: np.random.Generator, counts: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Give distinct numbers below each count, as NumPy's ``choice`` does, one group after another.

    Its calls, one for each group, take five times as long as drawing the numbers that it would draw
    in one call, where it does not shuffle all there are.
    """
    from pipeline.cache.pixel_loops import distinct, limits

    groups = np.flatnonzero(wanted)
    counts, wanted = counts[groups], wanted[groups]
    if not len(groups) or ((counts > _MANY) & (wanted > counts // _PART)).any():
        pairs = zip(counts, wanted, strict=True)
        chosen = (generator.choice(n, k, replace=False) for n, k in pairs)
        return np.concatenate([np.empty(0, np.int64), *chosen])
    largest = np.empty(2 * wanted.sum() - len(groups), np.int64)
    limits(counts, wanted, largest)
    drawn = generator.integers(0, largest, endpoint=True)
    numbers = np.empty(wanted.sum(), np.int64)
    distinct(counts, wanted, drawn, numbers)
    return numbers
