"""What the benchmarks work on: drawn images of natural size, heads of random weights."""

import os
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline import Backbone, Features, Head, Preprocessing, VocDataset, save_head, write_scenes
from pipeline.classifiers import Layers
from pipeline.heads import HeadInfo
from pipeline.identity import Identity
from pipeline.stages.extract import identity_of

CLASSES = 21
"""As many as PASCAL VOC has."""


def natural_scenes(root: Path, images: int, size: tuple[int, int] = (333, 500)) -> VocDataset:
    """Draw scenes as large as photographs of PASCAL VOC and store them as JPEG.

    The classes are padded with unused ones to the number that VOC has.
    """
    write_scenes(root, images=max(images, 3), seed=0, size=size)
    for path in sorted((root / "JPEGImages").glob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".jpg"), quality=92)
        path.unlink()
    _pad_classes(root)
    _list_first(root, images)
    return VocDataset.open(root)


def natural_crowd(root: Path, images: int) -> VocDataset:
    """Make a data set of images as :func:`natural_scenes` draws, links to fifty of them at most.

    Split ``train`` has all of them, ``val`` as well.
    """
    drawn = natural_scenes(root.with_name(f"{root.name}-drawn"), min(50, images)).root
    return _linked(root, drawn, images)


def crowd(root: Path, images: int, side: int = 32) -> VocDataset:
    """Make a data set of very many small images, links to a hundred drawn ones at most.

    Split ``train`` has all of them, ``val`` as well.
    """
    drawn = root.with_name(f"{root.name}-drawn")
    write_scenes(drawn, images=max(3, min(100, images)), seed=0, size=(side, side))
    return _linked(root, drawn, images)


def drawn(folder: Path, draw: Callable[[Path, int], VocDataset], images: int) -> Path:
    """Make a data set in ``folder/data``, unless a run that was stopped has, and give its path."""
    mark = folder / "drawn"
    if not mark.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        draw(folder / "data", images)
        mark.touch()
    return folder / "data"


def _linked(root: Path, drawn: Path, images: int) -> VocDataset:
    """Make a data set of very many names for the images of another one."""
    names = [f"image_{n:06d}" for n in range(images)]
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).mkdir(parents=True)
        files = sorted((drawn / folder).iterdir())
        for name, file in zip(names, cycle(files), strict=False):
            os.link(file, root / folder / f"{name}{file.suffix}")
    (root / "classes.txt").write_text((drawn / "classes.txt").read_text())
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")
    return VocDataset.open(root)


def random_head(
    path: Path,
    identity: Identity,
    *,
    hidden: int | None = 512,
    features: Features | None = None,
) -> Head:
    """Write a dense head of random weights that keep the scale of their inputs.

    Parameters
    ----------
    path : Path
        The file.
    identity : Identity
        Of the cache it might have been made from.
    hidden : int or None
        Units of the hidden layer; None for a logistic regression, which has none.
    features : Features, optional
        The default ones if not given.
    """
    features = features or Features()
    info = HeadInfo(stage="dense", estimator="mlp", identity=identity, features=features)
    widths = [sum(info.channels), *([hidden] if hidden else []), len(identity.classes)]
    rng = np.random.default_rng(0)
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    layers = Layers(
        weights=tuple(rng.normal(0, (2 / inputs) ** 0.5, (n, inputs)) for n, inputs in pairs),
        biases=tuple(rng.normal(0, 0.1, n) for n, _ in pairs),
        input_mean=np.zeros(widths[0]),
        input_scale=np.ones(widths[0]),
        activation="relu",
    )
    head = Head.from_layers(layers, info)
    save_head(path, head)
    return head


def identity_for(
    dataset: VocDataset, backbone: Backbone, preprocessing: Preprocessing, dtype: str = "float16"
) -> Identity:
    """Give the identity of the cache that would be made of these."""
    return identity_of(dataset, backbone, preprocessing, geometry="half_pixel", dtype=dtype)


def _pad_classes(root: Path) -> None:
    lines = (root / "classes.txt").read_text().splitlines()
    names = [line for line in lines if not line.startswith("#")]
    names += [f"unused {n}" for n in range(len(names), CLASSES)]
    rest = [line for line in lines if line.startswith("#")]
    (root / "classes.txt").write_text("\n".join([*names, *rest]) + "\n")


def _list_first(root: Path, images: int) -> None:
    names = [f"scene_{n:04d}" for n in range(images)]
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
