"""How a head that is being trained does on the images that choose its epoch."""

from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from pipeline.classifiers import MISSING_CLASS_LOGIT
from pipeline.heads import Head
from pipeline.hypercolumn import labels_of
from pipeline.metrics import ConfusionMatrix
from pipeline.stages.evaluate import score_image
from pipeline.stages.training_images import Images
from pipeline.training import DenseTrainer, Team

_NEVER_LEARNT = -MISSING_CLASS_LOGIT / 2
"""Nats that a class with samples does not lose at a pixel, but one without does."""


def validated(
    begin: Head, trainer: DenseTrainer, images: Images | None, team: Team
) -> dict[str, float | None]:
    """Measure a head as it is now, at the network's input size; void does not count.

    Parameters
    ----------
    begin : Head
        What the head began as.
    trainer : DenseTrainer
        What has its layers as they are now.
    images : Images or None
        What to measure on; the processes of a team divide them.
    team : Team

    Returns
    -------
    dict of str to float or None
        ``val_loss``, ``val_pixel_accuracy`` and ``val_mean_iou``, None where no pixel counts; empty
        without images. The loss is that of pixels whose class had samples: the others have a logit
        that nobody learnt, and a few of them would outweigh all else.
    """
    if images is None:
        return {}
    device = team.device
    head = replace(begin, dense=trainer.dense()).to(device)
    identity = begin.info.identity
    matrix = ConfusionMatrix(len(identity.classes), identity.void)
    loss, pixels = 0.0, 0
    for image_id in team.share(images.image_ids):
        scores = score_image(head, images.split, image_id, device)
        label = images.split.label(image_id)
        matrix.update(label, labels_of(scores))
        truth = torch.from_numpy(label).to(device).long()[None]
        losses = cross_entropy(scores[None], truth, ignore_index=identity.void, reduction="none")
        counted = (truth != identity.void) & (losses < _NEVER_LEARNT)
        loss += float(losses[counted].sum())
        pixels += int(counted.sum())
    matrix.counts = team.total(torch.from_numpy(matrix.counts)).numpy()
    loss, pixels = team.total(torch.tensor([loss, pixels], dtype=torch.float64)).tolist()
    summary = matrix.summary(identity.classes)
    return {
        "val_loss": loss / pixels if pixels else None,
        "val_pixel_accuracy": summary["pixel_accuracy"],
        "val_mean_iou": summary["mean_iou"],
    }
