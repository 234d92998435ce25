"""A strip of an image through the head, by compiled loops: on the CPU, in float32.

They take every row of the image a segment at a time, through all layers and back. What a segment
needs lies in the innermost caches, and the interpreter, for which threads would wait for one
another, is not asked before the strip is done.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pipeline.compiled.products import NARROW, multiply, multiply_narrow, padded, transpose
from pipeline.hypercolumn import strip_loops
from pipeline.hypercolumn.projection import Projection
from pipeline.hypercolumn.resample import ReadArrays
from pipeline.hypercolumn.strip_loops import First, Later, Loops, Values
from pipeline.hypercolumn.target import Target

_ACTIVATIONS = {
    "relu": strip_loops.RELU,
    "tanh": strip_loops.TANH,
    "logistic": strip_loops.LOGISTIC,
    "identity": strip_loops.IDENTITY,
}


def is_for(weight: Tensor) -> bool:
    """Whether a layer with such a weight is computed here."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32


def scores(
    projection: Projection, layers: Sequence[Tensor], activation: str
) -> Iterator[tuple[int, int, Tensor]]:
    """See :func:`pipeline.hypercolumn.torch_strip.scores`; this gives the strip in one piece."""
    start, stop = projection.reads.strip
    found = layers[0].new_empty(len(layers[-1]), (stop - start) * projection.reads.width)
    loops = _loops(projection, layers, activation, backward=False)
    strip_loops.scores(loops, found.numpy())
    yield start, stop, found


def loss(
    projection: Projection, layers: Sequence[Tensor], activation: str, target: Target
) -> list[Tensor]:
    """See :func:`pipeline.hypercolumn.torch_strip.loss`; this knows of no grid.

    Raises
    ------
    IndexError, ValueError
        If a label is none of the classes, or there are not as many of smoothing.
    """
    loops = _loops(projection, layers, activation, backward=True)
    true, weights = (of_pixel.numpy() for of_pixel in target.pixels(*projection.reads.strip))
    total = strip_loops.loss(loops, len(layers[-1]), true, weights, target.smoothing.numpy())
    first, width = loops.first, len(layers[0])
    of_table = torch.from_numpy(first.of_table[:, :width])
    of_own = torch.from_numpy(first.of_weight[:, :width])
    channels = [len(own.values) for own in projection.own]
    gradients = [*projection.gradient(of_table, torch.split(of_own, channels))]
    for weight, later in zip(layers[2::2], loops.later, strict=False):
        gradients.append(torch.from_numpy(later.of_weight[:, : weight.shape[1]]))
        gradients.append(torch.from_numpy(later.of_bias[: len(weight)]))
    return [torch.tensor(total, dtype=torch.float32), *gradients]


def _loops(
    projection: Projection, layers: Sequence[Tensor], activation: str, *, backward: bool
) -> Loops:
    pairs = list(zip(layers[2::2], layers[3::2], strict=True))
    none = layers[0].new_empty(0, 0), layers[0].new_empty(0)
    reads = projection.reads
    of = reads.first, reads.down, reads.across, reads.down_weights, reads.across_weights
    return Loops(
        ReadArrays(*(tensor.numpy() for tensor in of)),
        _first(projection, layers[0], layers[1], backward=backward),
        tuple(_later(weight, bias, backward=backward) for weight, bias in pairs or [none]),
        len(pairs),
        _ACTIVATIONS[activation],
        _room(strip_loops.SEGMENT, len(layers[-1])),
    )


def _first(projection: Projection, weight: Tensor, bias: Tensor, *, backward: bool) -> First:
    width, columns = padded(len(weight)), projection.reads.columns
    narrow = _multiply_narrow if len(weight) < NARROW else None
    table = projection.table(weight, bias, width, narrow).numpy()
    of_own = [weight[:, m.columns].T for m in projection.own] or [weight.new_empty(0, len(weight))]
    own_weight = _with_padding(torch.cat(of_own))
    return First(
        table,
        _own(projection),
        own_weight,
        _gradient(table, backward=backward),
        _gradient(own_weight, backward=backward),
        _room(columns, width),
    )


def _own(projection: Projection) -> Values:
    """Give maps of the image's own size, (pixels, C)."""
    values = [m.values for m in projection.own]
    if len(values) == 1 and values[0].T.is_contiguous():
        return values[0].T.numpy()
    start, stop = projection.reads.strip
    pixels, channels = (stop - start) * projection.reads.width, sum(map(len, values))
    own = torch.empty(pixels, channels, dtype=torch.float32).numpy()
    first = 0
    for part in values:
        transpose(part.numpy(), own[:, first : first + len(part)])
        first += len(part)
    return own


def _multiply_narrow(cells: Tensor, weight: Tensor, table: Tensor, adds: bool) -> None:
    """See :data:`~pipeline.hypercolumn.projection.Multiply`."""
    if cells.is_contiguous():
        multiply_narrow(cells.numpy(), weight.numpy(), table.numpy(), adds)
    else:
        multiply(cells.T.numpy(), _with_padding(weight.T), table.numpy(), adds)


def _later(weight: Tensor, bias: Tensor, *, backward: bool) -> Later:
    own, (own_bias,) = _with_padding(weight), _with_padding(bias[None])
    return Later(
        own,
        _with_padding(weight.T),
        own_bias,
        _gradient(own, backward=backward),
        _gradient(own_bias, backward=backward),
        _room(strip_loops.SEGMENT, weight.shape[1]),
        _room(strip_loops.SEGMENT if backward else 0, weight.shape[1]),
    )


# All of it is torch's memory: it begins where a line of the processor's caches does, NumPy's does
# not, and a quarter of the time of resampling depends on that.


def _room(rows: int, columns: int) -> Values:
    return torch.empty(rows, padded(columns), dtype=torch.float32).numpy()


def _gradient(values: Values, *, backward: bool) -> Values:
    return torch.zeros(values.shape if backward else [0] * values.ndim, dtype=torch.float32).numpy()


def _with_padding(matrix: Tensor) -> Values:
    found = matrix.new_zeros(len(matrix), padded(matrix.shape[1]))
    found[:, : matrix.shape[1]] = matrix
    return found.numpy()
