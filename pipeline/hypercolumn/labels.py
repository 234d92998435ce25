"""From the scores of an image's pixels to their labels, at the image's own size or another."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compiled import Compiled
from pipeline.hypercolumn.geometry import corner_reads

Labels = NDArray[np.uint8]
Values = NDArray[np.float32]
Indices = NDArray[np.int64]


def labels_of(scores: Tensor, size: tuple[int, int] | None = None) -> Labels:
    """Turn scores into labels: the class with the highest score, of equal ones the first.

    Parameters
    ----------
    scores : Tensor of shape (n_classes, H, W)
        On any device; this is computed on the CPU. A score that is no number counts as the highest.
    size : (H', W'), optional
        Resample the scores bilinearly to this size first. What lies between four pixels of one
        label has that label too, as its scores are weighted means of theirs; only the rest is
        computed.

    Returns
    -------
    array of uint8, shape (H, W) or ``size``
    """
    scores = scores.detach().float().cpu()
    labels = np.zeros(scores.shape[1:], np.uint8)
    _find_highest(scores.contiguous().numpy(), labels)
    if size is None or labels.shape == size:
        return labels
    found = np.empty(size, np.uint8)
    reads = corner_reads((labels.shape[0], labels.shape[1]), size, "half_pixel")
    top, bottom, down, left, right, across = (read.numpy() for read in reads)
    of_pixel = scores.permute(1, 2, 0).contiguous().numpy()
    _resample(labels, of_pixel, top, bottom, left, right, down, across, found)
    return found


@Compiled
def _find_highest(scores: Values, labels: Labels) -> None:
    classes, height, width = scores.shape
    for y in range(height):
        highest = scores[0, y].copy()
        for c in range(1, classes):
            for x in range(width):
                # Not "greater than": no comparison with NaN holds.
                higher = not (scores[c, y, x] <= highest[x]) and highest[x] == highest[x]
                highest[x] = scores[c, y, x] if higher else highest[x]
                labels[y, x] = np.uint8(c) if higher else labels[y, x]


@Compiled
def _resample(
    labels: Labels,
    scores: Values,
    top: Indices,
    bottom: Indices,
    left: Indices,
    right: Indices,
    down: NDArray[np.float64],
    across: NDArray[np.float64],
    found: Labels,
) -> None:
    classes = scores.shape[2]
    values = np.empty(classes, np.float32)
    for y in range(found.shape[0]):
        above, below, d = top[y], bottom[y], down[y]
        for x in range(found.shape[1]):
            before, beyond, a = left[x], right[x], across[x]
            label = labels[above, before]
            if (
                label != labels[above, beyond]
                or label != labels[below, before]
                or label != labels[below, beyond]
            ):
                w0, w1 = np.float32((1 - d) * (1 - a)), np.float32((1 - d) * a)
                w2, w3 = np.float32(d * (1 - a)), np.float32(d * a)
                for c in range(classes):
                    values[c] = (
                        w0 * scores[above, before, c]
                        + w1 * scores[above, beyond, c]
                        + w2 * scores[below, before, c]
                        + w3 * scores[below, beyond, c]
                    )
                best = 0
                for c in range(1, classes):
                    if not (values[c] <= values[best]) and values[best] == values[best]:
                        best = c
                label = np.uint8(best)
            found[y, x] = label
