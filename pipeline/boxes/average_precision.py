"""Average precision of ranked candidates, each of which finds a true object or does not.

This is PASCAL VOC's measure since 2010: a candidate belongs to the true object that it fits best;
going down the ranking, the first candidate that fits an object well enough finds it, all others are
false; the average precision is the area under the precision-recall curve, made monotonous. Applied
to regions it is AP^r (Hariharan et al., "Simultaneous Detection and Segmentation", ECCV 2014), to
keypoints APK (Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts",
TPAMI 2013).
"""

import numpy as np
from numpy.typing import NDArray


def find(fit: NDArray[np.float64], scores: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Tell which candidates of an image find one of its true objects.

    Parameters
    ----------
    fit : array of shape (candidates, objects)
        How well each fits each: an overlap, or a distance taken negative.
    scores : array of shape (candidates,)
    least : float
        The fit that is enough.

    Returns
    -------
    array of bool, shape (candidates,)
    """
    found = np.zeros(len(scores), dtype=np.bool_)
    taken = np.zeros(fit.shape[1], dtype=np.bool_)
    if not fit.shape[1]:
        return found
    for candidate in np.argsort(-scores, kind="stable"):
        best = fit[candidate].argmax()
        if fit[candidate, best] >= least and not taken[best]:
            found[candidate] = taken[best] = True
    return found


def average_precision(
    scores: NDArray[np.float64], found: NDArray[np.bool_], objects: int
) -> float | None:
    """Compute the area under the precision-recall curve.

    Parameters
    ----------
    scores : array of shape (candidates,)
        Of all images; of equal ones the first ranks higher.
    found : array of bool, shape (candidates,)
        What :func:`find` gave.
    objects : int
        True objects, found or not.

    Returns
    -------
    float or None
        None if there is no true object.
    """
    if not objects:
        return None
    hits = found[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[hits].sum() / objects)  # recall rises by 1 / objects at each hit


class Ranking:
    """Candidates and true objects of one kind, over any number of images."""

    def __init__(self) -> None:
        self._scores: list[float] = []
        self._found: list[bool] = []
        self._objects = 0

    def add(self, fit: NDArray[np.float64], scores: NDArray[np.float64], least: float) -> None:
        """Take in an image: what :func:`find` takes."""
        self._scores += scores.tolist()
        self._found += find(fit, scores, least).tolist()
        self._objects += fit.shape[1]

    def average_precision(self) -> float | None:
        """Give the average precision, None if there was no true object."""
        scores, found = np.array(self._scores), np.array(self._found, dtype=np.bool_)
        return average_precision(scores, found, self._objects)
