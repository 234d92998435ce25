"""Pixel samples: which pixels of an image, and what is kept of them."""

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.hypercolumn import Features


class Drawing(BaseModel):
    """How samples are drawn: everything that decides which pixels and which channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Features = Features()
    pixels_per_class: int = Field(default=3, ge=1)
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
    label: NDArray[np.uint8], image_id: str, *, void: int, pixels_per_class: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose pixels of each class present in an image, without replacement.

    The choice depends on the label, the image's id and the seed alone, so neither the order of
    the images nor who draws them matters.

    Returns
    -------
    ys, xs : array of int64
        ``pixels_per_class`` pixels of each class, fewer where a class has fewer.
    """
    generator = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(image_id.encode())])
    chosen = []
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    for value in present[present != void]:
        pixels = np.flatnonzero(label == value)
        count = min(pixels_per_class, len(pixels))
        chosen.append(np.sort(generator.choice(pixels, count, replace=False)))
    flat = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    ys, xs = np.divmod(flat.astype(np.int64), label.shape[1])
    return ys, xs
