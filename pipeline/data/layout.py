"""Where the files of a data set lie: the folders of PASCAL VOC."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.files import list_folder, require_file
from pipeline.data.images import IMAGE_SUFFIXES
from pipeline.errors import DataError

SPLITS = Path("ImageSets", "Segmentation")
"""The folder of the files that list the images of each split."""


@dataclass(frozen=True)
class Part:
    """A folder with one file for an image, called like it.

    Attributes
    ----------
    folder
        Its name, in the data set's root.
    suffixes
        What the files' names may end in, in any case.
    """

    folder: str
    suffixes: tuple[str, ...]

    def path(self, root: Path, image_id: str) -> Path:
        """Return the path of an image's file.

        Suffixes in lower or in upper case are looked for first. Beside one of these another in
        mixed case (``a.Png``) is not seen: no folder is listed for every image.

        Raises
        ------
        DataError
            If there is none, there are two, or it is no file that can be read.
        """
        folder, upper = root / self.folder, [suffix.upper() for suffix in self.suffixes]
        names = [f"{folder}{os.sep}{image_id}{suffix}" for suffix in (*self.suffixes, *upper)]
        found = [Path(name) for name in names if os.path.lexists(name)]
        if not found and folder.is_dir():
            found = [
                path
                for path in list_folder(folder)
                if path.stem == image_id and path.suffix.lower() in self.suffixes
            ]
        if others := [path.name for path in found[1:] if not _are_one(path, found[0])]:
            raise DataError(
                f"{found[0]} and {others[0]} are both there for one image: remove one of them"
            )
        if found:
            require_file(found[0])
            return found[0]
        hint = "restore the file, or remove it from the split"
        if Path(image_id).suffix.lower() in IMAGE_SUFFIXES:
            hint = "list image ids without a suffix"
        raise DataError(f"{folder / image_id} ({', '.join(self.suffixes)}) does not exist: {hint}")

    def holds(self, root: Path, image_id: str) -> bool:
        """Tell whether something is called like an image's file, its suffix in lower case."""
        names = [f"{image_id}{suffix}" for suffix in self.suffixes]
        return any(os.path.lexists(root / self.folder / name) for name in names)


def _are_one(path: Path, other: Path) -> bool:
    """Tell whether two names are of one file, as on disks where case counts for nothing."""
    try:
        return os.path.samestat(path.lstat(), other.lstat()) or path.samefile(other)
    except OSError:
        return False


IMAGES = Part("JPEGImages", (".jpg", ".jpeg", ".png"))
MASKS = Part("SegmentationClass", (".png",))
INSTANCE_MASKS = Part("SegmentationObject", (".png",))
ANNOTATIONS = Part("Annotations", (".xml",))


def require_layout(root: Path) -> None:
    """Raise DataError unless ``root`` has the VOC layout; suggest a folder nearby that has it."""

    def fits(folder: Path) -> bool:
        return (folder / IMAGES.folder).is_dir() and (folder / SPLITS).is_dir()

    if fits(root):
        return
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: name the folder that holds {IMAGES.folder}")
    below = [path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern))]
    for folder in (*below, root.absolute().parent, root.absolute().parent.parent):
        if fits(folder):
            raise DataError(f"{root} is not the root of the data set: did you mean {folder}?")
    parts = (IMAGES.folder, str(SPLITS))
    missing = " and ".join(part for part in parts if not (root / part).is_dir())
    raise DataError(f"{root} has no {missing}: name the folder that holds them")
