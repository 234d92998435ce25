"""A cache and the data set it was made from, side by side: maps and objects."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.boxes.grid import Size, expanded
from pipeline.cache import CachedSplit, FeatureCache
from pipeline.data import Detection, VocDataset, image_size, read_detections
from pipeline.errors import CacheMismatchError, DataError
from pipeline.hypercolumn import Features
from pipeline.identity import file_digest
from pipeline.progress import Progress


class BoxImages:
    """The images of a cached split with their objects.

    Parameters
    ----------
    cache : FeatureCache
    split : str
    dataset : Path or str
        Root of the data set that the cache was made from, which has the objects.
    detections : Path or str, optional
        A file of detections.
    progress : Progress
        Is told of detections of other images.

    Raises
    ------
    DataError
        If the data set or the detections cannot be read.
    """

    def __init__(
        self,
        cache: FeatureCache,
        split: str,
        dataset: Path | str,
        detections: Path | str | None,
        progress: Progress,
    ) -> None:
        identity = cache.identity
        self.split: CachedSplit = cache[split]
        self.dataset = VocDataset.open(dataset, classes=identity.classes, void=identity.void)
        self._detections: Mapping[str, Sequence[Detection]] = {}
        if detections is not None:
            path = Path(detections)
            self._detections = read_detections(path, identity.classes)
            others = self._detections.keys() - set(self.split.image_ids)
            if others:
                count = sum(len(self._detections[i]) for i in others)
                progress.say(f"{path}: {count} detections are in other images than '{split}' has")

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images, in order."""
        return self.split.image_ids

    def size(self, image_id: str) -> Size:
        """Give the (height, width) of an image as it is stored in the data set.

        Raises
        ------
        CacheMismatchError
            If it is not the image that the cache was made from.
        """
        path = self.dataset.image_path(image_id)
        if file_digest(path) != self.split.sources[image_id]["image_digest"]:
            raise CacheMismatchError(
                f"{path}: not the image of that id that the cache was made from; give the data set"
                " it was made from, or run 'pipeline extract' again"
            )
        return image_size(path)

    def detections(self, image_id: str, size: Size) -> Sequence[Detection]:
        """Give the detections in an image of this size, in the order of their file.

        Raises
        ------
        DataError
            If one lies outside the image.
        """
        found = self._detections.get(image_id, ())
        for detection in found:
            inside = expanded(detection.box, 1.0, size)
            if inside.width <= 0 or inside.height <= 0:
                raise DataError(
                    f"{image_id}: the detection at {list(detection.bbox)} lies outside its image of"
                    f" {size[1]}x{size[0]} pixels; correct the file of detections"
                )
        return found

    def maps(
        self, image_id: str, taps: Sequence[str], features: Features, device: torch.device
    ) -> list[Tensor]:
        """Read the maps that hypercolumns of an image are made of."""
        read = [torch.from_numpy(m).to(device) for m in self.split.maps(image_id, taps)]
        return features.apply(read, taps)
