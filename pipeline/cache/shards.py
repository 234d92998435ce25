r"""Shards: HDF5 files that hold a run of consecutive images of a split.

To whoever opens a shard with HDF5 it is::

    /<image id>/
        <tap>           (C, h, w)      the feature map
        scales          (D,) float32   what channels are multiplied by, of all taps (int8 only)
        label           (H, W) uint8   classes at the network's input size, void kept
        image           (H, W, 3) uint8   the network's input before normalisation
        label_original  (H0, W0) uint8 the mask as it was, for the official protocol
    /\identity         text           what the features were made with, as JSON
    /\details          text           which images, from which files, as JSON
    /\kernel, /\bias, /\values   float32, what the first tap is computed with if it is not stored
    /\table            a row for each array: where it lies, and its digest

The pipeline finds the same without HDF5, by :mod:`pipeline.cache.layout`. Maps are stored
contiguous and uncompressed unless asked for otherwise: real features compress by 6 to 18 % and cost
five to ten times the reading time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.computed import ComputedMap, FeatureMap
from pipeline.cache.deflating import deflate
from pipeline.cache.encoding import StoredArray, encode
from pipeline.cache.headers import ShardHeader, Sources, shard_name
from pipeline.errors import CacheError
from pipeline.identity import Identity

if TYPE_CHECKING:
    from pipeline.hypercolumn import FirstConvolution

RESERVED = ("label", "label_original", "image")
"""Names of the datasets of an image that are not taps."""

_MOST_IMAGES = 25_000
"""In a shard, whose header lists them all, and no header may be of any size."""


@dataclass(frozen=True)
class StoredImage:
    """Everything a shard holds of one image, as it is stored.

    Attributes
    ----------
    image_id : str
    arrays : mapping of name to StoredArray
    sources : mapping
    first : FirstConvolution, optional
        What gives the map that is not stored, if there is one.
    """

    image_id: str
    arrays: Mapping[str, StoredArray]
    sources: Sources
    first: FirstConvolution | None = None

    def map(self, tap: str) -> FeatureMap:
        """Give the map of a tap: the one that is stored, or how it is computed."""
        if self.first is None or tap in self.arrays:
            return self.arrays[tap]
        return ComputedMap(self.arrays["image"].values, self.first)


@dataclass(frozen=True)
class ImageRecord:
    """One image as it comes from the backbone.

    Attributes
    ----------
    image_id : str
    maps : mapping of tap name to array of float32, shape (C, h, w)
        At least those that are stored.
    label : array of uint8, shape (H, W)
    label_original : array of uint8, shape (H0, W0)
    image : array of uint8, shape (H, W, 3)
    sources : mapping
        Digests of the files it was made from: ``image_digest`` and ``mask_digest``.
    """

    image_id: str
    maps: Mapping[str, NDArray[np.float32]]
    label: NDArray[np.uint8]
    label_original: NDArray[np.uint8]
    image: NDArray[np.uint8]
    sources: Sources

    def stored(self, identity: Identity, first: FirstConvolution | None = None) -> StoredImage:
        """Turn it into what is stored.

        Parameters
        ----------
        identity : Identity
            Of the cache.
        first : FirstConvolution, optional
            What gives the map that the identity says is not stored.

        Raises
        ------
        CacheOverflowError
            If a value is not finite, or does not fit the dtype of the cache.
        """
        arrays = {
            tap.name: encode(
                self.maps[tap.name], identity.dtype, image_id=self.image_id, tap=tap.name
            )
            for tap in identity.stored_taps
        }
        arrays |= {name: StoredArray(getattr(self, name)) for name in ("label", "image")}
        original = self.label_original
        arrays["label_original"] = StoredArray(original, deflated=deflate(original))
        return StoredImage(self.image_id, arrays, self.sources, first)


@dataclass(frozen=True)
class ShardPlan:
    """A shard that shall exist: its place, and the images it holds with their files' digests."""

    directory: Path
    split: str
    part: int
    parts: int
    sources: Mapping[str, Sources]

    @property
    def path(self) -> Path:
        """The shard's file."""
        return self.directory / shard_name(self.split, self.part, self.parts)

    def header(self, identity: Identity) -> ShardHeader | None:
        """Read what lies in its place, if that is a shard made with this identity."""
        if not self.path.exists():
            return None
        try:
            found = ShardHeader.read(self.path)
        except CacheError:
            return None
        return found if found.identity == identity else None

    def is_met_by(self, header: ShardHeader | None, *, skip: bool) -> bool:
        """Tell whether a shard holds exactly these images, made from exactly these files.

        Parameters
        ----------
        header : ShardHeader or None
            Of a shard made with the right identity.
        skip : bool
            Whether images may be missing that could not be used when the shard was written, and
            whose files are still the same.
        """
        if header is None or header.details.name != self.path.name:
            return False
        found = {i: s.sources for i, s in header.details.skipped.items()}
        if found and not skip:
            return False
        kept = [image_id for image_id in self.sources if image_id not in found]
        everything = found | header.details.images
        return list(header.details.images) == kept and everything == dict(self.sources)


def plan_shards(
    directory: Path, split: str, sources: Mapping[str, Sources], images_per_shard: int
) -> list[ShardPlan]:
    """Divide the images of a split into shards, in order."""
    items = list(sources.items())
    images_per_shard = min(images_per_shard, _MOST_IMAGES)
    starts = range(0, len(items), images_per_shard)
    return [
        ShardPlan(
            directory, split, part, len(starts), dict(items[start : start + images_per_shard])
        )
        for part, start in enumerate(starts)
    ]


def total_images(plans: Sequence[ShardPlan]) -> int:
    """Count the images of several shards."""
    return sum(len(plan.sources) for plan in plans)
