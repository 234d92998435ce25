"""Convolutions that compute otherwise than torch on the CPU, in float32, with the channels last."""

from abc import abstractmethod
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.compiled.panels import in_panels

Array = NDArray[np.float32]
Place = tuple[Tensor, int]
"""Maps ``(N, C, h, w)``, channels last without gaps, and the first of the channels to write to."""


class FrozenConv2d(nn.Conv2d):
    """A frozen convolution that can have its ReLU in it, and write into a part of a map.

    When it is first used it puts its weights in another order, too: they stay what they are then.

    Attributes
    ----------
    relu
        Whether what it gives is that of the ReLU behind it.
    """

    relu = False

    @classmethod
    def of(cls, module: nn.Conv2d) -> Self:
        """Give one with the weights of another module, which it shares."""
        size: tuple[int, int] = (module.kernel_size[0], module.kernel_size[1])
        own = cls(module.in_channels, module.out_channels, size, device="meta")
        own.padding = module.padding
        own.weight, own.bias = module.weight, module.bias
        return own.train(module.training)

    def takes(self, images: Tensor) -> bool:
        """Tell whether images (N, C, H, W) are convolved the fast way."""
        return (
            images.dtype == self.weight.dtype == torch.float32
            and images.is_cpu
            and images.ndim == 4
            and images.shape[1] == self.in_channels
            and not torch.is_autocast_enabled("cpu")
        )

    @abstractmethod
    def convolve(self, images: Array, maps: Array, first: int) -> None:
        """Convolve images (N, H, W, C) into some channels of maps (N, h, w, C'), without gaps."""

    def forward(self, images: Tensor, place: Place | None = None) -> Tensor:
        """Convolve images (N, C, H, W).

        What it gives has its channels last in memory, where it is not torch's.

        Parameters
        ----------
        images
            What to convolve.
        place
            Where to put it, if :meth:`takes` says that it takes the images.

        Raises
        ------
        ValueError
            If there is no room for it in the place.
        """
        if place is None:
            if not self.takes(images):
                convolved = super().forward(images)
                return convolved.relu_() if self.relu else convolved
            place = self.room_for(images, self.out_channels), 0
        # NumPy's views: for each of its own torch hands on the interpreter's lock.
        cells = np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))
        maps, first = place
        self._require_room(images, maps, first)
        self.convolve(cells, maps.numpy().transpose(0, 2, 3, 1), first)
        if maps.shape[1] == self.out_channels:
            return maps
        return maps.narrow(1, first, self.out_channels)

    def _require_room(self, images: Tensor, maps: Tensor, first: int) -> None:
        expected = len(images), *self.size_of_output(images)
        of_size = (maps.shape[0], *maps.shape[2:]) == expected
        in_one_piece = maps.is_contiguous(memory_format=torch.channels_last)
        if not of_size or not in_one_piece or not 0 <= first <= maps.shape[1] - self.out_channels:
            raise ValueError(f"maps of shape {tuple(maps.shape)} are no place for the result")

    def room_for(self, images: Tensor, channels: int) -> Tensor:
        """Make maps (N, C, h, w), channels last, for what images (N, C', H, W) become."""
        height, width = self.size_of_output(images)
        maps = np.empty((len(images), height, width, channels), np.float32)
        return torch.from_numpy(maps.transpose(0, 3, 1, 2))

    def size_of_output(self, images: Tensor) -> tuple[int, int]:
        """Return height and width of what images (N, C, H, W) become."""
        size, padding = self.kernel_size, self.padding
        height = images.shape[2] + 2 * int(padding[0]) - size[0] + 1
        return height, images.shape[3] + 2 * int(padding[1]) - size[1] + 1

    @cached_property
    def bias_panels(self) -> NDArray[np.float32]:
        """The bias, (P, 16), of zeros where there is none."""
        bias = self.weight.new_zeros(self.out_channels) if self.bias is None else self.bias
        return in_panels(bias.numpy())
