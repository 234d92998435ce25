"""From image files to what the cache stores: decode, resize, run the backbone."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones import Backbone, Preprocessing, first_convolution
from pipeline.cache import BYTES_PER_VALUE, RESERVED, ImageRecord, Sources
from pipeline.data import VocDataset, image_size
from pipeline.data.voc import parse_split
from pipeline.errors import BackboneError, DataError, DeviceMemoryError
from pipeline.hypercolumn import FirstConvolution
from pipeline.identity import Identity, file_digest
from pipeline.progress import Progress
from pipeline.threads import MOST_AT_ONCE, in_order

_BESIDE_GPU = 4
"""Threads that decode, and others that turn maps into what is stored."""
_BYTES_PER_IMAGE = 150
_BYTES_PER_DATASET = 400
"""What HDF5 adds, and the digests."""

_Maps: TypeAlias = list[NDArray[np.float32]]
T = TypeVar("T")


@dataclass(frozen=True)
class _Loaded:
    image_id: str
    image: NDArray[np.uint8]
    inputs: NDArray[np.float32]
    """The image as the backbone takes it, (3, H, W)."""
    label: NDArray[np.uint8]
    label_original: NDArray[np.uint8]
    sources: Sources


class ImageRecords:
    """The images of a data set as they go into the cache.

    Parameters
    ----------
    dataset : VocDataset
    backbone : Backbone
    preprocessing : Preprocessing
    batch_size : int, optional
        Images in work at a time: on the CPU each by itself, by default as many as torch has
        threads, 16 at most; on a GPU those of one size together, by default 32, and half as many
        when its memory does not suffice.
    skip : bool
        Whether images that cannot be used are left out rather than raised.
    progress : Progress
    """

    def __init__(
        self,
        dataset: VocDataset,
        backbone: Backbone,
        preprocessing: Preprocessing,
        *,
        batch_size: int | None,
        skip: bool,
        progress: Progress,
    ) -> None:
        self._dataset, self._backbone, self._preprocessing = dataset, backbone, preprocessing
        most = 32 if backbone.takes_batches else min(torch.get_num_threads(), MOST_AT_ONCE)
        self._batch_size = batch_size or most
        self._skip = skip
        self._progress = progress

    def listed(self, split: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """Read a split file.

        Returns
        -------
        image_ids : tuple of str
        problems : dict of str to str
            Lines that cannot be used, if they are to be skipped: where, and what is wrong.
        """
        if not self._skip:
            return self._dataset.image_ids(split), {}
        path = self._dataset.split_path(split)
        image_ids, problems = parse_split(path)
        if not image_ids:
            raise DataError(f"{path}: {problems[0]}")
        return image_ids, {
            f"{path.name} {where}": what
            for where, _, what in (problem.partition(": ") for problem in problems)
        }

    def sources(self, image_ids: Sequence[str]) -> dict[str, Sources]:
        """Digest the files of images, in order."""
        return {image_id: self._sources(image_id) for image_id in image_ids}

    def _sources(self, image_id: str) -> Sources:
        return {
            "image_digest": self._digest(partial(self._dataset.image_path, image_id)),
            "mask_digest": self._digest(partial(self._dataset.mask_path, image_id)),
        }

    def _digest(self, find: Callable[[], Path]) -> str:
        try:
            return file_digest(find())
        except (DataError, OSError) as error:
            if not self._skip:
                raise DataError(str(error)) from error
            return "unreadable"

    def first(self, identity: Identity) -> FirstConvolution | None:
        """Give what the first tap is computed with in a cache that does not store it."""
        if identity.recompute_first is None:
            return None
        return first_convolution(self._backbone, self._preprocessing)

    def bytes_of(self, image_id: str, identity: Identity) -> int:
        """Give the bytes that an image will take in the cache."""
        taps = identity.stored_taps
        try:
            height, width = image_size(self._dataset.image_path(image_id))
            size = self._preprocessing.target_size(height, width)
            shapes = self._backbone.feature_shapes(*size)[-len(taps) :] if taps else []
            values = sum(c * h * w for c, h, w in shapes)
        except (DataError, BackboneError):
            return 0  # it will be reported when it is read
        scales = 4 * sum(tap.channels for tap in taps) if identity.dtype == "int8" else 0
        headers = _BYTES_PER_IMAGE + _BYTES_PER_DATASET * (len(taps) + len(RESERVED))
        label_and_image, label_original = 4 * size[0] * size[1], height * width // 20
        values *= BYTES_PER_VALUE[identity.dtype]
        return values + scales + headers + label_and_image + label_original

    def label(self, image_id: str) -> NDArray[np.uint8]:
        """Read a mask, (H, W) at the network's input size.

        Raises
        ------
        DataError
            If it cannot be used.
        """
        return self._preprocessing.resize_mask(self._dataset.read_mask(image_id))

    def each(
        self,
        sources: Mapping[str, Sources],
        work: Callable[[ImageRecord], T],
        skipped: dict[str, str],
    ) -> Generator[T]:
        """Run the backbone over images, and give what is made of each, in order.

        Close it after use, or its threads go on.

        Parameters
        ----------
        sources : mapping of image id to digests
            The images, and what :meth:`sources` found.
        work : callable
            Makes something of an image; in several threads, while its maps are at hand.
        skipped : dict of image id to reason
            Takes up those that are left out.

        Raises
        ------
        DataError
            If an image cannot be used, and is not to be skipped.
        Exception
            What ``work`` raises.
        """
        if self._backbone.takes_batches:
            return self._in_batches(sources, work, skipped)
        return self._one_by_one(sources, work, skipped)

    def _one_by_one(
        self,
        sources: Mapping[str, Sources],
        work: Callable[[ImageRecord], T],
        skipped: dict[str, str],
    ) -> Generator[T]:
        """Do all there is to do with an image in one thread, while its maps are in the cache."""

        def all_of_it(source: tuple[str, Sources]) -> tuple[str, T | DataError]:
            image_id, loaded = self._loaded(source)
            if isinstance(loaded, DataError):
                return image_id, loaded
            maps = self._backbone(torch.from_numpy(loaded.inputs)[None])
            return image_id, work(self._record(loaded, [m[0].numpy() for m in maps]))

        images = in_order(all_of_it, sources.items(), threads=self._batch_size, alone=True)
        with closing(images):
            yield from self._usable(images, skipped)

    def _in_batches(
        self,
        sources: Mapping[str, Sources],
        work: Callable[[ImageRecord], T],
        skipped: dict[str, str],
    ) -> Generator[T]:
        """Decode and work in threads beside the GPU, which takes images of one size together."""
        loading = in_order(self._loaded, sources.items(), threads=_BESIDE_GPU)
        with closing(loading):
            records = (
                self._record(item, maps)
                for batch in self._batches(self._usable(loading, skipped))
                for item, maps in zip(batch, self._maps(_stacked(batch), batch), strict=True)
            )
            working = in_order(work, records, threads=_BESIDE_GPU)
            with closing(working):
                yield from working

    def _usable(
        self, found: Iterable[tuple[str, T | DataError]], skipped: dict[str, str]
    ) -> Iterator[T]:
        for image_id, item in found:
            if isinstance(item, DataError):
                skipped[image_id] = str(item)
            else:
                yield item

    def _record(self, loaded: _Loaded, maps: _Maps) -> ImageRecord:
        names = [tap.name for tap in self._backbone.taps]
        return ImageRecord(
            image_id=loaded.image_id,
            maps=dict(zip(names, maps, strict=True)),
            label=loaded.label,
            label_original=loaded.label_original,
            image=loaded.image,
            sources=loaded.sources,
        )

    def _maps(self, inputs: torch.Tensor, batch: Sequence[_Loaded]) -> Iterator[_Maps]:
        """Give the maps of each image; with too little memory on the GPU, in smaller batches."""
        try:
            maps = self._backbone(inputs.to(self._backbone.device))
            arrays = [m.float().cpu().numpy() for m in maps]
        except torch.cuda.OutOfMemoryError as error:
            height, width = inputs.shape[2:]
            if len(batch) == 1:
                raise DeviceMemoryError(
                    f"{self._dataset.image_path(batch[0].image_id)}: at {height}x{width} it does "
                    "not fit the GPU's memory; use a smaller --input-size, or --device cpu"
                ) from error
            arrays = []
        if arrays:
            yield from ([array[i] for array in arrays] for i in range(len(batch)))
            return
        # Outside the handler: the exception holds on to the memory of the attempt.
        half = (len(batch) + 1) // 2
        if half < self._batch_size:
            self._batch_size = half
            self._progress.say(f"the GPU's memory is full; going on with batches of {half}")
        for part in (slice(0, half), slice(half, len(batch))):
            yield from self._maps(inputs[part], batch[part])

    def _loaded(self, source: tuple[str, Sources]) -> tuple[str, _Loaded | DataError]:
        """Load an image, or say what is wrong with it if it is to be skipped then."""
        image_id, sources = source
        try:
            return image_id, self._load(image_id, sources)
        except DataError as error:
            if not self._skip:
                raise
            return image_id, error

    def _load(self, image_id: str, sources: Sources) -> _Loaded:
        image, mask, path, mask_path = self._dataset.read_labelled(image_id)
        digests = self._digest(lambda: path), self._digest(lambda: mask_path)
        if digests != (sources["image_digest"], sources["mask_digest"]):
            raise DataError(
                f"{path}: it or its mask was changed during the extraction; extract again"
            )
        try:
            resized = self._preprocessing.resize_image(image)
            self._backbone.feature_shapes(resized.shape[0], resized.shape[1])
        except BackboneError as error:
            raise DataError(f"{path}: cannot go through the backbone; {error}") from error
        inputs = self._preprocessing.normalize(resized)
        label = self._preprocessing.resize_mask(mask)
        return _Loaded(image_id, resized, inputs, label, mask, sources)

    def _batches(self, items: Iterable[_Loaded]) -> Iterator[list[_Loaded]]:
        """Group neighbours of one size."""
        batch: list[_Loaded] = []
        for item in items:
            if batch and (
                len(batch) >= self._batch_size or item.image.shape != batch[0].image.shape
            ):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch


def _stacked(batch: Sequence[_Loaded]) -> torch.Tensor:
    return torch.from_numpy(np.stack([item.inputs for item in batch]))
