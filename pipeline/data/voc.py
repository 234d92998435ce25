"""Data sets in the layout of PASCAL VOC: images, palette masks, and split files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.annotations import AnnotatedObject, read_annotation
from pipeline.data.images import image_size, read_image
from pipeline.data.instances import Instances, find_instances
from pipeline.data.labels import require_labels, require_size
from pipeline.data.layout import ANNOTATIONS, IMAGES, INSTANCE_MASKS, MASKS, SPLITS, require_layout
from pipeline.data.listings import parse_classes, parse_split, require_classes
from pipeline.data.palette import read_mask
from pipeline.errors import DataError
from pipeline.names import has_control_characters

__all__ = ["VOC_CLASSES", "VocDataset", "parse_split"]

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The classes of PASCAL VOC, index = label."""

DEFAULT_VOID = 255
_SPLIT_BYTES = 200  # of 255, since the names of a shard's files hold up to 43 more


class LabelledImage(NamedTuple):
    """An image and its mask.

    Attributes
    ----------
    image
        ``(H, W, 3)`` uint8 RGB.
    mask
        ``(H, W)`` uint8 labels.
    image_path, mask_path
        Their files.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.uint8]
    image_path: Path
    mask_path: Path


@dataclass(frozen=True)
class VocDataset:
    """A data set in the VOC layout.

    ::

        ROOT/JPEGImages/<image id>.jpg           or .jpeg or .png, in any case
        ROOT/SegmentationClass/<image id>.png    class indices, mode P or L
        ROOT/ImageSets/Segmentation/<split>.txt  one image id per line
        ROOT/classes.txt                         optional: one class name per line
        ROOT/SegmentationObject/<image id>.png   optional: numbers of objects, mode P or L
        ROOT/Annotations/<image id>.xml          optional: boxes and keypoints of objects

    Masks are needed only where they are read: a test split may have none.

    Attributes
    ----------
    root
        Folder that holds JPEGImages and ImageSets.
    classes
        Class names, index = label.
    void
        Label of pixels that do not count, 0 to 255.
    """

    root: Path
    classes: tuple[str, ...]
    void: int = DEFAULT_VOID

    @classmethod
    def open(
        cls, root: str | Path, *, classes: Sequence[str] | None = None, void: int | None = None
    ) -> "VocDataset":
        """Open a data set.

        Parameters
        ----------
        root
            Folder that holds JPEGImages and ImageSets.
        classes
            Class names, index = label. If None, those in ``ROOT/classes.txt`` (a line
            ``# void: 255`` there may name the void label), else the 21 of PASCAL VOC.
        void
            Label of pixels that do not count. If None, the one in ``classes.txt``, else 255.

        Returns
        -------
        VocDataset
            The data set; no image has been read yet.

        Raises
        ------
        DataError
            If the folder is not in the VOC layout, or the classes or the void label cannot be used.
        """
        root = Path(root)
        require_layout(root)
        listing = root / "classes.txt"
        # A link that leads nowhere is a mistake, not a data set without class names of its own.
        has_listing = os.path.lexists(listing)
        named, named_void = parse_classes(listing) if has_listing else (VOC_CLASSES, None)
        source = listing if classes is None and has_listing else root
        chosen = named if classes is None else tuple(classes)
        chosen_void = next((v for v in (void, named_void) if v is not None), DEFAULT_VOID)
        require_classes(source, chosen, chosen_void)
        return cls(root=root, classes=chosen, void=chosen_void)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted.

        Raises
        ------
        DataError
            If a split file's name cannot be printed.
        """
        folder = self.root / SPLITS
        names = sorted(p.stem for p in folder.glob("*.txt") if not p.name.startswith("."))
        for name in names:
            if has_control_characters(name):
                raise DataError(
                    f"{folder}: the split file {name + '.txt'!r} has control characters in its"
                    " name: rename it"
                )
        return tuple(names)

    def split_path(self, split: str) -> Path:
        """Return the file that lists a split's images.

        Raises
        ------
        DataError
            If there is none, or its name is too long.
        """
        known = self.splits()
        if split not in known:
            raise DataError(
                f"{self.root / SPLITS} has no split {split!r}:"
                f" choose one of {', '.join(known) or '(none there)'}"
            )
        path = self.root / SPLITS / f"{split}.txt"
        if len(split.encode()) > _SPLIT_BYTES:
            raise DataError(
                f"{path}: the split's name is longer than {_SPLIT_BYTES} bytes: rename the file"
            )
        return path

    def image_ids(self, split: str) -> tuple[str, ...]:
        """Return the image ids of a split, in the order of its file.

        Raises
        ------
        DataError
            If the split does not exist, is empty, or has a line that is no image id.
        """
        path = self.split_path(split)
        ids, problems = parse_split(path)
        if problems:
            raise DataError(f"{path}: {problems[0]}")
        return ids

    def image_path(self, image_id: str) -> Path:
        """Return the path of an image file.

        Raises
        ------
        DataError
            If there is none, there are two, or it is no file that can be read.
        """
        return IMAGES.path(self.root, image_id)

    def mask_path(self, image_id: str) -> Path:
        """Return the path of a mask file.

        Raises
        ------
        DataError
            If there is none, there are two, or it is no file that can be read.
        """
        return MASKS.path(self.root, image_id)

    def read_image(self, image_id: str) -> npt.NDArray[np.uint8]:
        """Read an image, ``(H, W, 3)`` uint8 RGB; see `pipeline.data.images.read_image`.

        Raises
        ------
        DataError
            If the image is missing or cannot be read.
        """
        return read_image(self.image_path(image_id))

    def read_mask(self, image_id: str) -> npt.NDArray[np.uint8]:
        """Read a mask, ``(H, W)`` uint8 labels.

        Raises
        ------
        DataError
            If the mask is missing or unreadable, is not of its image's size, has a label that is
            neither a class nor void, or is all void.
        """
        path, image_path = self.mask_path(image_id), self.image_path(image_id)
        return self._mask(path, image_path, image_size(image_path))

    def read_labelled(self, image_id: str) -> LabelledImage:
        """Read an image and its mask, as :meth:`read_image` and :meth:`read_mask` do.

        Raises
        ------
        DataError
            As they do.
        """
        image_path, mask_path = self.image_path(image_id), self.mask_path(image_id)
        image = read_image(image_path)
        mask = self._mask(mask_path, image_path, (image.shape[0], image.shape[1]))
        return LabelledImage(image, mask, image_path, mask_path)

    def _mask(self, path: Path, image_path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        mask = read_mask(path)
        require_size(path, mask, image_path, size)
        require_labels(path, mask, n_classes=len(self.classes), void=self.void)
        return mask

    def read_instances(self, image_id: str) -> Instances:
        """Read which pixels belong to which object, and each object's class and box.

        Raises
        ------
        DataError
            If a mask is missing, unreadable or not of its image's size, an object has no class, or
            the annotation file is another image's or cannot be read.
        """
        path, image_path = INSTANCE_MASKS.path(self.root, image_id), self.image_path(image_id)
        mask = read_mask(path)
        require_size(path, mask, image_path, image_size(image_path))
        has_annotation = ANNOTATIONS.holds(self.root, image_id)
        annotated = self.read_annotation(image_id) if has_annotation else None
        labels = self.read_mask(image_id)
        return find_instances(path, mask, labels, annotated, self.classes, self.void)

    def read_annotation(self, image_id: str) -> tuple[AnnotatedObject, ...]:
        """Read the objects of an image as its annotation file lists them.

        Raises
        ------
        DataError
            If the file is missing or cannot be read, or an object is of no known class or lies
            outside the image.
        """
        path = ANNOTATIONS.path(self.root, image_id)
        height, width = image_size(self.image_path(image_id))
        objects = read_annotation(path)
        for number, found in enumerate(objects, start=1):
            left, top, right, bottom = found.box
            if found.name not in self.classes[1:]:
                raise DataError(
                    f"{path}: object {number} is a {found.name!r}, which is no class here:"
                    " correct the file, or name the class in classes.txt"
                )
            if left < 0 or top < 0 or right > width or bottom > height:
                raise DataError(
                    f"{path}: object {number} has a box that leaves its image of {width}x{height}"
                    " pixels: correct the file"
                )
        return objects
