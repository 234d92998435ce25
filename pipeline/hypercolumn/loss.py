"""The loss of a dense head over every pixel of images, with its gradient.

Forward and backward pass go through an image together, so that no map of hidden values or of their
gradients is ever held whole.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, TypeAlias

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

Image: TypeAlias = tuple[Sequence[Tensor], Target]
"""The maps that hypercolumns are made of, each (C_t, h_t, w_t), and what the head is to give."""


def head_loss(
    head: DenseHead,
    images: Iterable[Image],
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    kept: Tensor | None = None,
    threads: int | None = None,
) -> Tensor:
    """Compute the loss of a head over all pixels of some images, to be differentiated.

    The gradients with respect to the head's parameters are computed with the loss itself;
    ``backward`` passes them on. Under :func:`torch.autocast` products are taken in its dtype.

    Parameters
    ----------
    head : DenseHead
    images : iterable of (maps, Target)
        Maps as :meth:`Features.apply` returns them, in float; they receive no gradient. They are
        taken as they are needed, on the CPU a few ahead of it.
    weight, bias : Tensor, optional
        To be used, and differentiated, in place of the first layer's own.
    kept : Tensor of int64, optional
        Of a head of two layers or more, the outputs of the first layer that are not dropped this
        time (Srivastava et al., JMLR 2014). They count as much more as there are fewer; the others
        are not computed and get no gradient.
    threads : int, optional
        On the CPU, how many compute; by default as many as torch has. No bit depends on it.

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
    loss: Tensor = _Loss.apply(
        images, head.geometry, head.activation, head.grid, threads, weight, bias, *later
    )
    return loss


class _Loss(torch.autograd.Function):
    """A loss of which the gradients are computed along with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Iterable[Image],
        geometry: Geometry,
        activation: str,
        grid: int,
        threads: int | None,
        *layers: Tensor,
    ) -> Tensor:
        """Give the loss."""
        device = layers[0].device
        mixed = torch.is_autocast_enabled(device.type)
        dtype = torch.get_autocast_dtype(device.type) if mixed else layers[0].dtype
        own = [tensor.to(dtype) for tensor in layers]
        compiled = grid == 1 and compiled_strip.is_for(own[0])

        def of_strip(image: Image, strip: Rows) -> list[Tensor]:
            maps, target = image
            projection = Projection(maps, target.size, geometry, strip)
            if compiled:
                return compiled_strip.loss(projection, own, activation, target)
            return torch_strip.loss(projection, own, activation, target, grid)

        total, *sums = (torch.zeros_like(tensor) for tensor in (layers[0].new_empty(()), *layers))
        taken = ((([m.to(dtype) for m in maps], target), target.size) for maps, target in images)
        strips = over_strips(of_strip, taken, device, width=len(layers[0]), threads=threads)
        with closing(strips):
            for loss, *gradients in strips:
                total += loss
                for of_all, gradient in zip(sums, gradients, strict=True):
                    of_all += gradient
        ctx.save_for_backward(*sums)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients, times that of the loss."""
        return (None, None, None, None, None, *(scale * gradient for gradient in ctx.saved_tensors))
