"""The images of a split, and their values, each checked against its digest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.checked import read_arrays
from pipeline.cache.computed import ComputedMap, FeatureMap, convolution_of
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import UNREADABLE, damaged
from pipeline.cache.forms import Forms, is_needed
from pipeline.cache.handles import Handles, ShardFile
from pipeline.cache.headers import ShardDetails, ShardHeader, Skipped, Sources
from pipeline.cache.layout import ROW, Front, Row
from pipeline.cache.shards import StoredImage
from pipeline.errors import CacheDamagedError, CacheMismatchError, CacheNotFoundError
from pipeline.identity import ConvolutionIdentity, Identity

if TYPE_CHECKING:
    from pipeline.hypercolumn import FirstConvolution


@dataclass
class CachedSplit:
    """The images of one split, in the order of the split file.

    Every read checks the value against its digest and raises :class:`CacheDamagedError` rather than
    return a wrong one.

    Attributes
    ----------
    name : str
    identity : Identity
    where : dict of image id to Path
        The shard each image lies in.
    skipped : dict of image id to Skipped
        Images that could not be used.
    sources : dict of image id to dict
        Digests of the files each image was made from.
    parts : int
        In how many shards the split was divided.
    """

    name: str
    identity: Identity
    _handles: Handles
    where: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    sources: dict[str, Sources] = field(default_factory=dict)
    parts: int = 0
    _shards: list[ShardDetails] = field(default_factory=list)
    _fronts: dict[Path, Front] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._forms = Forms(self.identity)

    def append(self, header: ShardHeader) -> None:
        """Take in the next shard."""
        details = header.details
        if self._shards and details.parts != self.parts:
            raise CacheMismatchError(
                f"{header.path}: split '{self.name}' lies there in {self.parts} parts as well; "
                "run 'pipeline extract' again"
            )
        self.parts = details.parts
        self._shards.append(details)
        self._fronts[header.path] = header.front
        self._numbers |= zip(details.images, range(len(details.images)), strict=True)
        self.sources |= details.images
        self.where |= dict.fromkeys(details.images, header.path)
        self.skipped |= details.skipped

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images, in order."""
        return tuple(self.where)

    @property
    def missing_parts(self) -> tuple[int, ...]:
        """Numbers of the shards that are not there."""
        present = {shard.part for shard in self._shards}
        return tuple(part for part in range(self.parts) if part not in present)

    @property
    def dataset(self) -> str:
        """Name of the data set's folder."""
        return self._shards[-1].dataset

    @property
    def software(self) -> dict[str, str]:
        """Versions of what the features were made with."""
        return self._shards[-1].software

    def __len__(self) -> int:
        return len(self.where)

    def maps(self, image_id: str, taps: Sequence[str]) -> list[NDArray[np.float32]]:
        """Read feature maps (C, h, w), in float32."""
        return [stored.decoded() for stored in self.stored_maps(image_id, taps)]

    def stored_maps(self, image_id: str, taps: Sequence[str]) -> list[FeatureMap]:
        """Read feature maps as they are stored, or what one is computed from that is not."""
        self._require_taps(taps)
        first, geometry = self.identity.tap_names[0], self.identity.recompute_first
        if geometry is None or first not in taps:
            arrays = self._read(image_id, taps)
            return [arrays[tap] for tap in taps]
        arrays = self._read(image_id, {*taps, "image"} - {first})
        computed = ComputedMap(arrays["image"].values, self._convolution(image_id, geometry))
        if min(computed.size) < 1:
            raise self._damaged(image_id, "image", ValueError("smaller than the kernel"))
        return [computed if tap == first else arrays[tap] for tap in taps]

    def _require_taps(self, taps: Sequence[str]) -> None:
        if strange := set(taps) - set(self.identity.tap_names):
            raise CacheNotFoundError(
                f"the cache has no tap '{min(strange)}'; "
                f"it holds {', '.join(self.identity.tap_names)}"
            )

    def label(self, image_id: str, *, void_as_background: bool = False) -> NDArray[np.uint8]:
        """Read the label (H, W) at the network's input size, with void as class 0 if asked for."""
        label = self._values(image_id, "label")
        if void_as_background:
            label[label == self.identity.void] = 0
        return label

    def label_original(self, image_id: str) -> NDArray[np.uint8]:
        """Read the label (H0, W0) at the image's original size."""
        return self._values(image_id, "label_original")

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read the network's input (H, W, 3) before normalisation."""
        arrays = self._read(image_id, ("label", "image"))
        self._require_one_size(image_id, arrays)
        return arrays["image"].values

    def size(self, image_id: str) -> tuple[int, int]:
        """Give an image's size (H, W) as the backbone saw it."""
        height, width = self.label(image_id).shape
        return int(height), int(width)

    def stored(self, image_id: str) -> StoredImage:
        """Read everything that is stored for an image, as it is stored."""
        arrays = self._read(image_id, self._forms.names)
        self._require_one_size(image_id, arrays)
        geometry = self.identity.recompute_first
        first = None if geometry is None else self._convolution(image_id, geometry)
        return StoredImage(image_id, arrays, self.sources[image_id], first)

    def _require_one_size(self, image_id: str, arrays: Mapping[str, StoredArray]) -> None:
        if arrays["label"].values.shape != arrays["image"].values.shape[:2]:
            raise self._damaged(image_id, "image", ValueError("of another size than its label"))

    def _values(self, image_id: str, name: str) -> NDArray[np.uint8]:
        return self._read(image_id, [name])[name].values

    def _read(self, image_id: str, names: Collection[str]) -> dict[str, StoredArray]:
        """Read arrays of an image, and use none before all that is known of it has been checked."""
        path, file = self._open(image_id)
        every, names = self._forms.names, frozenset(names)
        start = self._numbers[image_id] * len(every)
        rows = self._rows(image_id, file, start, every)
        wanted = {name: row for name, row in rows.items() if is_needed(name, names)}
        return self._scaled(
            read_arrays(path, file, image_id, wanted, self._forms, self._handles.beside)
        )

    def _convolution(self, image_id: str, geometry: ConvolutionIdentity) -> FirstConvolution:
        """Read what gives the tap that is not stored, from the shard that holds an image."""
        path, file = self._open(image_id)
        names = self._forms.of_shard
        start = file.front.table.bytes // ROW.itemsize - len(names)
        rows = self._rows(image_id, file, start, names)
        arrays = read_arrays(path, file, "", rows, self._forms, self._handles.beside)
        try:
            return convolution_of(arrays, geometry)
        except ValueError as error:
            raise damaged(path, f"{names[0]} is damaged", error) from error

    def _open(self, image_id: str) -> tuple[Path, ShardFile]:
        """Give the shard that an image lies in."""
        if image_id not in self.where:
            raise CacheNotFoundError(f"split '{self.name}' of the cache has no image '{image_id}'")
        path = self.where[image_id]
        return path, self._handles.get(path, self._fronts[path])

    def _rows(
        self, image_id: str, file: ShardFile, start: int, names: Sequence[str]
    ) -> dict[str, Row]:
        try:
            return dict(zip(names, file.rows(start, len(names)), strict=True))
        except UNREADABLE as error:
            raise self._damaged(image_id, "table", error) from error

    def _scaled(self, arrays: dict[str, StoredArray]) -> dict[str, StoredArray]:
        """Give every map its scales."""
        scales = arrays.pop("scales", None)
        if scales is None:
            return arrays
        start = 0
        for tap in self.identity.stored_taps:
            if tap.name in arrays:
                scale = scales.values[start : start + tap.channels]
                arrays[tap.name] = StoredArray(arrays[tap.name].values, scale)
            start += tap.channels
        return arrays

    def _damaged(self, image_id: str, name: str, error: Exception) -> CacheDamagedError:
        """Say which array of which file is damaged."""
        return damaged(self.where[image_id], f"{image_id}/{name} is damaged", error)
