"""Instance masks: which pixel belongs to which object of an image.

``SegmentationObject/<image id>.png`` numbers the objects of an image 1, 2, ... in the order of its
annotation file, if it has one; 0 is background, void pixels belong to nobody. An object's class is
that of its pixels in the class mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.annotations import AnnotatedObject, Box
from pipeline.errors import DataError


@dataclass(frozen=True)
class Instance:
    """An object that has pixels in the instance mask.

    Attributes
    ----------
    number
        Its value there.
    label
        Its class.
    box
        The annotated one; where there is none, the smallest that holds its pixels.
    """

    number: int
    label: int
    box: Box


@dataclass(frozen=True)
class Instances:
    """The objects of an image, with their pixels.

    Attributes
    ----------
    mask
        ``(H, W)`` uint8: numbers of objects, 0 for background, and void.
    objects
        In the order of their numbers.
    """

    mask: npt.NDArray[np.uint8]
    objects: tuple[Instance, ...]


def find_instances(
    path: Path,
    mask: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    annotated: Sequence[AnnotatedObject] | None,
    classes: Sequence[str],
    void: int,
) -> Instances:
    """Put an instance mask, a class mask of the same size and an annotation file together.

    Parameters
    ----------
    path
        File of the instance mask, for messages.
    mask, labels
        ``(H, W)`` uint8 numbers of objects, and classes.
    annotated
        What the annotation file lists; None if there is none.
    classes, void
        The data set's.

    Raises
    ------
    DataError
        If an object has no class, or the annotation file lists another in its place.
    """
    # Pixels counted by number and class, in one pass.
    counts = np.bincount(mask.ravel().astype(np.intp) * 256 + labels.ravel(), minlength=1 << 16)
    by_class = counts.reshape(256, 256)
    by_class[:, void] = 0
    objects = []
    for number in np.unique(mask).tolist():
        if number in (0, void):
            continue
        label = int(by_class[number].argmax())
        if label == 0:
            raise DataError(
                f"{path}: object {number} is background or void in the class mask: draw it in both"
            )
        ys, xs = np.nonzero(mask == number)
        box = Box(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        if annotated is not None:
            box = _annotated_box(path, number, classes[label], box, annotated)
        objects.append(Instance(number, label, box))
    return Instances(mask, tuple(objects))


def _annotated_box(
    path: Path, number: int, name: str, extent: Box, annotated: Sequence[AnnotatedObject]
) -> Box:
    """Give the box of the object of that number, which is to be of this class and at this place."""
    if number > len(annotated):
        raise DataError(
            f"{path}: holds an object {number}, but its annotation file lists {len(annotated)}:"
            " number the objects in the order of the file"
        )
    listed = annotated[number - 1]
    box = listed.box
    apart = box.right <= extent.left or extent.right <= box.left
    apart = apart or box.bottom <= extent.top or extent.bottom <= box.top
    if listed.name != name or apart:
        raise DataError(
            f"{path}: object {number} is a {name} at {_corners(extent)}, but the annotation file"
            f" lists a {listed.name} at {_corners(box)} there:"
            " number the objects in the order of the file"
        )
    return box


def _corners(box: Box) -> str:
    return "({:g}, {:g}, {:g}, {:g})".format(*box)
