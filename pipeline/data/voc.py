"""Data sets in the layout of PASCAL VOC: images, palette masks, and split files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.images import IMAGE_SUFFIXES, image_size, list_images, read_image
from pipeline.data.palette import read_mask
from pipeline.errors import DataError

__all__ = ["VOC_CLASSES", "VocDataset", "list_images", "parse_split", "read_image"]

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
_SPLITS = Path("ImageSets", "Segmentation")
_VOC_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class VocDataset:
    """A data set in the VOC layout.

    ::

        ROOT/JPEGImages/<image id>.jpg           or .jpeg or .png, in any case
        ROOT/SegmentationClass/<image id>.png    class indices, mode P or L
        ROOT/ImageSets/Segmentation/<split>.txt  one image id per line
        ROOT/classes.txt                         optional: one class name per line

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
        _require_layout(root)
        listing = root / "classes.txt"
        named, named_void = _parse_classes(listing) if listing.is_file() else (VOC_CLASSES, None)
        source = listing if classes is None and listing.is_file() else root
        chosen = named if classes is None else tuple(classes)
        chosen_void = next((v for v in (void, named_void) if v is not None), DEFAULT_VOID)
        _require_classes(source, chosen, chosen_void)
        return cls(root=root, classes=chosen, void=chosen_void)

    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits, sorted."""
        return tuple(
            sorted(
                path.stem
                for path in (self.root / _SPLITS).glob("*.txt")
                if not path.name.startswith(".")
            )
        )

    def split_path(self, split: str) -> Path:
        """Return the file that lists a split's images.

        Raises
        ------
        DataError
            If there is none.
        """
        known = self.splits()
        if split not in known:
            raise DataError(
                f"{self.root / _SPLITS} has no split {split!r}:"
                f" choose one of {', '.join(known) or '(none there)'}"
            )
        return self.root / _SPLITS / f"{split}.txt"

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
            If there is none.
        """
        return _find(self.root / "JPEGImages", image_id, _VOC_SUFFIXES)

    def mask_path(self, image_id: str) -> Path:
        """Return the path of a mask file.

        Raises
        ------
        DataError
            If there is none.
        """
        return _find(self.root / "SegmentationClass", image_id, (".png",))

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
            If the mask is missing or unreadable, is not of its image's size, or has a label that is
            neither a class nor void.
        """
        path = self.mask_path(image_id)
        mask = read_mask(path)
        self.require_size(path, mask, *image_size(self.image_path(image_id)))
        self.require_labels(path, mask)
        return mask

    @staticmethod
    def require_size(path: Path, mask: npt.NDArray[np.uint8], height: int, width: int) -> None:
        """Raise DataError unless the mask of file ``path`` has its image's height and width."""
        if mask.shape != (height, width):
            raise DataError(
                f"{path} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {width}x{height}:"
                " redraw the mask at the size of the image"
            )

    def require_labels(self, path: Path, mask: npt.NDArray[np.uint8]) -> None:
        """Raise DataError unless each label in the mask of file ``path`` is a class or void."""
        present = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        strange = [str(v) for v in present if v >= len(self.classes) and v != self.void]
        if strange:
            raise DataError(
                f"{path} has labels {', '.join(strange)}, but there are {len(self.classes)} classes"
                f" and void is {self.void}: correct the mask, or name the classes in classes.txt"
            )


def parse_split(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a split file: one image id per line, blank lines and surrounding blanks ignored.

    Parameters
    ----------
    path
        Text file in UTF-8, with any line ends.

    Returns
    -------
    ids : tuple of str
        The ids, in the order of the file, without duplicates.
    problems : tuple of str
        What is wrong with the other lines, or with the file as a whole.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return (), (f"cannot be read as UTF-8 text ({error}): write it anew",)
    first_line: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        image_id = line.strip()
        if not image_id:
            continue
        if image_id in (".", "..") or any(sign in image_id for sign in "/\\\0"):
            problems.append(f"line {number}: {image_id!r} is a path: write the bare image id")
        elif image_id in first_line:
            problems.append(
                f"line {number}: {image_id!r} is listed in line {first_line[image_id]} already:"
                " remove one of them"
            )
        else:
            first_line[image_id] = number
    if not first_line and not problems:
        problems.append("lists no image: write one image id per line")
    return tuple(first_line), tuple(problems)


def _require_layout(root: Path) -> None:
    """Raise DataError unless ``root`` has the VOC layout; suggest a folder nearby that has it."""

    def fits(folder: Path) -> bool:
        return (folder / "JPEGImages").is_dir() and (folder / _SPLITS).is_dir()

    if fits(root):
        return
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name the folder that holds JPEGImages")
    below = [path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern))]
    for folder in (*below, root.absolute().parent, root.absolute().parent.parent):
        if fits(folder):
            raise DataError(f"{root} is not the root of the data set: did you mean {folder}?")
    parts = ("JPEGImages", str(_SPLITS))
    missing = " and ".join(part for part in parts if not (root / part).is_dir())
    raise DataError(f"{root} has no {missing}: name the folder that holds them")


def _parse_classes(path: Path) -> tuple[tuple[str, ...], int | None]:
    """Read class names, and the void label if a comment names it, from ``classes.txt``."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error}): write it anew") from error
    names = []
    void = None
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line:
            raise DataError(
                f"{path} line {number} is blank: name a class there, or remove the line"
            )
        if not line.startswith("#"):
            names.append(line)
            continue
        key, _, value = line.removeprefix("#").partition(":")
        if key.strip() == "void":
            if not value.strip().isdecimal():
                raise DataError(f"{path} line {number}: void is a number, such as '# void: 255'")
            void = int(value)
    return tuple(names), void


def _require_classes(source: Path, classes: tuple[str, ...], void: int) -> None:
    """Raise DataError unless the names are distinct and they and void fit 8-bit labels."""
    if not 0 <= void <= 255:
        raise DataError(f"{source}: void is {void}: choose a label from 0 to 255")
    if not 1 <= len(classes) <= 256:
        raise DataError(f"{source}: {len(classes)} classes: name between 1 and 256")
    if not all(classes) or len(set(classes)) < len(classes):
        raise DataError(f"{source}: class names repeat or are empty: give each class its own name")


def _find(folder: Path, image_id: str, suffixes: tuple[str, ...]) -> Path:
    """Return the file of ``folder`` called ``image_id`` with one of ``suffixes``, in any case."""
    for suffix in (*suffixes, *(suffix.upper() for suffix in suffixes)):
        path = folder / f"{image_id}{suffix}"
        if path.is_file():
            return path
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.stem == image_id and path.suffix.lower() in suffixes:
                return path
    hint = "restore the file, or remove it from the split"
    if Path(image_id).suffix.lower() in IMAGE_SUFFIXES:
        hint = "list image ids without a suffix"
    raise DataError(f"{folder / image_id} ({', '.join(suffixes)}) does not exist: {hint}")
