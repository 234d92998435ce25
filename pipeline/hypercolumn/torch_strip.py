"""A strip of an image through the head, by torch's operations: on any device, in any dtype.

It goes through the strip a block of rows at a time: what a block needs lies in a CPU's caches, and
no map of hidden values or of their gradients is ever held whole.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from pipeline.hypercolumn.gathered import GatheringResampler, gathering
from pipeline.hypercolumn.projection import Projection
from pipeline.hypercolumn.target import Target

_BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Hidden values computed at a time: 2 MiB in float32, small enough for a CPU's caches; a GPU is
better served by few large pieces."""

_ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "tanh": torch.tanh_,
    "logistic": torch.sigmoid_,
    "identity": torch.positive,
}
"""All work in place."""

_DERIVE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
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


def scores(
    projection: Projection, layers: Sequence[Tensor], activation: str
) -> Iterator[tuple[int, int, Tensor]]:
    """Compute the outputs of the last layer.

    Parameters
    ----------
    projection : Projection
    layers : sequence of Tensor, (K_1, D), (K_1,), (K_2, K_1), (K_2,), ...
        Weight and bias of every layer, in the dtype of the maps.
    activation : {"relu", "tanh", "logistic", "identity"}
        Between the layers.

    Yields
    ------
    start, stop : int
        Rows of the image.
    outputs : Tensor of shape (K, (stop - start) * W)
    """
    later = _Layers(layers[2:], activation)
    for start, stop, pixels in _blocks(projection, _resampler(projection, layers), layers):
        yield start, stop, later.forward(pixels.T)


def loss(
    projection: Projection,
    layers: Sequence[Tensor],
    activation: str,
    target: Target,
    grid: int = 1,
) -> list[Tensor]:
    """Compute the loss of the strip's pixels, a tensor of shape (), and every layer's gradients.

    Parameters
    ----------
    projection, layers, activation
        As :func:`scores` takes them.
    target : Target
    grid : int
        K of the head's grid.
    """
    later, resampler = _Layers(layers[2:], activation), _resampler(projection, layers)
    width = len(layers[0])
    of_table = layers[0].new_zeros(projection.reads.rows[-1].stop, width)
    of_own = [layers[0].new_zeros(len(own.values), width) for own in projection.own]
    total = torch.zeros((), device=of_table.device)
    for start, stop, pixels in _blocks(projection, resampler, layers):
        logits = later.forward(pixels.T).float()
        part, of_logits = target.loss(logits, start, stop, grid)
        gradient = later.backward(of_logits.to(of_table.dtype)).T
        resampler.add_adjoint(of_table, gradient, start, stop)
        for own, of_weight in zip(projection.own, of_own, strict=True):
            of_weight.addmm_(own.values[:, projection.reads.pixels(start, stop)], gradient)
        total += part
    return [total, *projection.gradient(of_table, of_own), *later.gradients]


def _resampler(projection: Projection, layers: Sequence[Tensor]) -> GatheringResampler:
    weight = layers[0]
    elements = _BLOCK_ELEMENTS[weight.device.type]
    height = max(1, elements // (len(weight) * projection.reads.width))
    return gathering(projection.reads, height, weight.device)


def _blocks(
    projection: Projection, resampler: GatheringResampler, layers: Sequence[Tensor]
) -> Iterator[tuple[int, int, Tensor]]:
    """Compute the first layer's outputs of one block after the other, (n, K_1)."""
    weight, bias = layers[:2]
    table = projection.table(weight, bias, len(weight))
    for start, stop in resampler.blocks():
        pixels = resampler.pixels(table, start, stop)
        for own in projection.own:
            values = own.values[:, projection.reads.pixels(start, stop)]
            pixels.addmm_(values.T, weight[:, own.columns].T)
        yield start, stop, pixels


class _Layers:
    """The layers behind the first, on one block of pixels after another, and their gradients."""

    def __init__(self, later: Sequence[Tensor], activation: str) -> None:
        self._layers = later
        self._activate, self._derive = _ACTIVATE[activation], _DERIVE[activation]
        self._inputs: list[Tensor] = []

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Of the weights and biases, summed over the blocks that went backward."""
        return [torch.zeros_like(tensor) for tensor in self._layers]

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
