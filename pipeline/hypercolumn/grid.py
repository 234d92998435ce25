"""Classifiers that depend on the place: a coarse grid of them over the image, interpolated.

Each of the K x K classifiers gives a probability of every class, and that of pixel ``i`` is

    ``p_i = sum_k alpha_ik g_k(f_i)``

with the bilinear weights ``alpha_ik`` of the pixel among the grid's cells (Hariharan et al., CVPR
2015, section 3, equations 1 and 2). It is the probabilities that are interpolated, not the logits,
so the loss is the negative logarithm of the sum. All is computed from logarithms, in which no
probability vanishes.

The grid divides the image into K rows and K columns. A cell's classifier counts alone at the cell's
centre, ``(k + 1/2) / K`` of the image, with a pixel at its own centre, ``(i + 1/2) / H``; beyond
the outermost centres the outermost classifiers count alone. That is the half-pixel geometry of
:mod:`pipeline.hypercolumn.geometry`, whatever that of the maps is: the paper names no convention.
"""

import torch
from torch import Tensor

MAX_GRID = 32
"""Largest K: a head has K * K classifiers."""


def grid_weights(ys: Tensor, xs: Tensor, height: Tensor, width: Tensor, grid: int) -> Tensor:
    """Give the weight of every cell at chosen pixels.

    Parameters
    ----------
    ys, xs : Tensor of int64, shape (n,)
        Pixels.
    height, width : Tensor of int64, shape (n,) or ()
        Sizes of their images.
    grid : int
        K.

    Returns
    -------
    Tensor of float32, shape (K * K, n)
        Row by row of the grid; they sum to one for each pixel.
    """
    down, across = _along(ys, height, grid), _along(xs, width, grid)
    return (down[:, None] * across).flatten(0, 1)


def block_weights(
    size: tuple[int, int], grid: int, start: int, stop: int, device: torch.device
) -> Tensor:
    """Give :func:`grid_weights` for some rows of an image, (K * K, (stop - start) * W)."""
    rows = torch.arange(start, stop, device=device)
    columns = torch.arange(size[1], device=device)
    height, width = (torch.tensor(length, device=device) for length in size)
    down, across = _along(rows, height, grid), _along(columns, width, grid)
    return (down[:, None, :, None] * across[:, None]).flatten(2).flatten(0, 1)


def log_probability(logits: Tensor, weights: Tensor) -> Tensor:
    """Interpolate the probabilities of all classifiers.

    Parameters
    ----------
    logits : Tensor of float32, shape (K * K * n_classes, n)
        One classifier after the other.
    weights : Tensor of float32, shape (K * K, n)

    Returns
    -------
    Tensor of shape (n_classes, n)
        Logarithms of the probabilities.
    """
    return _joint(logits, weights)[1].logsumexp(dim=0)


def cross_entropy_gradient(
    logits: Tensor, weights: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the gradient of the cross-entropy ``-sum_c t_c log p_c`` of each pixel.

    With ``r_kc = alpha_k p_kc / p_c``, the part that classifier k has in class c, it is
    ``p_kc sum_c' r_kc' t_c' - r_kc t_c``.

    Parameters
    ----------
    logits, weights : Tensor
        As :func:`log_probability` takes them.
    target : Tensor of shape (n_classes, n)
        t.

    Returns
    -------
    log_p : Tensor of shape (n_classes, n)
        What :func:`log_probability` gives.
    gradient : Tensor of the shape of the logits
    """
    log_each, joint = _joint(logits, weights)
    log_p = joint.logsumexp(dim=0)
    parts = joint.sub_(log_p).exp_().mul_(target)
    gradient = log_each.exp_().mul_(parts.sum(dim=1, keepdim=True)).sub_(parts)
    return log_p, gradient.reshape(logits.shape)


def _joint(logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Give the logarithms of p_kc and of alpha_k p_kc, both (K * K, n_classes, n)."""
    log_each = logits.reshape(len(weights), -1, weights.shape[1]).log_softmax(dim=1)
    return log_each, log_each + weights.log()[:, None]


def _along(at: Tensor, length: Tensor, grid: int) -> Tensor:
    """Give the weights (K, n) of the grid's rows at pixels along an axis, or of its columns."""
    position = ((at.double() + 0.5) * grid / length - 0.5).clamp(0, grid - 1)
    cells = torch.arange(grid, device=at.device)[:, None]
    return (1 - (position - cells).abs()).clamp(min=0).float()
