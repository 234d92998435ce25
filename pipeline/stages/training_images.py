"""Which images of a cache a head is trained, validated and measured on."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.cache import CachedSplit, FeatureCache
from pipeline.errors import HeadError
from pipeline.heads import Head
from pipeline.training import Team, TrainSettings

HELD_OUT = "held-out"
"""In place of a split's name: the training images that the initial head was not fitted on."""


@dataclass(frozen=True)
class Images:
    """Some of the images of a cached split."""

    name: str
    split: CachedSplit
    image_ids: tuple[str, ...]


def divided(
    cache: FeatureCache, begin: Head, split: str, validate_on: str | None
) -> tuple[Images, Images | None]:
    """Choose the images to train and to validate on.

    Parameters
    ----------
    cache : FeatureCache
    begin : Head
        The head to begin with, which may have held images out.
    split : str
        The training images.
    validate_on : str or None
        Another split, :data:`HELD_OUT`, or nothing.

    Raises
    ------
    CacheNotFoundError
        If the cache has no such split.
    HeadError
        If the head held no image out, but those are to be validated on.
    """
    cached = cache[split]
    ids = cached.image_ids
    if validate_on is None:
        return Images(split, cached, ids), None
    if validate_on != HELD_OUT:
        other = cache[validate_on]
        return Images(split, cached, ids), Images(validate_on, other, other.image_ids)
    validation = _held_out(cache, begin, split)
    rest = tuple(i for i in ids if i not in set(validation.image_ids))
    return Images(split, cached, rest), validation


def measured(cache: FeatureCache, head: Head, split: str) -> Images:
    """Choose the images to measure a head on.

    Parameters
    ----------
    cache : FeatureCache
    head : Head
    split : str
        A split, or :data:`HELD_OUT`.

    Raises
    ------
    CacheNotFoundError, HeadError
        As :func:`divided` raises them.
    """
    if split != HELD_OUT:
        return Images(split, cache[split], cache[split].image_ids)
    of = str(head.info.settings.get("split", "train"))
    return _held_out(cache, head, of)


def _held_out(cache: FeatureCache, head: Head, split: str) -> Images:
    held = set(head.info.held_out)
    if HELD_OUT in cache.splits:
        raise HeadError(
            f"the cache has a split of its own called '{HELD_OUT}', which means the images that "
            "a head was not fitted on; rename its file in ImageSets and extract it again"
        )
    cached = cache[split]
    ids = tuple(i for i in cached.image_ids if i in held)
    if not ids:
        raise HeadError(
            f"the head held out no image of '{split}'; have some held out by fit-sparse "
            "--holdout 0.1 and fit-dense --validate-on held-out, or take another split"
        )
    return Images(HELD_OUT, cached, ids)


def class_pixels(images: Images, settings: TrainSettings, team: Team) -> Tensor:
    """Count the pixels of each class, void left out; the processes of a team divide the images.

    Returns
    -------
    Tensor of int64, shape (n_classes,)
        Void pixels are of class 0 where the settings say so.
    """
    identity = images.split.identity
    counts = np.zeros(256, np.int64)
    for image_id in team.share(images.image_ids):
        label = images.split.label(image_id, void_as_background=settings.void_as_background)
        counts += np.bincount(label[label != identity.void], minlength=256)
    return team.total(torch.from_numpy(counts[: len(identity.classes)]))
