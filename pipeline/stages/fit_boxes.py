"""A box head: classifiers of the points of boxes, from the cache and the data set's objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.boxes import (
    BoxHead,
    BoxHeadInfo,
    BoxSettings,
    BoxTarget,
    BoxTrainer,
    Scaler,
    Task,
    TrainingBox,
    TrainingImage,
    save_box_head,
)
from pipeline.boxes.grid import Size, box_overlap, expanded, rescaled
from pipeline.boxes.targets import figure_ground, near_keypoint
from pipeline.cache import FeatureCache
from pipeline.data import Box
from pipeline.errors import DataError
from pipeline.hypercolumn import Features
from pipeline.progress import Progress, Silent
from pipeline.software import versions
from pipeline.stages.box_images import BoxImages
from pipeline.stages.device import choose_device, memory_named

_DETECTED = 0.7
"""Overlap with an object's box from which on a detection is trained on as the object's, too."""


@dataclass(frozen=True)
class FitBoxesResult:
    """What was fitted.

    Attributes
    ----------
    head : Path
        The file that was written.
    boxes : int
        Boxes that were trained on.
    targets : int
        Heat maps that the head predicts.
    losses : list of float
        Mean training loss of each epoch.
    """

    head: Path
    boxes: int
    targets: int
    losses: list[float]


def fit_boxes(
    cache: Path | str,
    dataset: Path | str,
    out: Path | str,
    *,
    task: Task = "figure-ground",
    split: str = "train",
    features: Features | None = None,
    settings: BoxSettings | None = None,
    detections: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> FitBoxesResult:
    """Fit a box head and write it.

    There is one K x K grid of classifiers for each class, or for each keypoint of each class.

    Parameters
    ----------
    cache : Path or str
        A cache's directory.
    dataset : Path or str
        Root of the data set it was made from, with instance masks for figure-ground, and
        annotation files for keypoints.
    out : Path or str
        The head to write.
    task : {"figure-ground", "keypoints"}
    split : str
        The training images.
    features : Features, optional
        What is made of the cached maps.
    settings : BoxSettings, optional
    detections : Path or str, optional
        Detected boxes to train on as well: those that overlap an object's box of their class by
        0.7 or more are taken for boxes of it, as in the paper.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    FitBoxesResult

    Raises
    ------
    DataError
        If an object cannot be read, or there is none to train on.
    CacheMismatchError
        If the data set's images are not those that the cache was made from.
    ParamsError
        If a tap is asked for that the cache does not have.
    """
    out, settings, features = Path(out), settings or BoxSettings(), features or Features()
    progress = progress or Silent()
    where = choose_device(device)
    opened = FeatureCache(cache)
    images = BoxImages(opened, split, dataset, detections, progress)
    features.select(opened.identity.tap_names)  # a misspelt tap fails at once
    boxes = _Boxes(images, task, settings, progress)
    info = BoxHeadInfo(
        task=task,
        identity=opened.identity,
        features=features,
        targets=boxes.targets,
        grid=settings.grid,
        points=settings.points,
        expansion=settings.expansion,
        settings={"split": split, **settings.model_dump(mode="json")},
        software=versions(),
    )
    progress.say(
        f"fitting {len(info.targets)} x {settings.grid} x {settings.grid} classifiers of "
        f"{info.channels} channels on {boxes.count} boxes"
    )
    head, losses = _fit(info, settings, images, boxes, where, progress)
    save_box_head(out, head)
    opened.close()
    return FitBoxesResult(out, boxes.count, len(info.targets), losses)


class _Boxes:
    """The training boxes of all images, and the targets that they have."""

    def __init__(
        self, images: BoxImages, task: Task, settings: BoxSettings, progress: Progress
    ) -> None:
        found: dict[str, list[tuple[Box, dict[BoxTarget, torch.Tensor]]]] = {}
        read = _figure_ground_boxes if task == "figure-ground" else _keypoint_boxes
        for image_id in progress.track(
            images.image_ids, total=len(images.image_ids), unit="images", what="reading objects"
        ):
            found[image_id] = list(read(images, image_id, settings))
        wanted = {target for listed in found.values() for _, of_box in listed for target in of_box}
        self.targets = tuple(
            sorted(wanted, key=lambda target: (target.label, target.keypoint or ""))
        )
        if not self.targets:
            what = "object" if task == "figure-ground" else "visible keypoint"
            raise DataError(
                f"{images.dataset.root}: no {what} in the images of '{images.split.name}';"
                " fit on another split, or annotate some"
            )
        row = {target: i for i, target in enumerate(self.targets)}
        self._of_image = {
            image_id: [
                TrainingBox(
                    box, [row[target] for target in of_box], torch.stack([*of_box.values()])
                )
                for box, of_box in listed
            ]
            for image_id, listed in found.items()
            if listed
        }
        self.count = sum(len(listed) for listed in self._of_image.values())

    @property
    def image_ids(self) -> list[str]:
        """Ids of the images that have any."""
        return list(self._of_image)

    def __getitem__(self, image_id: str) -> list[TrainingBox]:
        """Give the boxes of an image."""
        return self._of_image[image_id]


def _figure_ground_boxes(
    images: BoxImages, image_id: str, settings: BoxSettings
) -> Iterator[tuple[Box, dict[BoxTarget, torch.Tensor]]]:
    original, size = images.size(image_id), images.split.size(image_id)
    found = images.dataset.read_instances(image_id)
    for thing in found.objects:
        for box in _seen_as(images, image_id, thing.label, thing.box, original):
            window = expanded(box, settings.expansion, original)
            wanted = figure_ground(
                found.mask,
                thing.number,
                box=window,
                points=settings.points,
                void=images.dataset.void,
            )
            yield rescaled(window, original, size), {BoxTarget(label=thing.label): wanted}


def _keypoint_boxes(
    images: BoxImages, image_id: str, settings: BoxSettings
) -> Iterator[tuple[Box, dict[BoxTarget, torch.Tensor]]]:
    original, size = images.size(image_id), images.split.size(image_id)
    for thing in images.dataset.read_annotation(image_id):
        label = images.dataset.classes.index(thing.name)
        seen = {name: place for name, place in thing.keypoints.items() if place.visible}
        if not seen:
            continue
        for box in _seen_as(images, image_id, label, thing.box, original):
            window = expanded(box, settings.expansion, original)
            reach = settings.reach * max(thing.box.width, thing.box.height)
            yield (
                rescaled(window, original, size),
                {
                    BoxTarget(label=label, keypoint=name): near_keypoint(
                        place, box=window, points=settings.points, reach=reach
                    )
                    for name, place in seen.items()
                },
            )


def _seen_as(images: BoxImages, image_id: str, label: int, box: Box, size: Size) -> Iterator[Box]:
    """Give an object's box, and the detections of it."""
    yield box
    for detection in images.detections(image_id, size):
        if detection.label == label and box_overlap(detection.box, box) >= _DETECTED:
            yield detection.box


def _fit(
    info: BoxHeadInfo,
    settings: BoxSettings,
    images: BoxImages,
    boxes: _Boxes,
    device: torch.device,
    progress: Progress,
) -> tuple[BoxHead, list[float]]:
    def load(image_id: str) -> TrainingImage:
        maps = images.maps(image_id, info.taps, info.features, device)
        return TrainingImage(maps, images.split.size(image_id), boxes[image_id])

    scaler = Scaler(info.identity.geometry)
    image_ids = boxes.image_ids
    for image_id in progress.track(
        image_ids, total=len(image_ids), unit="images", what="measuring channels"
    ):
        scaler.add(load(image_id))
    mean, scale = scaler.mean_and_scale()
    trainer = BoxTrainer(
        len(info.targets),
        settings,
        mean,
        scale,
        geometry=info.identity.geometry,
        steps_per_epoch=-(-len(image_ids) // settings.batch_size),
    )
    losses = []
    for epoch in range(1, settings.epochs + 1):
        order = np.random.default_rng([settings.seed, epoch]).permutation(len(image_ids))
        batches = _divided([image_ids[i] for i in order], settings.batch_size)
        steps = []
        for batch in progress.track(
            batches, total=len(batches), unit="steps", what=f"epoch {epoch}/{settings.epochs}"
        ):
            with memory_named(f"one of the images {', '.join(batch)}"):
                steps.append(trainer.step([load(image_id) for image_id in batch]))
        losses.append(float(np.mean(steps)))
        progress.say(f"epoch {epoch}: training loss {losses[-1]:.4f}")
    metrics = {"losses": losses, "boxes": boxes.count}
    return BoxHead(info.model_copy(update={"metrics": metrics}), *trainer.classifiers()), losses


def _divided(image_ids: Sequence[str], size: int) -> list[Sequence[str]]:
    return [image_ids[start : start + size] for start in range(0, len(image_ids), size)]
