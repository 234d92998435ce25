"""Finding everything that is wrong with a data set in one go."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.images import read_image
from pipeline.data.labels import require_labels, require_size
from pipeline.data.layout import ANNOTATIONS, IMAGES, INSTANCE_MASKS, MASKS, SPLITS
from pipeline.data.listings import parse_split
from pipeline.data.palette import read_mask
from pipeline.data.voc import VocDataset
from pipeline.errors import DataError
from pipeline.progress import Progress, Silent


@dataclass(frozen=True)
class Problem:
    """One thing to mend in a data set.

    Attributes
    ----------
    split
        The splits that are concerned, separated by commas.
    image_id
        The image that is concerned; empty if it is the split file.
    path
        The file to mend, or where it should be.
    what
        The file, what is wrong with it, and the remedy, in one line.
    """

    split: str
    image_id: str
    path: Path
    what: str


def check_dataset(dataset: VocDataset, *, progress: Progress | None = None) -> list[Problem]:
    """Read every split file, image and mask, and list every problem.

    Instance masks and annotation files are read where they are there.

    An image that several splits list is read once. Splits whose name begins with ``test`` may be
    without masks altogether; a mask that is there is checked.

    Parameters
    ----------
    dataset
        The data set to check.
    progress
        What to report to.

    Returns
    -------
    list of Problem
        Split files first, then images in the order of the splits; empty if all is well.
    """
    problems = []
    splits_of: dict[str, list[str]] = {}
    if not dataset.splits():
        folder = dataset.root / SPLITS
        what = f"{folder} holds no split file: write one, such as train.txt"
        problems.append(Problem("", "", folder, what))
    for split in dataset.splits():
        path = dataset.split_path(split)
        ids, wrong_lines = parse_split(path)
        problems += [Problem(split, "", path, f"{path}: {wrong}") for wrong in wrong_lines]
        for image_id in ids:
            splits_of.setdefault(image_id, []).append(split)
    unlabelled = {
        split
        for split in dataset.splits()
        if split.startswith("test")
        and not any(_has_mask(dataset, i) for i, splits in splits_of.items() if split in splits)
    }
    for image_id, splits in (progress or Silent()).track(
        splits_of.items(), total=len(splits_of), unit="images", what="checking"
    ):
        needs_mask = not unlabelled.issuperset(splits)
        found = list(_check_image(dataset, image_id, needs_mask=needs_mask))
        # Objects are compared with the image and its mask, so these come first.
        found += [] if found else _check_objects(dataset, image_id)
        problems += [Problem(", ".join(splits), image_id, path, what) for path, what in found]
    return problems


def _has_mask(dataset: VocDataset, image_id: str) -> bool:
    """Tell whether an image has a mask file."""
    try:
        dataset.mask_path(image_id)
    except DataError:
        return False
    return True


def _check_image(
    dataset: VocDataset, image_id: str, *, needs_mask: bool
) -> Iterator[tuple[Path, str]]:
    """Yield each file of an image that is not in order, and what is wrong with it."""
    size = None
    image_path = dataset.root / IMAGES.folder / image_id
    try:
        image_path = dataset.image_path(image_id)
        height, width, _ = read_image(image_path).shape
        size = (height, width)
    except DataError as error:
        yield image_path, str(error)
    if not needs_mask and not _has_mask(dataset, image_id):
        return
    path = dataset.root / MASKS.folder / image_id
    try:
        path = dataset.mask_path(image_id)
        mask = read_mask(path)
    except DataError as error:
        yield path, str(error)
        return
    # Apart, so that a mask of the wrong size is searched for wrong labels too.
    try:
        require_labels(path, mask, n_classes=len(dataset.classes), void=dataset.void)
    except DataError as error:
        yield path, str(error)
    if size is None:
        return
    try:
        require_size(path, mask, image_path, size)
    except DataError as error:
        yield path, str(error)


def _check_objects(dataset: VocDataset, image_id: str) -> list[tuple[Path, str]]:
    """List each file on the objects of an image that is not in order, and what is wrong with it."""
    for part, read in (
        (ANNOTATIONS, dataset.read_annotation),
        (INSTANCE_MASKS, dataset.read_instances),
    ):
        if part.holds(dataset.root, image_id):
            try:
                read(image_id)
            except DataError as error:
                path = dataset.root / part.folder / f"{image_id}{part.suffixes[0]}"
                return [(path, str(error))]
    return []
