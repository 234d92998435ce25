"""Drawing pixel samples: the hypercolumns of pixels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.cached_split import CachedSplit
from pipeline.cache.computed import FeatureMap
from pipeline.cache.pixels import Drawing, Samples, draw_pixels
from pipeline.cache.shards import StoredImage
from pipeline.hypercolumn import read_columns
from pipeline.identity import Identity


@dataclass(frozen=True)
class Drawn:
    """The samples of one image: hypercolumns (n, D), classes and places (n,)."""

    image_id: str
    features: NDArray[np.float32]
    label: NDArray[np.uint8]
    y: NDArray[np.int64]
    x: NDArray[np.int64]


class SampleDrawer:
    """Draws the samples of one image after another.

    Parameters
    ----------
    identity : Identity
        Of the cache.
    drawing : Drawing
        What to draw.
    """

    def __init__(self, identity: Identity, drawing: Drawing) -> None:
        self._identity, self._drawing = identity, drawing
        names = identity.tap_names
        self.taps = [names[i] for i in drawing.features.select(names)]
        channels = drawing.features.channels(names, identity.tap_channels)
        self._empty = np.empty((0, sum(channels)), np.float32)
        self._drawn: list[Drawn] = []

    def drawn(self, image_id: str, maps: Sequence[FeatureMap], label: NDArray[np.uint8]) -> Drawn:
        """Draw from an image; several threads may do so at a time.

        Parameters
        ----------
        image_id : str
        maps : sequence of StoredArray or ComputedMap, each (C, h, w)
            The maps of :attr:`taps`.
        label : array of uint8, shape (H, W)

        Returns
        -------
        Drawn
            For :meth:`take`.
        """
        identity, drawing = self._identity, self._drawing
        if drawing.void_as_background:
            label = np.where(label == identity.void, np.uint8(0), label)
        ys, xs = draw_pixels(label, image_id, drawing, void=identity.void)
        columns = read_columns(
            maps,
            self.taps,
            drawing.features,
            ys,
            xs,
            (label.shape[0], label.shape[1]),
            identity.geometry,
        )
        return Drawn(image_id, columns, label[ys, xs], ys, xs)

    def drawn_stored(self, image: StoredImage) -> Drawn:
        """Draw from an image as a shard holds it; see :meth:`drawn`."""
        maps = [image.map(tap) for tap in self.taps]
        label: NDArray[Any] = image.arrays["label"].values
        return self.drawn(image.image_id, maps, label)

    def take(self, drawn: Drawn) -> None:
        """Take in what was drawn from the next image."""
        self._drawn.append(drawn)

    def draw_cached(self, split: CachedSplit, image_id: str) -> None:
        """Draw from an image of a cached split."""
        maps = split.stored_maps(image_id, self.taps)
        self.take(self.drawn(image_id, maps, split.label(image_id)))

    def samples(self) -> Samples:
        """Give all samples that have been drawn."""
        drawn = self._drawn
        counts = [len(one.label) for one in drawn]
        none = np.empty(0, np.int64)
        return Samples(
            features=np.concatenate([self._empty, *(one.features for one in drawn)]),
            label=np.concatenate([none.astype(np.uint8), *(one.label for one in drawn)]),
            image=np.repeat(np.arange(len(drawn)), counts),
            y=np.concatenate([none, *(one.y for one in drawn)]),
            x=np.concatenate([none, *(one.x for one in drawn)]),
            image_ids=tuple(one.image_id for one in drawn),
            drawing=self._drawing,
        )


def draw_samples(
    split: CachedSplit, identity: Identity, drawing: Drawing, image_ids: Iterable[str] | None = None
) -> Samples:
    """Draw samples from a cached split.

    Parameters
    ----------
    split : CachedSplit
        Where maps and labels are read from.
    identity : Identity
        Of the cache the split belongs to.
    drawing : Drawing
        What to draw.
    image_ids : iterable of str, optional
        Which images, in order; all of the split by default.

    Returns
    -------
    Samples
    """
    drawer = SampleDrawer(identity, drawing)
    for image_id in split.image_ids if image_ids is None else image_ids:
        drawer.draw_cached(split, image_id)
    return drawer.samples()
