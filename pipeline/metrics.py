"""How well predicted label maps agree with the truth.

Everything is computed from one confusion matrix over all pixels of all images, as in the PASCAL
VOC protocol [1]_ and by Long, Shelhamer and Darrell [2]_. With ``n[i, j]`` the number of pixels of
class ``i`` predicted as ``j``, ``t[i] = sum_j n[i, j]`` the truth and ``p[i] = sum_j n[j, i]`` the
predictions of class ``i``:

=======================  ==================================================
pixel accuracy           ``sum_i n[i, i] / sum_i t[i]``
class accuracy           ``n[i, i] / t[i]``, its mean over ``t[i] > 0``
IoU                      ``n[i, i] / (t[i] + p[i] - n[i, i])``, TP / (TP + FP + FN)
frequency-weighted IoU   ``sum_i t[i] IoU[i] / sum_i t[i]``
=======================  ==================================================

A class that occurs neither in the truth nor in the predictions has no IoU and does not count in the
mean. What is not defined is ``None``, never NaN, which JSON does not have.

References
----------
.. [1] M. Everingham et al., "The PASCAL Visual Object Classes Challenge: A Retrospective",
   IJCV 2015.
.. [2] J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation",
   CVPR 2015, section 5.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self, TypedDict

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError, HeadError, ParamsError


class Summary(TypedDict):
    """The numbers of one evaluation, ready for JSON; ``None`` where a number is not defined."""

    pixel_accuracy: float | None
    mean_class_accuracy: float | None
    mean_iou: float | None
    frequency_weighted_iou: float | None
    classes_counted: int
    iou: dict[str, float | None]
    class_accuracy: dict[str, float | None]
    confusion_matrix: list[list[int]]


class ConfusionMatrix:
    """Pixels counted by true and predicted class, over any number of images.

    Parameters
    ----------
    n_classes : int
        Number of classes; labels run from 0 to ``n_classes - 1``.
    void : int
        True label of the pixels that do not count.

    Attributes
    ----------
    counts : (n_classes, n_classes) int64 array
        Pixels counted so far: truth in rows, prediction in columns.

    Examples
    --------
    >>> matrix = ConfusionMatrix(2)
    >>> matrix.update(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 0]]))
    >>> matrix.counts.tolist()
    [[1, 1], [0, 1]]
    >>> matrix.summary(["background", "cat"])["iou"]
    {'background': 0.5, 'cat': 0.5}
    """

    counts: npt.NDArray[np.int64]

    def __init__(self, n_classes: int, void: int = 255) -> None:
        if n_classes < 1:
            raise ParamsError(f"a confusion matrix needs at least one class, not {n_classes}")
        self.n_classes = n_classes
        self.void = void
        self.counts = np.zeros((n_classes, n_classes), np.int64)

    def update(
        self, truth: npt.NDArray[np.uint8], prediction: npt.NDArray[np.integer[Any]]
    ) -> None:
        """Count the pixels of one image.

        Parameters
        ----------
        truth : (H, W) uint8 array
            True labels; pixels that are `void` are left out.
        prediction : (H, W) integer array
            Predicted labels, all of them from 0 to ``n_classes - 1``, under void pixels too.

        Raises
        ------
        DataError
            The shapes differ, or the truth holds a label that is neither a class nor void.
        HeadError
            The prediction holds something else than class indices.
        """
        if truth.shape != prediction.shape:
            raise DataError(
                f"the truth is {truth.shape} and the prediction {prediction.shape}: "
                "resample the prediction to the size of the truth"
            )
        if not np.issubdtype(prediction.dtype, np.integer):
            raise HeadError(f"predictions must be class indices, not {prediction.dtype}")
        if prediction.size and not 0 <= prediction.min() <= prediction.max() < self.n_classes:
            raise HeadError(
                f"a predicted label lies outside 0..{self.n_classes - 1} "
                f"(found {prediction.min()}..{prediction.max()}): use a head made for these classes"
            )
        counted = truth != self.void
        true = truth[counted].astype(np.int64)
        if true.size and not 0 <= true.min() <= true.max() < self.n_classes:
            raise DataError(
                f"a true label lies outside 0..{self.n_classes - 1} and is not void ({self.void}), "
                f"found {true.min()}..{true.max()}: name all classes of the data set"
            )
        pairs = true * self.n_classes + prediction[counted].astype(np.int64)
        self.counts += np.bincount(pairs, minlength=self.n_classes**2).reshape(self.counts.shape)

    def __iadd__(self, other: Self) -> Self:
        """Add the pixels that another matrix of as many classes has counted.

        Raises
        ------
        ParamsError
            The other matrix has another number of classes.
        """
        if other.n_classes != self.n_classes:
            raise ParamsError(
                f"matrices of {self.n_classes} and {other.n_classes} classes do not add up"
            )
        self.counts += other.counts
        return self

    def summary(self, class_names: Sequence[str]) -> Summary:
        """Return every number of the module's table, by class name where there is one per class.

        Raises
        ------
        DataError
            There are not as many names as classes, or a name occurs twice.
        """
        names = list(class_names)
        if len(names) != self.n_classes:
            raise DataError(f"{len(names)} class names were given for {self.n_classes} classes")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"class names occur more than once: {', '.join(twice)}; rename them")
        hits = np.diagonal(self.counts)
        truth = self.counts.sum(axis=1)
        union = truth + self.counts.sum(axis=0) - hits
        accuracy = _ratios(hits, truth)
        iou = _ratios(hits, union)
        total = int(truth.sum())
        weighted = sum(t * i for t, i in zip(truth.tolist(), iou, strict=True) if i is not None)
        return {
            "pixel_accuracy": int(hits.sum()) / total if total else None,
            "mean_class_accuracy": mean_of_defined(accuracy),
            "mean_iou": mean_of_defined(iou),
            "frequency_weighted_iou": weighted / total if total else None,
            "classes_counted": int(np.count_nonzero(union)),
            "iou": dict(zip(names, iou, strict=True)),
            "class_accuracy": dict(zip(names, accuracy, strict=True)),
            "confusion_matrix": self.counts.tolist(),
        }


def mean_iou_over(summary: Summary, names: Iterable[str]) -> float | None:
    """Return the mean IoU over some of the classes.

    Parameters
    ----------
    summary : Summary
        What `ConfusionMatrix.summary` returned, or the same read back from JSON.
    names : iterable of str
        Classes to average over; those that are absent (IoU ``None``) do not count.

    Returns
    -------
    float or None
        ``None`` when none of the classes is present.

    Raises
    ------
    ParamsError
        A name is not a class of the summary.
    """
    wanted = dict.fromkeys(names)  # each class once, in order
    if unknown := [name for name in wanted if name not in summary["iou"]]:
        raise ParamsError(
            f"no such class: {', '.join(unknown)}; the classes are {', '.join(summary['iou'])}"
        )
    return mean_of_defined([summary["iou"][name] for name in wanted])


def _ratios(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> list[float | None]:
    return [p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]


def mean_of_defined(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there is none."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
