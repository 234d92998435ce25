"""How a head that is being trained does on the images that choose its epoch."""

from dataclasses import replace

import torch
from torch.nn.functional import cross_entropy

from pipeline.heads import Head
from pipeline.hypercolumn import labels_of
from pipeline.metrics import ConfusionMatrix
from pipeline.stages.evaluate import score_image
from pipeline.stages.training_images import Images
from pipeline.training import DenseTrainer, Team


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
        without images.
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
        loss += float(
            cross_entropy(scores[None], truth, ignore_index=identity.void, reduction="sum")
        )
        pixels += int((label != identity.void).sum())
    matrix.counts = team.total(torch.from_numpy(matrix.counts)).numpy()
    loss, pixels = team.total(torch.tensor([loss, pixels], dtype=torch.float64)).tolist()
    summary = matrix.summary(identity.classes)
    return {
        "val_loss": loss / pixels if pixels else None,
        "val_pixel_accuracy": summary["pixel_accuracy"],
        "val_mean_iou": summary["mean_iou"],
    }
