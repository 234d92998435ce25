"""The dense head: a pixel classifier as 1x1 convolutions, evaluated at each tap's own resolution.

Bilinear resampling is linear, so the head's first layer splits by tap,

    ``W f(i) + b = sum_t up(W_t F_t)(i) + b``

(Hariharan et al., CVPR 2015, section 3.1, "efficient classification using convolutions and
upsampling"): every tap is multiplied at its own resolution and the results are resampled. It holds
up to the first nonlinearity, from where on the head works pixel by pixel.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.errors import HeadError
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.resample import Resampler, resampler

ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "identity": torch.positive,
}

_BLOCK_ELEMENTS = 1 << 21
"""Hidden values computed at a time: 8 MiB in float32, small enough for a CPU's caches."""


class DenseHead(nn.Module):
    """A stack of 1x1 convolutions on hypercolumns.

    Parameters
    ----------
    weights : sequence of Tensor, (K_1, D), (K_2, K_1), ...
        One matrix per layer; the last one's rows are the classes.
    biases : sequence of Tensor, (K_1,), (K_2,), ...
        One vector per layer.
    channels : sequence of int
        Channels of each map the hypercolumn is made of; their sum is D.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.
    activation : {"relu", "tanh", "logistic", "identity"}
        Between the layers.

    Raises
    ------
    HeadError
        If the shapes do not fit one another.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        *,
        channels: Sequence[int],
        geometry: Geometry = "half_pixel",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        widths = [sum(channels), *(len(w) for w in weights)]
        shapes = list(zip(widths[1:], widths[:-1], strict=True))
        if [tuple(w.shape) for w in weights] != shapes or [len(b) for b in biases] != widths[1:]:
            raise HeadError(
                f"layers of shapes {[tuple(w.shape) for w in weights]} do not stack on "
                f"hypercolumns of {widths[0]} channels"
            )
        if activation not in ACTIVATIONS:
            raise HeadError(f"activation '{activation}' is not one of {', '.join(ACTIVATIONS)}")
        self.channels = tuple(channels)
        self.geometry: Geometry = geometry
        self.activation = activation
        self.weights = nn.ParameterList(_parameter(w) for w in weights)
        self.biases = nn.ParameterList(_parameter(b) for b in biases)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.biases[-1])

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Compute the logits of every pixel of an image.

        Parameters
        ----------
        maps : sequence of Tensor, each (C_t, h_t, w_t)
            What :meth:`Features.apply` returns, in float.
        size : (H, W)
            The image's size in pixels.

        Returns
        -------
        Tensor of shape (n_classes, H, W)
        """
        table, plan = self.project(maps, size)
        blocks = [
            self.classify(plan.pixels(table, start, stop))
            for start, stop in _blocks(size[0] * size[1], table.shape[1])
        ]
        return torch.cat(blocks).T.reshape(-1, *size)

    def project(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> tuple[Tensor, Resampler]:
        """Apply the first layer to every cell of every map.

        Maps of one size are multiplied together. The weights with which a pixel reads one map sum
        to one, so what is the same for all pixels, the bias and 1x1 maps, is added to the cells of
        the smallest other map.

        Parameters
        ----------
        maps, size
            As in :meth:`forward`.
        weight, bias : Tensor, optional
            To be used in place of the first layer's own.

        Returns
        -------
        table : Tensor of shape (cells, K_1)
            The projected cells of all sizes, stacked.
        plan : Resampler
            Turns the table into pixels.
        """
        weight = self.weights[0] if weight is None else weight
        constant = self.biases[0] if bias is None else bias
        levels: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for m, w in zip(maps, weight.split(self.channels, dim=1), strict=True):
            levels.setdefault((m.shape[1], m.shape[2]), []).append((m.flatten(1), w))
        if len(levels) > 1:
            for m, w in levels.pop((1, 1), []):
                constant = constant + w @ m[:, 0]
        tables = {
            cells: torch.cat([m for m, _ in level]).T @ torch.cat([w for _, w in level], dim=1).T
            for cells, level in levels.items()
        }
        smallest = min(tables, key=lambda cells: cells[0] * cells[1])
        tables[smallest] = tables[smallest] + constant
        plan = resampler(tuple(tables), size, self.geometry, maps[0].device)
        return torch.cat(list(tables.values())), plan

    def classify(self, first: Tensor) -> Tensor:
        """Turn the first layer's outputs (n, K_1) into logits (n, n_classes)."""
        return _later_layers(first, self.later, self.activation)

    @property
    def later(self) -> list[Tensor]:
        """Weight and bias of every layer but the first, one after the other."""
        pairs = zip(self.weights[1:], self.biases[1:], strict=True)
        return [tensor for pair in pairs for tensor in pair]


def _later_layers(first: Tensor, layers: Sequence[Tensor], activation: str) -> Tensor:
    activate = ACTIVATIONS[activation]
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        first = activate(first) @ weight.T + bias
    return first


def _parameter(values: Tensor) -> nn.Parameter:
    """Copy values; in one order in memory, on which the last bits of a product depend."""
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format))


def head_loss(
    head: DenseHead,
    table: Tensor,
    plan: Resampler,
    label: Tensor,
    *,
    void: int,
    class_weights: Tensor,
    smoothing: Tensor,
    normalizer: float,
) -> Tensor:
    """Compute the cross-entropy over all pixels of one image, to be differentiated.

    The pixels are taken in blocks, and their gradients computed with the loss itself, so that no
    more than one map of hidden gradients is ever held; calling ``backward`` on the result gives
    what one backward pass over the whole image would give.

    Parameters
    ----------
    head : DenseHead
        Its later layers receive gradients; the first one does through ``table``.
    table, plan
        What :meth:`DenseHead.project` returned, still attached to the graph.
    label : Tensor of int64, shape (H * W,)
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

    Returns
    -------
    Tensor of shape ()
        The loss, summed over pixels and divided by ``normalizer``.
    """

    def of_block(first: Tensor, layers: Sequence[Tensor], start: int, stop: int) -> Tensor:
        summed = smoothed_cross_entropy(
            _later_layers(first, layers, head.activation).float(),
            label[start:stop],
            void=void,
            class_weights=class_weights,
            smoothing=smoothing,
        )
        return summed / normalizer

    loss: Tensor = _BlockwiseLoss.apply(of_block, plan, len(label), table, *head.later)
    return loss


class _BlockwiseLoss(torch.autograd.Function):
    """A sum over blocks of pixels, of which the gradients are computed along with the value."""

    @staticmethod
    def forward(
        ctx: Any,
        of_block: Callable[[Tensor, Sequence[Tensor], int, int], Tensor],
        plan: Resampler,
        pixels: int,
        table: Tensor,
        *layers: Tensor,
    ) -> Tensor:
        """Give the sum of ``of_block(first layer's outputs, later layers, start, stop)``."""
        cells = table.detach()
        leaves = [layer.detach().requires_grad_() for layer in layers]
        gradient = cells.new_empty(pixels, cells.shape[1])
        total = torch.zeros((), device=cells.device)
        for start, stop in _blocks(pixels, cells.shape[1]):
            first = plan.pixels(cells, start, stop).requires_grad_()
            with torch.enable_grad():
                loss = of_block(first, leaves, start, stop)
            loss.backward()  # type: ignore[no-untyped-call]
            gradient[start:stop] = torch.as_tensor(first.grad)
            total += loss.detach()
        ctx.plan = plan
        ctx.save_for_backward(gradient, *(leaf.grad for leaf in leaves))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients, times that of the sum."""
        gradient, *of_layers = ctx.saved_tensors
        of_table = ctx.plan.adjoint(gradient, scale)
        return (None, None, None, of_table, *(scale * of_layer for of_layer in of_layers))


def smoothed_cross_entropy(
    logits: Tensor, label: Tensor, *, void: int, class_weights: Tensor, smoothing: Tensor
) -> Tensor:
    """Sum the cross-entropy of pixels (n, n_classes); see :func:`head_loss`.

    The target of a pixel of class y is ``(1 - sum(smoothing)) * onehot(y) + smoothing``, and its
    loss counts ``class_weights[y]`` times.
    """
    counts = label != void
    true = torch.where(counts, label, 0)
    log_p = logits.log_softmax(dim=1)
    likelihood = (1 - smoothing.sum()) * log_p.gather(1, true[:, None])[:, 0] + log_p @ smoothing
    return -(likelihood * class_weights[true] * counts).sum()


def _blocks(pixels: int, width: int) -> Iterator[tuple[int, int]]:
    step = max(1, _BLOCK_ELEMENTS // width)
    return ((start, min(start + step, pixels)) for start in range(0, pixels, step))
