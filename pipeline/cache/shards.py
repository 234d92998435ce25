"""Shards: HDF5 files that hold a run of consecutive images of a split.

The layout of a shard::

    /<image id>/                       attributes: image_digest, mask_digest
        <tap>           (C, h, w)      the feature map; attributes: xxh3, scale (int8 only)
        label           (H, W) uint8   classes at the network's input size, void kept
        label_original  (H0, W0) uint8 the mask as it was, for the official protocol
        image           (H, W, 3) uint8   the network's input before normalisation

Maps are stored contiguous and uncompressed unless asked for otherwise: real features compress by
6 to 18 % and cost five to ten times the reading time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.cache.encoding import digest, encode
from pipeline.cache.files import UNREADABLE, describe, open_described, written_whole
from pipeline.errors import CacheError
from pipeline.identity import Identity

RESERVED = ("label", "label_original", "image")
"""Names of the datasets of an image that are not taps."""


@dataclass(frozen=True)
class ImageRecord:
    """One image as it goes into a shard.

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
    sources: Mapping[str, str]


@dataclass(frozen=True)
class ShardPlan:
    """A shard that shall exist: its path, its split and the images it holds."""

    path: Path
    split: str
    image_ids: tuple[str, ...]

    def is_done(self, identity: Identity, sources: Mapping[str, Mapping[str, str]]) -> bool:
        """Tell whether the shard exists and was made from exactly these files in this way.

        Parameters
        ----------
        identity : Identity
            What features are to be made with.
        sources : mapping of image id to digests
            What :attr:`ImageRecord.sources` would be now. Images whose digests are not the
            recorded ones make the shard count as not done, and so do images that were skipped:
            they may have been mended, and if not, they are to be named again.
        """
        if not self.path.exists():
            return False
        try:
            file, found, details = open_described(self.path, "shard")
        except CacheError:
            return False
        with file:
            if found != identity or details["split"] != self.split:
                return False
            try:
                return tuple(file) == self.image_ids and all(
                    dict(file[i].attrs) == dict(sources[i]) for i in self.image_ids
                )
            except UNREADABLE:
                return False


def plan_shards(
    directory: Path, split: str, image_ids: Sequence[str], images_per_shard: int
) -> list[ShardPlan]:
    """Divide the images of a split into shards, in order."""
    runs = [
        tuple(image_ids[start : start + images_per_shard])
        for start in range(0, len(image_ids), images_per_shard)
    ]
    return [
        ShardPlan(directory / f"{split}-{part:05d}-of-{len(runs):05d}.h5", split, run)
        for part, run in enumerate(runs)
    ]


def remove_other_shards(directory: Path, plans: Sequence[ShardPlan], identity: Identity) -> None:
    """Remove what must not lie beside the planned shards once they are written.

    That is: shards of the same splits that are divided otherwise, shards of other splits that were
    made otherwise, and what a killed run left half-written.
    """
    planned, splits = {plan.path for plan in plans}, {plan.split for plan in plans}
    digits = "[0-9]" * 5
    for path in directory.glob(f"*-{digits}-of-{digits}.h5*"):
        split = path.name.rsplit("-", 3)[0]
        if path.suffix == ".h5" and path not in planned:
            if split in splits or not _made_with(identity, path):
                path.unlink()
        elif path.suffix == ".partial" and split in splits:
            path.unlink()


def _made_with(identity: Identity, path: Path) -> bool:
    try:
        file, found, _ = open_described(path, "shard")
    except CacheError:
        return False
    file.close()
    return found == identity


def write_shard(
    plan: ShardPlan,
    records: Iterable[ImageRecord],
    identity: Identity,
    *,
    compression: str | None,
    details: Mapping[str, Any],
) -> int:
    """Write a shard; it exists whole or not at all.

    Parameters
    ----------
    plan : ShardPlan
        Which images are expected; those that ``records`` does not yield are noted as skipped.
    records : iterable of ImageRecord
        Taken one at a time.
    identity : Identity
        What the features were made with.
    compression : {None, "gzip", "lzf"}
        HDF5 filter for the maps.
    details : mapping
        What else the file shall say about itself.

    Returns
    -------
    int
        Number of images written.
    """
    with written_whole(plan.path) as file:
        written = []
        for record in records:
            _write_record(file.create_group(record.image_id), record, identity, compression)
            written.append(record.image_id)
        skipped = sorted(set(plan.image_ids) - set(written))
        describe(file, identity, "shard", {**details, "split": plan.split, "skipped": skipped})
    return len(written)


def _write_record(
    group: h5py.Group, record: ImageRecord, identity: Identity, compression: str | None
) -> None:
    group.attrs.update(record.sources)
    for tap in identity.tap_names:
        stored, scale = encode(record.maps[tap], identity.dtype, image_id=record.image_id, tap=tap)
        dataset = _write_array(group, tap, stored, compression)
        dataset.attrs["xxh3"] = digest(stored, scale)
        if scale is not None:
            dataset.attrs["scale"] = scale
    for name in RESERVED:
        array = getattr(record, name)
        # Masks shrink to a few per cent, and this one is read once per evaluation.
        filter_ = "gzip" if name == "label_original" else compression
        _write_array(group, name, array, filter_).attrs["xxh3"] = digest(array)


def _write_array(
    group: h5py.Group, name: str, array: NDArray[Any], compression: str | None
) -> h5py.Dataset:
    return group.create_dataset(name, data=array, compression=compression)
