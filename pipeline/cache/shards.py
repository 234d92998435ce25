"""Shards: HDF5 files that hold a run of consecutive images of a split.

The layout of a shard::

    /<image id>/
        <tap>           (C, h, w)      the feature map; attributes: xxh3, scale (int8 only)
        label           (H, W) uint8   classes at the network's input size, void kept
        label_original  (H0, W0) uint8 the mask as it was, for the official protocol
        image           (H, W, 3) uint8   the network's input before normalisation

Maps are stored contiguous and uncompressed unless asked for otherwise: real features compress by
6 to 18 % and cost five to ten times the reading time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.cache.arrays import (
    write_array,
)
from pipeline.cache.encoding import StoredArray, encode
from pipeline.cache.files import (
    describe,
    written_hdf5,
)
from pipeline.cache.headers import ShardDetails, ShardHeader, Skipped, Sources, shard_name
from pipeline.cache.interrupts import uninterrupted
from pipeline.errors import CacheError
from pipeline.identity import Identity

RESERVED = ("label", "label_original", "image")
"""Names of the datasets of an image that are not taps."""

_MOST_IMAGES = 25_000
"""In a shard, whose header lists them all, and no header may be of any size."""


@dataclass(frozen=True)
class StoredImage:
    """Everything a shard holds of one image, as it is stored."""

    image_id: str
    arrays: Mapping[str, StoredArray]
    sources: Sources


@dataclass(frozen=True)
class ImageRecord:
    """One image as it comes from the backbone.

    Attributes
    ----------
    image_id : str
    maps : mapping of tap name to array of float32, shape (C, h, w)
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

    def stored(self, identity: Identity) -> StoredImage:
        """Turn it into what is stored.

        Raises
        ------
        CacheOverflowError
            If a value is not finite, or does not fit the dtype of the cache.
        """
        arrays = {
            tap: encode(self.maps[tap], identity.dtype, image_id=self.image_id, tap=tap)
            for tap in identity.tap_names
        }
        arrays |= {name: StoredArray(getattr(self, name)) for name in RESERVED}
        return StoredImage(self.image_id, arrays, self.sources)


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


@dataclass
class ShardWriter:
    """A shard in the making; :func:`written_shard` opens one.

    Attributes
    ----------
    skipped : dict of image id to reason
        To be filled by the caller.
    """

    file: h5py.File
    plan: ShardPlan
    identity: Identity
    compression: str | None
    skipped: dict[str, str] = field(default_factory=dict)
    _written: list[str] = field(default_factory=list)

    @uninterrupted()
    def add(self, image: StoredImage) -> None:
        """Write an image; the images of a shard come in the order of its plan."""
        group = self.file.create_group(image.image_id)
        for name, array in image.arrays.items():
            # Masks shrink to a few per cent, and this one is read once per evaluation.
            filter_ = "gzip" if name == "label_original" else self.compression
            write_array(group, name, array, filter_)
        self._written.append(image.image_id)

    def details(self, dataset: str, software: Mapping[str, str]) -> ShardDetails:
        """Describe what has been written."""
        sources = self.plan.sources
        return ShardDetails(
            split=self.plan.split,
            part=self.plan.part,
            parts=self.plan.parts,
            images={image_id: dict(sources[image_id]) for image_id in self._written},
            skipped={
                image_id: Skipped(reason=reason, sources=dict(sources[image_id]))
                for image_id, reason in self.skipped.items()
            },
            dataset=dataset,
            software=dict(software),
        )


@contextmanager
def written_shard(
    plan: ShardPlan,
    identity: Identity,
    *,
    dataset: str,
    software: Mapping[str, str],
    compression: str | None = None,
) -> Iterator[ShardWriter]:
    """Open a shard for writing that takes its place only when the block has ended well.

    Parameters
    ----------
    plan : ShardPlan
        Where it shall be, and which images it is to hold.
    identity : Identity
        What the features were made with.
    dataset : str
        Name of the data set's folder.
    software : mapping
        Versions.
    compression : {None, "gzip", "lzf"}
        HDF5 filter for the maps.

    Raises
    ------
    SpaceError
        If the disk is full.
    """
    with written_hdf5(plan.path) as file:
        writer = ShardWriter(file, plan, identity, compression)
        yield writer
        details = writer.details(dataset, software).model_dump(mode="json")
        describe(file, identity, "shard", details)


def total_images(plans: Sequence[ShardPlan]) -> int:
    """Count the images of several shards."""
    return sum(len(plan.sources) for plan in plans)
