"""The cross-entropy of pixels with smoothed targets, and its gradient, as a compiled loop.

The target of a pixel of class y is ``t = (1 - sum(smoothing)) * onehot(y) + smoothing`` (Szegedy et
al., CVPR 2016, section 7), its loss ``-w sum_c t_c log p_c`` with ``p`` the softmax of the logits,
and the loss's gradient ``w (p - t)``.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled
from pipeline.compiled.vectors import PANEL, exponentiate
from pipeline.compiled.writer import BYTES

Values = NDArray[np.float32]


@Compiled
def cross_entropy(
    logits: Values, classes: int, true: NDArray[np.int64], weights: Values, smoothing: Values
) -> float:
    """Compute the summed loss, and put the gradient in the place of the logits.

    Parameters
    ----------
    logits : array of float32, shape (n, columns)
        The classes come first, and fill the columns up to a multiple of
        :data:`~pipeline.compiled.vectors.PANEL`. Overwritten.
    classes : int
    true : array of int64, shape (n,)
        y.
    weights : array of float32, shape (n,)
        w.
    smoothing : array of float32, shape (classes,)

    Raises
    ------
    IndexError, ValueError
        If a label is none of the classes, or there are not as many of smoothing.
    """
    if len(smoothing) != classes or logits.shape[1] % PANEL or logits.shape[1] < classes:
        raise ValueError("logits or smoothing of another number of classes")
    smoothed = np.float32(0)
    for c in range(classes):
        smoothed += smoothing[c]
    share = 1 - smoothed
    loss = 0.0
    for i in range(len(logits)):
        row, y, weight = logits[i], true[i], weights[i]
        if not 0 <= y < classes:
            raise IndexError("a label that is none of the classes")
        highest = row[0]
        for c in range(1, classes):
            highest = max(highest, row[c])
        of_target = share * (row[y] - highest)
        for c in range(classes):
            row[c] -= highest
            of_target += smoothing[c] * row[c]
        exponentiate(row.ctypes.data, row.size * BYTES)
        total = np.float32(0)
        for c in range(classes):
            total += row[c]
        loss -= weight * (of_target - np.log(total))
        for c in range(classes):
            row[c] = weight * (row[c] / total - smoothing[c])
        row[y] -= weight * share
    return loss
