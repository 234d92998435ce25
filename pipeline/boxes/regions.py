"""How well predicted regions fit objects: mean overlap, and AP^r.

AP^r is the average precision of regions (Hariharan et al., "Simultaneous Detection and
Segmentation", ECCV 2014): a candidate finds an object if their pixels overlap enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes.average_precision import Ranking
from pipeline.data import Instances
from pipeline.metrics import mean_of_defined

LEAST_OVERLAPS = (0.5, 0.7)
"""What is overlap enough for AP^r, as in the paper."""


@dataclass(frozen=True)
class Region:
    """Pixels that may be an object of a class.

    Attributes
    ----------
    label : int
    pixels : array of bool, shape (H, W)
    score : float
        How sure that is.
    """

    label: int
    pixels: NDArray[np.bool_]
    score: float


def overlaps(
    regions: Sequence[Region], mask: NDArray[np.uint8], numbers: Sequence[int], void: int
) -> NDArray[np.float64]:
    """Compute the intersection over union of regions with objects; void pixels do not count.

    Parameters
    ----------
    regions : sequence of Region
    mask : array of uint8, shape (H, W)
        Numbers of objects.
    numbers : sequence of int
        Those of the objects to compare with; each is in the mask.
    void : int
        Value of the pixels that do not count.

    Returns
    -------
    array of float64, shape (len(regions), len(numbers))
    """
    of_object = np.bincount(mask.ravel(), minlength=256)[list(numbers)]
    found = np.zeros((len(regions), len(numbers)))
    for row, region in enumerate(regions):
        inside = np.bincount(mask[region.pixels], minlength=256)
        inside[void] = 0
        shared = inside[list(numbers)]
        found[row] = shared / (inside.sum() + of_object - shared)
    return found


class RegionScores:
    """Regions measured against the objects of any number of images.

    Parameters
    ----------
    classes : sequence of str
        Index = label.
    void : int
        Value of pixels of instance masks that do not count.
    """

    def __init__(self, classes: Sequence[str], void: int) -> None:
        self._classes, self._void = classes, void
        self._overlaps: list[list[float]] = [[] for _ in classes]
        self._rankings = {least: [Ranking() for _ in classes] for least in LEAST_OVERLAPS}

    def add(
        self, true: Instances, given_box: Sequence[Region], candidates: Sequence[Region]
    ) -> None:
        """Take in an image.

        Parameters
        ----------
        true : Instances
        given_box : sequence of Region
            What was predicted in the box of each object.
        candidates : sequence of Region
            What AP^r ranks.
        """
        for thing, region in zip(true.objects, given_box, strict=True):
            overlap = overlaps([region], true.mask, [thing.number], self._void)
            self._overlaps[thing.label].append(float(overlap[0, 0]))
        labels = {thing.label for thing in true.objects} | {found.label for found in candidates}
        for label in sorted(labels):
            numbers = [thing.number for thing in true.objects if thing.label == label]
            of_class = [region for region in candidates if region.label == label]
            fit = overlaps(of_class, true.mask, numbers, self._void)
            scores = np.array([region.score for region in of_class])
            for least, rankings in self._rankings.items():
                rankings[label].add(fit, scores, least)

    def summary(self) -> dict[str, Any]:
        """Give the figures: None for a class without objects, which does not count in the means."""
        named = list(enumerate(self._classes))[1:]
        overlap = {name: mean_of_defined(self._overlaps[label]) for label, name in named}
        region_ap = {}
        for least, rankings in self._rankings.items():
            by_class = {name: rankings[label].average_precision() for label, name in named}
            region_ap[str(least)] = {
                "mean": mean_of_defined(by_class.values()),
                "by_class": by_class,
            }
        return {
            "mean_overlap": mean_of_defined(overlap.values()),
            "overlap": overlap,
            "region_ap": region_ap,
            "objects": sum(map(len, self._overlaps)),
        }
