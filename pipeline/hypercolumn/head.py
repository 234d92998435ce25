"""The dense head: a pixel classifier as 1x1 convolutions, evaluated at each tap's own resolution.

Bilinear resampling is linear, so the head's first layer splits by tap,

    ``W f(i) + b = sum_t up(W_t F_t)(i) + b``

(Hariharan et al., CVPR 2015, section 3.1, "efficient classification using convolutions and
upsampling"): every tap is multiplied at its own resolution and the results are resampled. It holds
up to the first nonlinearity, from where on the head works pixel by pixel.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.errors import HeadError
from pipeline.hypercolumn import compiled_strip, torch_strip
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.grid import block_weights, log_probability
from pipeline.hypercolumn.projection import Projection
from pipeline.hypercolumn.reads import Rows
from pipeline.hypercolumn.strips import over_strips

ACTIVATIONS = ("relu", "tanh", "logistic", "identity")
"""What may lie between the layers."""


class DenseHead(nn.Module):
    """A stack of 1x1 convolutions on hypercolumns.

    Parameters
    ----------
    weights : sequence of Tensor, (K_1, D), (K_2, K_1), ...
        One matrix per layer; the last one's rows are the classes, for one classifier of the grid
        after the other.
    biases : sequence of Tensor, (K_1,), (K_2,), ...
        One vector per layer.
    channels : sequence of int
        Channels of each map the hypercolumn is made of; their sum is D.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.
    activation : {"relu", "tanh", "logistic", "identity"}
        Between the layers.
    grid : int
        K of a K x K grid of location-specific classifiers, see :mod:`pipeline.hypercolumn.grid`;
        1 for one classifier.

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
        grid: int = 1,
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
        if widths[-1] % grid**2:
            raise HeadError(f"{widths[-1]} outputs are none for a grid of {grid} x {grid}")
        self.channels = tuple(channels)
        self.geometry: Geometry = geometry
        self.activation = activation
        self.grid = grid
        self.weights = nn.ParameterList(_parameter(w) for w in weights)
        self.biases = nn.ParameterList(_parameter(b) for b in biases)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.biases[-1]) // self.grid**2

    @torch.no_grad()
    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Compute the logits of every pixel of an image; on a grid, the log probabilities.

        To train a head, take :func:`pipeline.hypercolumn.head_loss`: no gradient flows from here.

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
        layers = [self.weights[0], self.biases[0], *self.later]
        strip_scores = (compiled_strip if compiled_strip.is_for(layers[0]) else torch_strip).scores
        found: Tensor = layers[0].new_empty(self.n_classes, *size)
        maps = [m.to(found.dtype) for m in maps]

        def of_strip(maps: Sequence[Tensor], strip: Rows) -> None:
            projection = Projection(maps, size, self.geometry, strip)
            for start, stop, values in strip_scores(projection, layers, self.activation):
                if self.grid > 1:
                    weights = block_weights(size, self.grid, start, stop, values.device)
                    values = log_probability(values, weights)
                found[:, start:stop] = values.reshape(-1, stop - start, size[1])

        width = len(self.weights[0])
        deque(over_strips(of_strip, [(maps, size)], found.device, width=width), maxlen=0)
        return found

    @property
    def later(self) -> list[Tensor]:
        """Weight and bias of every layer but the first, one after the other."""
        pairs = zip(self.weights[1:], self.biases[1:], strict=True)
        return [tensor for pair in pairs for tensor in pair]


def _parameter(values: Tensor) -> nn.Parameter:
    """Copy values; in one order in memory, on which the last bits of a product depend."""
    return nn.Parameter(values.detach().clone(memory_format=torch.contiguous_format))
