"""The cross-entropy of pixels with smoothed targets, and its gradient.

The target of a pixel of class y is ``t = (1 - sum(smoothing)) * onehot(y) + smoothing`` (Szegedy et
al., CVPR 2016, section 7), its loss ``-w sum_c t_c log p_c`` with ``p`` the softmax of the logits,
and the loss's gradient ``w (p - t)``.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.compiled import Compiled

Values = NDArray[np.float32]


def cross_entropy(
    logits: Tensor, true: Tensor, weights: Tensor, smoothing: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the summed loss and its gradient, on the calling thread where that is a CPU's.

    Parameters
    ----------
    logits : Tensor of float32, shape (n_classes, n)
    true : Tensor of int64, shape (n,)
        y.
    weights : Tensor of float32, shape (n,)
        w.
    smoothing : Tensor of float32, shape (n_classes,)

    Returns
    -------
    loss : Tensor of shape ()
    gradient : Tensor of shape (n_classes, n)

    Raises
    ------
    IndexError, ValueError
        On the CPU, if a label is none of the classes, or there are not as many of smoothing.
    """
    if logits.device.type == "cpu":
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        loss = _cross_entropy(
            logits.contiguous().numpy(),
            true.numpy(),
            weights.numpy(),
            smoothing.numpy(),
            gradient.numpy(),
        )
        return torch.tensor(loss, dtype=torch.float32), gradient
    share = 1 - smoothing.sum()
    log_p = logits.log_softmax(dim=0)
    of_target = (smoothing @ log_p).addcmul_(share, log_p.gather(0, true[None])[0])
    gradient = log_p.exp_().sub_(smoothing[:, None])
    gradient.scatter_add_(0, true[None], -share.expand(1, len(true)))
    return -of_target.dot(weights), gradient.mul_(weights)


@Compiled
def _cross_entropy(
    logits: Values,
    true: NDArray[np.int64],
    weights: Values,
    smoothing: Values,
    gradient: Values,
) -> float:
    classes, count = logits.shape
    if len(smoothing) != classes:
        raise ValueError("smoothing is not of as many classes as there are logits")
    for y in true:
        if not 0 <= y < classes:
            raise IndexError("a label that is none of the classes")
    share = 1 - smoothing.sum()
    highest = logits[0].copy()
    for c in range(1, classes):
        for i in range(count):
            highest[i] = max(highest[i], logits[c, i])
    total, smoothed = np.zeros(count, np.float32), np.zeros(count, np.float32)
    for c in range(classes):
        for i in range(count):
            gradient[c, i] = np.exp(logits[c, i] - highest[i])
        for i in range(count):
            total[i] += gradient[c, i]
            smoothed[i] += smoothing[c] * (logits[c, i] - highest[i])
    loss = 0.0
    for i in range(count):
        y, log_total = true[i], np.log(total[i])
        of_true = logits[y, i] - highest[i] - log_total
        loss -= weights[i] * (share * of_true + smoothed[i] - (1 - share) * log_total)
        total[i] = 1 / total[i]
    for c in range(classes):
        for i in range(count):
            gradient[c, i] = weights[i] * (gradient[c, i] * total[i] - smoothing[c])
    for i in range(count):
        gradient[true[i], i] -= np.float32(weights[i] * share)
    return loss
