"""From image files to what the cache stores: decode, resize, run the backbone."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from pipeline.backbones import Backbone, Preprocessing
from pipeline.cache import BYTES_PER_VALUE, ImageRecord
from pipeline.data import VocDataset, image_size
from pipeline.errors import BackboneError, DataError

_DECODERS = 2
_DECODED_AHEAD = 8


@dataclass(frozen=True)
class _Loaded:
    image_id: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    label_original: NDArray[np.uint8]


@dataclass(frozen=True)
class ImageRecords:
    """The images of a data set as they go into the cache.

    Attributes
    ----------
    dataset : VocDataset
    backbone : Backbone
    preprocessing : Preprocessing
    batch_size : int
        Images of one size that go through the backbone together.
    skip : bool
        Whether images that cannot be used are noted in ``skipped`` rather than raised.
    skipped : list of (split, image id, reason)
    """

    dataset: VocDataset
    backbone: Backbone
    preprocessing: Preprocessing
    batch_size: int
    skip: bool
    skipped: list[tuple[str, str, str]]

    def sources(self, split: str) -> dict[str, dict[str, str]]:
        """Digest the files of every image of a split, in order."""
        found = {}
        for image_id in self.dataset.image_ids(split):
            try:
                found[image_id] = {
                    "image_digest": _file_digest(self.dataset.image_path(image_id)),
                    "mask_digest": _file_digest(self.dataset.mask_path(image_id)),
                }
            except (DataError, OSError) as error:
                if not self.skip:
                    raise DataError(str(error)) from error
                found[image_id] = {"image_digest": "unreadable", "mask_digest": "unreadable"}
        return found

    def bytes_of(self, image_id: str, dtype: str) -> int:
        """Give the bytes that an image will take in the cache."""
        try:
            height, width = image_size(self.dataset.image_path(image_id))
            size = self.preprocessing.target_size(height, width)
            values = sum(c * h * w for c, h, w in self.backbone.feature_shapes(*size))
        except (DataError, BackboneError):
            return 0  # it will be reported when it is read
        return values * BYTES_PER_VALUE[dtype] + 4 * size[0] * size[1] + height * width // 20

    def records(
        self, split: str, image_ids: Iterable[str], sources: dict[str, dict[str, str]]
    ) -> Iterator[ImageRecord]:
        """Run the backbone over images and yield what goes into the shard."""
        names = [tap.name for tap in self.backbone.taps]
        for batch in self._batches(self._loaded(split, image_ids)):
            inputs = np.stack([self.preprocessing.normalize(item.image) for item in batch])
            maps = self.backbone(torch.from_numpy(inputs).to(self.backbone.device))
            arrays = [m.float().cpu().numpy() for m in maps]
            for position, item in enumerate(batch):
                yield ImageRecord(
                    image_id=item.image_id,
                    maps={n: a[position] for n, a in zip(names, arrays, strict=True)},
                    label=item.label,
                    label_original=item.label_original,
                    image=item.image,
                    sources=sources[item.image_id],
                )

    def _loaded(self, split: str, image_ids: Iterable[str]) -> Iterator[_Loaded]:
        """Decode and resize images in threads, a few ahead of the backbone, in order."""
        waiting = iter(image_ids)
        with ThreadPoolExecutor(_DECODERS) as pool:
            futures = [(i, pool.submit(self._load, i)) for i in islice(waiting, _DECODED_AHEAD)]
            while futures:
                image_id, future = futures.pop(0)
                try:
                    yield future.result()
                except DataError as error:
                    if not self.skip:
                        raise
                    self.skipped.append((split, image_id, str(error)))
                futures += [(i, pool.submit(self._load, i)) for i in islice(waiting, 1)]

    def _load(self, image_id: str) -> _Loaded:
        image = self.dataset.read_image(image_id)
        mask = self.dataset.read_mask(image_id)
        resized = self.preprocessing.resize_image(image)
        try:
            self.backbone.feature_shapes(resized.shape[0], resized.shape[1])
        except BackboneError as error:
            path = self.dataset.image_path(image_id)
            raise DataError(f"{path}: cannot go through the backbone; {error}") from error
        return _Loaded(image_id, resized, self.preprocessing.resize_mask(mask), mask)

    def _batches(self, items: Iterable[_Loaded]) -> Iterator[list[_Loaded]]:
        """Group neighbours of one size."""
        batch: list[_Loaded] = []
        for item in items:
            if batch and (
                len(batch) == self.batch_size or item.image.shape != batch[0].image.shape
            ):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return xxhash.xxh3_128_hexdigest(file.read())
