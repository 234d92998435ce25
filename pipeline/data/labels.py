"""What a mask must be for its image and for the classes of its data set."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.images import is_turned
from pipeline.errors import DataError


def require_size(
    path: Path, mask: npt.NDArray[np.uint8], image_path: Path, size: tuple[int, int]
) -> None:
    """Raise DataError unless the mask of file ``path`` has its image's (height, width)."""
    if mask.shape == size:
        return
    what = f"{path} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]}"
    if mask.shape == size[::-1] and is_turned(image_path):
        raise DataError(
            f"{what}: it is drawn on the view that the EXIF orientation of {image_path} turns,"
            " which is not applied here; bake the rotation into the image file, as"
            " 'mogrify -auto-orient' does"
        )
    raise DataError(f"{what}: redraw the mask at the size of the image")


def require_labels(path: Path, mask: npt.NDArray[np.uint8], *, n_classes: int, void: int) -> None:
    """Raise DataError unless the labels in the mask of file ``path`` are classes and void.

    A mask of nothing but void is refused as well: there is nothing in it to train on or to measure.
    """
    flat = mask.ravel()
    # The first of neighbours that are alike stands for all: counting pixels takes several times as
    # long.
    first = flat[np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    present = np.flatnonzero(np.bincount(np.append(flat[:1], first), minlength=256))
    strange = [str(v) for v in present if v >= n_classes and v != void]
    if strange:
        raise DataError(
            f"{path} has labels {', '.join(strange)}, but there are {n_classes} classes"
            f" and void is {void}: correct the mask, or name the classes in classes.txt"
        )
    if np.array_equal(present, [void]):
        raise DataError(
            f"{path} has no label but void ({void}): label some of its pixels, or remove"
            " the image from the split"
        )
