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
    generator = np.random.default_rng([drawing.seed, xxhash.xxh3_64_intdigest(image_id.encode())])
    flat = label.ravel()
    # Of neighbours with one label, of runs, there are far fewer than pixels.
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values, lengths = flat[starts], np.diff(starts, append=flat.size)
    if drawing.pixels_per_image is None:
        present = np.flatnonzero(np.bincount(values, minlength=256))
        among = [values == value for value in present[present != void]]
        most = drawing.pixels_per_class
    else:
        among, most = [values != void], drawing.pixels_per_image
    chosen = [_chosen(generator, starts[some], lengths[some], most) for some in among]
    ys, xs = np.divmod(np.concatenate([np.empty(0, np.int64), *chosen]), label.shape[1])
    return ys, xs


def _chosen(
    generator: np.random.Generator,
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    most: int,
) -> NDArray[np.int64]:
    """Choose pixels (n,) among those of runs, in rising order."""
    ends, count = lengths.cumsum(), int(lengths.sum())
    numbers = generator.choice(count, min(most, count), replace=False)
    run = ends.searchsorted(numbers, side="right")
    return np.sort((starts - ends + lengths)[run] + numbers)
