"""The loss of a dense head over every pixel of an image, with its gradient.

Forward and backward pass go through the image together, so that no map of hidden values or of their
gradients is ever held whole.
"""

from collections.abc import Sequence
from contextlib import closing
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.hypercolumn import compiled_strip, torch_strip
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.head import DenseHead
from pipeline.hypercolumn.projection import Projection
from pipeline.hypercolumn.reads import Rows
from pipeline.hypercolumn.strips import over_strips
from pipeline.hypercolumn.target import Target


def head_loss(
    head: DenseHead,
    maps: Sequence[Tensor],
    target: Target,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    kept: Tensor | None = None,
) -> Tensor:
    """Compute the loss of a head over all pixels of one image, to be differentiated.

    The gradients with respect to the head's parameters are computed with the loss itself;
    ``backward`` passes them on. Under :func:`torch.autocast` products are taken in its dtype.

    Parameters
    ----------
    head : DenseHead
    maps : sequence of Tensor, each (C_t, h_t, w_t)
        What :meth:`Features.apply` returns, in float. They receive no gradient.
    target : Target
    weight, bias : Tensor, optional
        To be used, and differentiated, in place of the first layer's own.
    kept : Tensor of int64, optional
        Of a head of two layers or more, the outputs of the first layer that are not dropped for
        this image (Srivastava et al., JMLR 2014). They count as much more as there are fewer; the
        others are not computed and get no gradient.

    Returns
    -------
    Tensor of shape ()
    """
    weight = head.weights[0] if weight is None else weight
    bias = head.biases[0] if bias is None else bias
    later = head.later
    if kept is not None:
        later[0] = later[0][:, kept] * (len(weight) / len(kept))
        weight, bias = weight[kept], bias[kept]
    loss: Tensor = _ImageLoss.apply(
        maps, head.geometry, head.activation, head.grid, target, weight, bias, *later
    )
    return loss


class _ImageLoss(torch.autograd.Function):
    """A loss of which the gradients are computed along with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Sequence[Tensor],
        geometry: Geometry,
        activation: str,
        grid: int,
        target: Target,
        weight: Tensor,
        bias: Tensor,
        *later: Tensor,
    ) -> Tensor:
        """Give the loss."""
        device = weight.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else weight.dtype
        size = (target.label.shape[0], target.label.shape[1])
        values = [m.to(dtype) for m in maps]
        own = [tensor.to(dtype) for tensor in (weight, bias, *later)]

        def of_strip(strip: Rows) -> list[Tensor]:
            projection = Projection(values, size, geometry, strip)
            if grid == 1 and compiled_strip.is_for(own[0]):
                return compiled_strip.loss(projection, own, activation, target)
            return torch_strip.loss(projection, own, activation, target, grid)

        with closing(over_strips(of_strip, size, weight.device)) as strips:
            total, *gradients = reduce(_add, strips)
        ctx.save_for_backward(*(g.to(weight.dtype) for g in gradients))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients, times that of the loss."""
        return (None, None, None, None, None, *(scale * gradient for gradient in ctx.saved_tensors))


def _add(sums: list[Tensor], others: list[Tensor]) -> list[Tensor]:
    return [one.add_(other) for one, other in zip(sums, others, strict=True)]
