"""How near predicted keypoints are: PCK and APK.

Both are by Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", TPAMI
2013. A keypoint is right if it is off by no more than ``alpha max(h, w)``, with h and w the sides
of the object's box. PCK is the share of right ones given the objects' boxes; APK is the average
precision of candidates, of which one in a box that no object is in is wrong as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pipeline.boxes.average_precision import Ranking
from pipeline.data import AnnotatedObject
from pipeline.metrics import mean_of_defined


class Place(NamedTuple):
    """Where a keypoint is predicted, in pixels of the image, and how sure that is."""

    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Pose:
    """The keypoints that are predicted in one box, by name, for an object of a class."""

    label: int
    places: Mapping[str, Place]


class KeypointScores:
    """Keypoints measured against the objects of any number of images.

    Parameters
    ----------
    classes : sequence of str
        Index = label.
    alpha : float
        How far a keypoint may be off, in parts of the longer side of the object's box.
    """

    def __init__(self, classes: Sequence[str], alpha: float) -> None:
        self._classes, self._alpha = tuple(classes), alpha
        self._right: dict[tuple[int, str], list[float]] = {}
        self._rankings: dict[tuple[int, str], Ranking] = {}

    def add(
        self,
        objects: Sequence[AnnotatedObject],
        given_box: Sequence[Pose],
        candidates: Sequence[Pose],
    ) -> None:
        """Take in an image.

        Parameters
        ----------
        objects : sequence of AnnotatedObject
        given_box : sequence of Pose
            What was predicted in the box of each object. A keypoint that is missing is wrong.
        candidates : sequence of Pose
            What APK ranks.
        """
        # The objects that show a keypoint, for each one that an object shows or a pose predicts.
        shown: dict[tuple[int, str], list[AnnotatedObject]] = {
            (pose.label, name): [] for pose in candidates for name in pose.places
        }
        for thing, pose in zip(objects, given_box, strict=True):
            label = self._classes.index(thing.name)
            for name, keypoint in thing.keypoints.items():
                if keypoint.visible:
                    shown.setdefault((label, name), []).append(thing)
                    place = pose.places.get(name)
                    right = place is not None and _distance(place, thing, name) <= self._alpha
                    self._right.setdefault((label, name), []).append(float(right))
        for (label, name), true in shown.items():
            places = [p.places[name] for p in candidates if p.label == label and name in p.places]
            fit = [[-_distance(place, thing, name) for thing in true] for place in places]
            self._rankings.setdefault((label, name), Ranking()).add(
                np.array(fit).reshape(len(places), len(true)),
                np.array([place.score for place in places]),
                -self._alpha,
            )

    def summary(self) -> dict[str, Any]:
        """Give the figures: None for a keypoint that no object shows, which does not count."""
        right = {key: mean_of_defined(values) for key, values in self._right.items()}
        precision = {key: ranking.average_precision() for key, ranking in self._rankings.items()}
        return {
            "mean_pck": mean_of_defined(right.values()),
            "mean_apk": mean_of_defined(precision.values()),
            "pck": self._by_class(right),
            "apk": self._by_class(precision),
            "keypoints": sum(map(len, self._right.values())),
            "alpha": self._alpha,
        }

    def _by_class(
        self, values: Mapping[tuple[int, str], float | None]
    ) -> dict[str, dict[str, float | None]]:
        found: dict[str, dict[str, float | None]] = {}
        for label, name in sorted(values):
            found.setdefault(self._classes[label], {})[name] = values[label, name]
        return found


def _distance(place: Place, thing: AnnotatedObject, name: str) -> float:
    """Give how far off a place is, in parts of the longer side of the object's box."""
    keypoint, side = thing.keypoints[name], max(thing.box.width, thing.box.height)
    return float(np.hypot(place.x - keypoint.x, place.y - keypoint.y)) / side
