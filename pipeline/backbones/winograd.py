"""3x3 convolutions with a quarter of the multiplications.

Winograd's minimal filtering in two dimensions, F(4x4, 3x3) in the terms of Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.2: a tile of 4x4 outputs is
``A^T [(G g G^T) * (B^T d B)] A`` for the kernel g and the 6x6 inputs d, with 36 products for each
pair of channels where the plain formula has 144. Over all tiles each of the 36 is a product of
matrices, torch's; the sums around the products are compiled loops. Torch's own convolutions on the
CPU follow the plain formula. In float32 both are off by rounding: a single layer by 1e-6 to 2e-6 of
its outputs' standard deviation in the root of the mean square, three to five times as much as
torch's. Behind several layers of VGG-11 there is no difference to be seen; SqueezeNet's maps are
off by 5e-7 to 1e-6 where torch's are by 4e-7 to 8e-7.
"""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.backbones.loops import from_products, to_kernels, to_products
from pipeline.backbones.on_cpu import FrozenConv2d, Place

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]

_TILE = 4
_FEWEST_CHANNELS, _FEWEST_TILES = 16, 16
"""With fewer channels the sums around the products take longer than what they save; so they do with
fewer tiles, or fewer than one for each 16 channels."""
_VALUES_AT_ONCE = 1 << 17
"""Channels, before and behind the products, times tiles: 36 times as many values are in memory,
however large the image."""
_FEW_TILES = 128
"""Computed together, or twice the channels: of more the values would not stay in fast memory, and
for fewer the kernels would be read more often."""

_KEPT = 1 << 17
"""Pairs of channels up to which transformed kernels are kept, in four times the kernels' memory.
Those of more are computed again for every image, for so many output channels at a time as is said
below: 38 MB less for each of VGG's layers with 512, which take 7 ms longer."""
_KERNELS_AT_ONCE = 128


class WinogradConv2d(FrozenConv2d):
    """A frozen 3x3 convolution that takes the fast way on the CPU, in float32, where it pays.

    Transformed kernels are kept as well, four times as large as the kernels themselves, unless
    those are large.
    """

    @staticmethod
    def replaces(module: nn.Conv2d) -> bool:
        """Tell whether a convolution is one of those that this is made for."""
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return (
            plain
            and min(module.in_channels, module.out_channels) >= _FEWEST_CHANNELS
            and module.kernel_size == (3, 3)
            and set(module.stride) == set(module.dilation) == {module.groups} == {1}
        )

    def takes(self, images: Tensor) -> bool:
        """Tell whether images (N, C, H, W) are convolved the fast way."""
        if not super().takes(images):
            return False
        height, width = self.size_of_output(images)
        tiles = -(-height // _TILE) * -(-width // _TILE)
        return tiles >= max(_FEWEST_TILES, min(self.in_channels, self.out_channels) / 16)

    def convolve(self, images: Tensor, place: Place) -> None:
        """Convolve images (N, H, W, C) that have no gaps in memory."""
        maps, first = place
        for image, out in zip(images.numpy(), maps.numpy(), strict=True):
            self._convolve(image, out, first)

    def _convolve(self, image: Array, out: Array, first: int) -> None:
        channels, wanted = self.in_channels, self.out_channels
        down, across = -(-out.shape[0] // _TILE), -(-out.shape[1] // _TILE)
        together = channels + (wanted if self._keeps else min(wanted, _KERNELS_AT_ONCE))
        tiles = min(max(_FEW_TILES, 2 * min(channels, wanted)), _VALUES_AT_ONCE // together)
        bands = -(-down // max(1, tiles // across))
        rows = -(-down // bands)
        pad_y, pad_x = (int(pad) for pad in self.padding)
        added, lowest = self.added.numpy(), self.lowest
        for top in range(0, down, rows):
            tiles = min(rows, down - top) * across
            values = self.weight.new_empty(36, tiles, channels)
            to_products(image, _TILE * top - pad_y, -pad_x, across, values.numpy())
            for start, kernels in self._kernels():
                products = torch.bmm(values, kernels).numpy()
                end = start + products.shape[2]
                place = out, first + start
                from_products(products, added[start:end], lowest, across, _TILE * top, *place)

    def _kernels(self) -> Iterator[tuple[int, Tensor]]:
        """Give transformed kernels (36, C_in, C), and which output channel is their first."""
        if self._keeps:
            yield 0, self._kept
            return
        for first in range(0, self.out_channels, _KERNELS_AT_ONCE):
            yield first, _transformed(self.weight[first : first + _KERNELS_AT_ONCE])

    @property
    def _keeps(self) -> bool:
        return self.in_channels * self.out_channels <= _KEPT

    @cached_property
    def _kept(self) -> Tensor:
        return _transformed(self.weight).contiguous()


def _transformed(kernels: Tensor) -> Tensor:
    """Give kernels (C_out, C_in, 3, 3) as (36, C_in, C_out)."""
    transformed = kernels.new_empty(36, *kernels.shape[:2])
    to_kernels(kernels.permute(0, 2, 3, 1).contiguous().numpy(), transformed.numpy())
    return transformed.transpose(1, 2)
