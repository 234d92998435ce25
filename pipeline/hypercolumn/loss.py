"""The loss of a dense head over every pixel of an image, with its gradient.

Forward and backward pass go through the image together, a block of rows at a time: what a block
needs lies in a CPU's caches, and no map of hidden values or of their gradients is ever held whole.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.hypercolumn.cross_entropy import cross_entropy
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.grid import block_weights, cross_entropy_gradient
from pipeline.hypercolumn.head import ACTIVATIONS, DenseHead
from pipeline.hypercolumn.projection import Projection
from pipeline.hypercolumn.reads import Rows
from pipeline.hypercolumn.strips import over_strips

_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda gradient, output: torch.ops.aten.threshold_backward.grad_input(
        gradient, output, 0, grad_input=gradient
    ),
    "tanh": lambda gradient, output: torch.ops.aten.tanh_backward.grad_input(
        gradient, output, grad_input=gradient
    ),
    "logistic": lambda gradient, output: torch.ops.aten.sigmoid_backward.grad_input(
        gradient, output, grad_input=gradient
    ),
    "identity": lambda gradient, _: gradient,
}
"""From the gradient of an activation's output, and that output, to the gradient of its input, in
place."""


@dataclass(frozen=True)
class Target:
    """What a head is to give for an image, and how much each pixel counts.

    Attributes
    ----------
    label : Tensor of int64, shape (H, W)
        Class of every pixel, ``void`` where there is none.
    void : int
        Pixels with this label do not count.
    class_weights : Tensor of shape (n_classes,)
        Weight of a pixel by its class.
    smoothing : Tensor of shape (n_classes,)
        Label smoothing: the share of the target that goes to each class rather than to the true
        one (Szegedy et al., CVPR 2016, section 7).
    normalizer : float
        What the summed loss is divided by.
    """

    label: Tensor
    void: int
    class_weights: Tensor
    smoothing: Tensor
    normalizer: float

    def loss(self, logits: Tensor, start: int, stop: int, grid: int = 1) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy of some rows of the image, and its gradient.

        The target of a pixel of class y is ``(1 - sum(smoothing)) * onehot(y) + smoothing``, and
        its loss counts ``class_weights[y]`` times.

        Parameters
        ----------
        logits : Tensor of float32, shape (n_classes, (stop - start) * W)
            On a grid those of all its classifiers, one after the other.
        start, stop : int
            Rows of the image.
        grid : int
            K of the grid.

        Returns
        -------
        loss : Tensor of shape ()
            Summed over pixels and divided by the normaliser.
        gradient : Tensor of the shape of the logits
        """
        true, weights = (pixels[start:stop].flatten() for pixels in self._pixels)
        if grid > 1:
            size = (self.label.shape[0], self.label.shape[1])
            cells = block_weights(size, grid, start, stop, logits.device)
            share = 1 - self.smoothing.sum()
            target = self.smoothing[:, None].repeat(1, len(true))
            target.scatter_add_(0, true[None], share.expand(1, len(true)))
            log_p, gradient = cross_entropy_gradient(logits, cells, target)
            return -target.mul_(log_p).sum(dim=0).dot(weights), gradient.mul_(weights)
        return cross_entropy(logits, true, weights, self.smoothing)

    @cached_property
    def _pixels(self) -> tuple[Tensor, Tensor]:
        """Give the class of every pixel, of void ones any, and how much its loss counts."""
        counts = self.label != self.void
        true = torch.where(counts, self.label, 0)
        return true, self.class_weights[true] * counts / self.normalizer


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
            first = Projection(values, size, geometry, strip, len(weight))
            layers = _Layers(own[2:], activation)
            of_first = first.gradient()
            total = torch.zeros((), device=weight.device)
            for start, stop, pixels in first.blocks(own[0], own[1]):
                logits = layers.forward(pixels.T).float()
                loss, gradient = target.loss(logits, start, stop, grid)
                of_first.add(layers.backward(gradient.to(dtype)).T, start, stop)
                total += loss
            return [total, *of_first.sums(weight.shape[1]), *layers.gradients]

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


class _Layers:
    """The layers behind the first, on one block of pixels after another, and their gradients."""

    def __init__(self, later: Sequence[Tensor], activation: str) -> None:
        self._layers = later
        self._activate, self._derive = ACTIVATIONS[activation], _BACKWARD[activation]
        self.gradients = [torch.zeros_like(tensor) for tensor in later]
        self._inputs: list[Tensor] = []

    def forward(self, pixels: Tensor) -> Tensor:
        """Turn the first layer's outputs (K_1, n), overwritten, into the last one's."""
        self._inputs = []
        for weight, bias in zip(self._layers[::2], self._layers[1::2], strict=True):
            self._inputs.append(self._activate(pixels))
            pixels = torch.addmm(bias[:, None], weight, self._inputs[-1])
        return pixels

    def backward(self, gradient: Tensor) -> Tensor:
        """Turn the gradient of the logits into that of the first layer's outputs."""
        for layer in reversed(range(len(self._inputs))):
            inputs = self._inputs[layer]
            self.gradients[2 * layer].addmm_(gradient, inputs.T)
            self.gradients[2 * layer + 1].addmv_(gradient, gradient.new_ones(gradient.shape[1]))
            gradient = self._derive((gradient.T @ self._layers[2 * layer]).T, inputs)
        return gradient
