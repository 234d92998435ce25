"""From the scores of an image's pixels to their labels, at the image's own size or another."""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from pipeline.hypercolumn.geometry import corner_reads

_MIXED = 256
"""Added to the label of a pixel whose neighbours have others."""
_AT_ONCE = 1 << 16
"""Pixels whose scores are resampled at a time."""


def labels_of(scores: Tensor, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Turn scores into labels: the class with the highest score, of equal ones the first.

    Parameters
    ----------
    scores : Tensor of shape (n_classes, H, W)
    size : (H', W'), optional
        Resample the scores bilinearly to this size first. What lies between four pixels of one
        label has that label too, as its scores are weighted means of theirs; only the rest is
        computed.

    Returns
    -------
    array of uint8, shape (H, W) or ``size``
    """
    labels = _highest(scores.flatten(1)).reshape(scores.shape[1:])
    if size is not None and tuple(labels.shape) != size:
        labels = _resampled(labels, scores, size)
    return cast(NDArray[np.uint8], labels.to(torch.uint8).cpu().numpy())


def _highest(scores: Tensor) -> Tensor:
    """Give the labels (n,) of scores (n_classes, n)."""
    return scores.max(dim=0).indices.to(torch.int16)  # argmax takes four times as long


def _resampled(labels: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    width = labels.shape[1]
    reads = corner_reads((labels.shape[0], width), size, "half_pixel")
    top, bottom, down, left, right, across = (t.to(scores.device) for t in reads)
    found = torch.where(_meets_others(labels), labels + _MIXED, labels)[top][:, left].flatten()
    table = scores.flatten(1).T.contiguous()
    for pixels in torch.split((found >= _MIXED).nonzero()[:, 0], _AT_ONCE):
        y, x = pixels.div(size[1], rounding_mode="floor"), pixels % size[1]
        above, below, d, a = top[y] * width, bottom[y] * width, down[y], across[x]
        corners = above + left[x], above + right[x], below + left[x], below + right[x]
        weights = (1 - d) * (1 - a), (1 - d) * a, d * (1 - a), d * a
        resampled = embedding_bag(
            torch.stack(corners, dim=1),
            table,
            per_sample_weights=torch.stack(weights, dim=1).to(table.dtype),
            mode="sum",
        )
        found[pixels] = _highest(resampled.T)
    return found.reshape(size)


def _meets_others(labels: Tensor) -> Tensor:
    """Tell where the pixels to the right, below, or right below have other labels."""
    below = torch.cat([labels[1:], labels[-1:]])
    right, right_below = (torch.cat([rows[:, 1:], rows[:, -1:]], dim=1) for rows in (labels, below))
    return (labels != below) | (labels != right) | (labels != right_below)
