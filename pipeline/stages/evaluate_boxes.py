"""Measure a box head on a cached split: regions by overlap and AP^r, keypoints by PCK and APK."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.boxes import (
    BoxHead,
    KeypointScores,
    Place,
    Pose,
    Region,
    RegionScores,
    hottest,
    load_box_head,
    splat,
)
from pipeline.boxes.grid import Size
from pipeline.cache import FeatureCache
from pipeline.data import Box
from pipeline.errors import ParamsError
from pipeline.progress import Progress, Silent
from pipeline.stages.box_images import BoxImages
from pipeline.stages.device import choose_device, memory_named
from pipeline.wholefile import write_whole


def evaluate_boxes(
    cache: Path | str,
    dataset: Path | str,
    head: Path | str,
    *,
    split: str = "val",
    detections: Path | str | None = None,
    threshold: float = 0.5,
    alpha: float = 0.1,
    out: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a box head on every object of a cached split.

    In the objects' own boxes, a figure-ground head is measured by the mean overlap of its regions
    with the objects, and a keypoint head by PCK. The average precisions AP^r and APK rank
    detections, if a file of them is given, by their scores (of a keypoint, times its heat).
    Otherwise they rank the objects' own boxes by the heat alone: its mean over the region, or that
    of the keypoint.

    Parameters
    ----------
    cache : Path or str
        A cache's directory.
    dataset : Path or str
        Root of the data set that it was made from.
    head : Path or str
        A box head made from a cache of the same identity.
    split : str
        Which images.
    detections : Path or str, optional
        Boxes that a detector found, see :func:`pipeline.data.read_detections`.
    threshold : float
        Heat from which on a pixel belongs to a region, above 0 and at most 1.
    alpha : float
        How far a keypoint may be off, in parts of the longer side of the object's box.
    out : Path or str, optional
        Where to write the result as JSON.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    dict
        The keys of :meth:`pipeline.boxes.RegionScores.summary` or
        :meth:`pipeline.boxes.KeypointScores.summary`, and what was measured on what.

    Raises
    ------
    CacheMismatchError
        If the head was made from a cache of another identity, or the data set's images are not
        those that the cache was made from.
    DataError
        If an object or the detections cannot be read.
    ParamsError
        If ``threshold`` or ``alpha`` is out of range.
    """
    if not (0 < threshold <= 1 and 0 < alpha < float("inf")):
        raise ParamsError(f"threshold {threshold} is not in (0, 1], or alpha {alpha} not above 0")
    progress = progress or Silent()
    where = choose_device(device)
    opened = FeatureCache(cache)
    loaded = load_box_head(head).to(where)
    info = loaded.info
    opened.require(info.identity, what=f"the head {head}")
    images = BoxImages(opened, split, dataset, detections, progress)
    detected = detections is not None
    measured = (
        _Regions(loaded, images, where, detected, threshold)
        if info.task == "figure-ground"
        else _Keypoints(loaded, images, where, detected, alpha)
    )
    for image_id in progress.track(
        images.image_ids, total=len(images.image_ids), unit="images", what=f"evaluating {split}"
    ):
        with memory_named(image_id):
            measured.add(image_id)
    opened.close()
    result = {
        "task": info.task,
        **measured.scores.summary(),
        "candidates": "detections" if detected else "true boxes",
        "split": split,
        "images": len(images.image_ids),
        "head": {"taps": info.taps, "grid": info.grid, "boxes": info.metrics.get("boxes")},
        "fingerprint": opened.identity.fingerprint,
    }
    if out is not None:
        write_whole(Path(out), json.dumps(result, indent=2) + "\n")
    return result


class _Prediction:
    """Heat maps of the boxes of one image."""

    def __init__(
        self, head: BoxHead, images: BoxImages, image_id: str, size: Size, device: torch.device
    ) -> None:
        self._head, self._original = head, size
        self._size = images.split.size(image_id)
        self._maps = images.maps(image_id, head.info.taps, head.info.features, device)

    def _heat_maps(self, label: int, box: Box) -> tuple[Box, Tensor]:
        window = self._head.window(box, self._original)
        return window, self._head.heat_maps(self._maps, label, window, self._original, self._size)

    def region(self, label: int, box: Box, threshold: float, score: float | None) -> Region:
        """Give the region of a class in a box; of a class that the head does not know, nothing."""
        window, heats = self._heat_maps(label, box)
        if not len(heats):
            return Region(label, np.zeros(self._original, np.bool_), score or 0.0)
        heat = splat(heats[0], window, self._original).numpy()
        pixels = heat >= threshold
        own_score = float(heat[pixels].mean()) if pixels.any() else 0.0
        return Region(label, pixels, own_score if score is None else score)

    def pose(self, label: int, box: Box, score: float = 1.0) -> Pose:
        """Give the keypoints of a class in a box."""
        window, heats = self._heat_maps(label, box)
        places = {}
        for row, heat in zip(self._head.rows(label), heats, strict=True):
            x, y, hottest_heat = hottest(heat, window)
            places[self._head.info.targets[row].keypoint or ""] = Place(x, y, hottest_heat * score)
        return Pose(label, places)


class _Regions:
    """Measures a figure-ground head, image by image."""

    def __init__(
        self,
        head: BoxHead,
        images: BoxImages,
        device: torch.device,
        detected: bool,
        threshold: float,
    ) -> None:
        self._head, self._images, self._device = head, images, device
        self._detected, self._threshold = detected, threshold
        self.scores = RegionScores(images.dataset.classes, images.dataset.void)

    def add(self, image_id: str) -> None:
        """Take in an image."""
        size = self._images.size(image_id)
        true = self._images.dataset.read_instances(image_id)
        predict = _Prediction(self._head, self._images, image_id, size, self._device)
        given_box = [
            predict.region(thing.label, thing.box, self._threshold, None) for thing in true.objects
        ]
        candidates: Sequence[Region] = given_box
        if self._detected:
            candidates = [
                predict.region(found.label, found.box, self._threshold, found.score)
                for found in self._images.detections(image_id, size)
            ]
        self.scores.add(true, given_box, candidates)


class _Keypoints:
    """Measures a keypoint head, image by image."""

    def __init__(
        self, head: BoxHead, images: BoxImages, device: torch.device, detected: bool, alpha: float
    ) -> None:
        self._head, self._images, self._device = head, images, device
        self._detected = detected
        self.scores = KeypointScores(images.dataset.classes, alpha)

    def add(self, image_id: str) -> None:
        """Take in an image."""
        size = self._images.size(image_id)
        dataset = self._images.dataset
        objects = dataset.read_annotation(image_id)
        predict = _Prediction(self._head, self._images, image_id, size, self._device)
        given_box = [
            predict.pose(dataset.classes.index(thing.name), thing.box) for thing in objects
        ]
        candidates: Sequence[Pose] = given_box
        if self._detected:
            candidates = [
                predict.pose(found.label, found.box, found.score)
                for found in self._images.detections(image_id, size)
            ]
        self.scores.add(objects, given_box, candidates)
