"""The compiled loops of :mod:`pipeline.hypercolumn.compiled_strip`, and the arrays they work on.

Whatever has a channel, unit or class for every column is padded, to a multiple of
:data:`~pipeline.compiled.vectors.PANEL` columns; what the loops put there does not count.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.compiled import Compiled
from pipeline.compiled.products import multiply
from pipeline.hypercolumn.cross_entropy import cross_entropy
from pipeline.hypercolumn.resample import ReadArrays, add_adjoint, find_sides, resample

SEGMENT = 64
"""Pixels of a row that are computed together, at most: with 512 hidden units 128 KiB of values, as
many of gradients, and the cells that they are read from."""

RELU, TANH, LOGISTIC, IDENTITY = range(4)

Values = NDArray[np.float32]
Indices = NDArray[np.int64]


class First(NamedTuple):
    """The layer whose inputs are maps.

    Attributes
    ----------
    table : array of shape (cells, K)
        See :meth:`pipeline.hypercolumn.projection.Projection.table`.
    own : array of shape (pixels, C)
        Maps of the image's own size; without padding.
    weight : array of shape (C, K)
        Of ``own``.
    of_table, of_weight : array
        Gradients are added here, as to all that begins with "of".
    between : array of shape (columns, K)
        Overwritten, see :func:`pipeline.hypercolumn.resample.resample`.
    """

    table: Values
    own: Values
    weight: Values
    of_table: Values
    of_weight: Values
    between: Values


class Later(NamedTuple):
    """A layer behind the first.

    Attributes
    ----------
    weight, transposed : array of shape (K_out, K_in) and (K_in, K_out)
    bias : array of shape (K_out,)
    of_weight, of_bias : array
    inputs, of_inputs : array of shape (SEGMENT, K_in)
        Overwritten.
    """

    weight: Values
    transposed: Values
    bias: Values
    of_weight: Values
    of_bias: Values
    inputs: Values
    of_inputs: Values


class Loops(NamedTuple):
    """A head and a strip.

    Attributes
    ----------
    later : tuple of Later
        Never empty, as Numba could not tell what it does not hold.
    depth : int
        How many of ``later`` there are.
    activation : int
        Between the layers, one of those above.
    outputs : array of shape (SEGMENT, classes)
        Overwritten.
    """

    reads: ReadArrays
    first: First
    later: tuple[Later, ...]
    depth: int
    activation: int
    outputs: Values


@Compiled
def scores(loops: Loops, found: Values) -> None:
    """Compute the last layer's outputs of every pixel: (classes, pixels)."""
    width = len(loops.reads.across)
    pieces = -(-width // SEGMENT)
    for piece in range(pieces):
        start, stop = width * piece // pieces, width * (piece + 1) // pieces
        outputs = loops.outputs[: stop - start]
        sides = find_sides(loops.reads, start, stop - start, loops.first.between)
        for y in range(len(loops.reads.down)):
            _forward(loops, y, start, sides, outputs)
            for c in range(len(found)):
                for x in range(start, stop):
                    found[c, y * width + x] = outputs[x - start, c]


@Compiled
def loss(loops: Loops, classes: int, true: Indices, weights: Values, smoothing: Values) -> float:
    """Compute the loss and add the gradients. Of the target see :func:`cross_entropy`."""
    width = len(loops.reads.across)
    pieces = -(-width // SEGMENT)
    total = 0.0
    for piece in range(pieces):
        start, stop = width * piece // pieces, width * (piece + 1) // pieces
        outputs = loops.outputs[: stop - start]
        sides = find_sides(loops.reads, start, stop - start, loops.first.between)
        for y in range(len(loops.reads.down)):
            at, end = y * width + start, y * width + stop
            _forward(loops, y, start, sides, outputs)
            total += cross_entropy(outputs, classes, true[at:end], weights[at:end], smoothing)
            _backward(loops, y, start, outputs)
    return total


@Compiled
def _forward(
    loops: Loops, y: int, x: int, sides: tuple[NDArray[np.intp], Values], outputs: Values
) -> None:
    """Compute the outputs of some pixels of a row; the inputs of every layer are kept."""
    first, count = loops.first, len(outputs)
    at = y * len(loops.reads.across) + x
    values = loops.later[0].inputs[:count] if loops.depth else outputs
    own = first.own.shape[1] > 0
    if own:
        multiply(first.own[at : at + count], first.weight, values)
    rectifies = loops.depth > 0 and loops.activation == RELU
    resample(loops.reads, y, x, first.table, first.between, sides, values, own, rectifies)
    for layer in range(loops.depth):
        inputs, weight = loops.later[layer].inputs[:count], loops.later[layer].transposed
        last, bias = layer == loops.depth - 1, loops.later[layer].bias
        _activate(inputs, loops.activation)
        values = outputs if last else loops.later[layer + 1].inputs[:count]
        for i in range(count):
            for k in range(len(bias)):
                values[i, k] = bias[k]
        rectifies = not last and loops.activation == RELU
        multiply(inputs[:, : len(weight)], weight, values, True, rectifies)


@Compiled
def _backward(loops: Loops, y: int, x: int, gradient: Values) -> None:
    """Add the gradients of some pixels that went forward last, from that of their outputs."""
    first, count = loops.first, len(gradient)
    at = y * len(loops.reads.across) + x
    for layer in range(loops.depth - 1, -1, -1):
        inputs, of_inputs = loops.later[layer].inputs[:count], loops.later[layer].of_inputs[:count]
        weight, of_bias = loops.later[layer].weight, loops.later[layer].of_bias
        of_outputs = gradient[:, : len(weight)]
        multiply(of_outputs.T, inputs, loops.later[layer].of_weight, True)
        for i in range(count):
            for k in range(len(weight)):
                of_bias[k] += of_outputs[i, k]
        multiply(of_outputs, weight, of_inputs)
        _derive(of_inputs, inputs, loops.activation)
        gradient = of_inputs
    if first.own.shape[1] > 0:
        multiply(first.own[at : at + count].T, gradient, first.of_weight, True)
    add_adjoint(loops.reads, y, x, first.of_table, gradient)


@Compiled
def _activate(values: Values, activation: int) -> None:
    """Apply an activation in place, but RELU, which is part of what computed the values."""
    for i in range(len(values)):
        row = values[i]
        if activation == TANH:
            for k in range(len(row)):
                row[k] = np.tanh(row[k])
        elif activation == LOGISTIC:
            for k in range(len(row)):
                row[k] = 1 / (1 + np.exp(-row[k]))


@Compiled
def _derive(gradient: Values, outputs: Values, activation: int) -> None:
    """Turn the gradient of an activation's outputs into that of its inputs."""
    for i in range(len(gradient)):
        row, output = gradient[i], outputs[i]
        if activation == RELU:
            for k in range(len(row)):
                row[k] = np.float32(0) if output[k] <= 0 else row[k]  # NaN is seen in the end
        elif activation == TANH:
            for k in range(len(row)):
                row[k] *= 1 - output[k] * output[k]
        elif activation == LOGISTIC:
            for k in range(len(row)):
                row[k] *= output[k] * (1 - output[k])
