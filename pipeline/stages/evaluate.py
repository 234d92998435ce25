"""Measure a head on a cached split: at the cache's resolution and at each image's own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.cache import CachedSplit, FeatureCache
from pipeline.heads import Head, load_head
from pipeline.hypercolumn import labels_of
from pipeline.metrics import ConfusionMatrix
from pipeline.progress import Progress, Silent
from pipeline.refinement import Refinement, choose_refinement
from pipeline.stages.device import choose_device, memory_named
from pipeline.stages.training_images import measured
from pipeline.wholefile import write_whole


def evaluate(
    cache: Path | str,
    head: Path | str,
    *,
    split: str = "val",
    refine: str | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a head on every image of a cached split; void pixels do not count.

    Parameters
    ----------
    cache : Path or str
        A cache's directory.
    head : Path or str
        A head made from a cache of the same identity.
    split : str
        Which images: a split, or ``"held-out"``, the training images that the head was not fitted
        on.
    refine : str, optional
        What corrects the predictions by the image, see
        :func:`pipeline.refinement.parse_refinement`.
    out : Path or str, optional
        Where to write the result as JSON.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    trusted : sequence of str
        See :func:`pipeline.heads.load_head`.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    dict
        The keys of :meth:`pipeline.metrics.ConfusionMatrix.summary` at original resolution, the
        official VOC protocol; the same at the network's input size under ``cache_resolution``;
        and what was measured on what.

    Raises
    ------
    CacheMismatchError
        If the head was made from a cache of another identity.
    HeadError
        If it held no images out, but is to be measured on those.
    ParamsError
        If ``refine`` is no refinement, names a class that there is not, or needs what is not
        installed.
    """
    progress = progress or Silent()
    opened = FeatureCache(cache)
    refinement = choose_refinement(refine, len(opened.identity.classes))
    where = choose_device(device)
    loaded = load_head(head, trusted=trusted).to(where)
    opened.require(loaded.info.identity, what=f"the head {head}")
    chosen = measured(opened, loaded, split)
    images = chosen.split
    classes, void = opened.identity.classes, opened.identity.void
    original, cached = (ConfusionMatrix(len(classes), void) for _ in range(2))
    for image_id in progress.track(
        chosen.image_ids, total=len(chosen.image_ids), unit="images", what=f"evaluating {split}"
    ):
        scores = score_image(loaded, images, image_id, where, refinement)
        cached.update(images.label(image_id), labels_of(scores))
        truth = images.label_original(image_id)
        original.update(truth, labels_of(scores, (truth.shape[0], truth.shape[1])))
    opened.close()
    result = {
        **original.summary(classes),
        "cache_resolution": cached.summary(classes),
        "split": split,
        "images": len(chosen.image_ids),
        "refine": None if refinement is None else str(refinement),
        "head": {
            "stage": loaded.info.stage,
            "estimator": loaded.info.estimator,
            "selected_on": loaded.info.selected_on,
        },
        "fingerprint": opened.identity.fingerprint,
    }
    if out is not None:
        write_whole(Path(out), json.dumps(result, indent=2) + "\n")
    return result


def score_image(
    head: Head,
    split: CachedSplit,
    image_id: str,
    device: torch.device,
    refinement: Refinement | None = None,
) -> Tensor:
    """Score every pixel of a cached image, (n_classes, H, W), at the network's input size.

    What is refined are probabilities; see :meth:`pipeline.heads.Head.scores` for what the scores
    are otherwise.
    """
    height, width = split.size(image_id)
    with memory_named(image_id):
        maps = [torch.from_numpy(m).to(device) for m in split.maps(image_id, head.taps)]
        scores = head.scores(maps, (height, width))
    if refinement is None:
        return scores
    return refinement(head.probabilities(scores), split.image(image_id))
