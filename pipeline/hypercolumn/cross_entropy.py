"""The cross-entropy of pixels with smoothed targets, and its gradient, as a compiled loop.

The target of a pixel of class y is ``t = (1 - sum(smoothing)) * onehot(y) + smoothing`` (Szegedy et
al., CVPR 2016, section 7), its loss ``-w sum_c t_c log p_c`` with ``p`` the softmax of the logits,
and the loss's gradient ``w (p - t)``.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled

Values = NDArray[np.float32]


@Compiled
def cross_entropy(
    logits: Values, true: NDArray[np.int64], weights: Values, smoothing: Values
) -> float:
    """Compute the summed loss, and put the gradient in the place of the logits.

    Parameters
    ----------
    logits : array of float32, shape (n, n_classes)
        Overwritten.
    true : array of int64, shape (n,)
        y.
    weights : array of float32, shape (n,)
        w.
    smoothing : array of float32, shape (n_classes,)

    Raises
    ------
    IndexError, ValueError
        If a label is none of the classes, or there are not as many of smoothing.
    """
    classes = logits.shape[1]
    if len(smoothing) != classes:
        raise ValueError("smoothing is not of as many classes as there are logits")
    share = np.float32(1 - smoothing.sum())
    loss = 0.0
    for i in range(len(logits)):
        row, y, weight = logits[i], true[i], weights[i]
        if not 0 <= y < classes:
            raise IndexError("a label that is none of the classes")
        highest = row[0]
        for c in range(1, classes):
            highest = max(highest, row[c])
        smoothed = total = np.float32(0)
        of_true = row[y] - highest
        for c in range(classes):
            smoothed += smoothing[c] * (row[c] - highest)
            row[c] = np.exp(row[c] - highest)
            total += row[c]
        log_total = np.log(total)
        loss -= weight * (share * (of_true - log_total) + smoothed - (1 - share) * log_total)
        for c in range(classes):
            row[c] = weight * (row[c] / total - smoothing[c])
        row[y] -= weight * share
    return loss
