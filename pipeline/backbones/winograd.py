"""3x3 convolutions with a quarter of the multiplications.

Winograd's minimal filtering in two dimensions, F(4x4, 3x3) in the terms of Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.2: a tile of 4x4 outputs is
``A^T [(G g G^T) * (B^T d B)] A`` for the kernel g and the 6x6 inputs d, with 36 products for each
pair of channels where the plain formula has 144. Over all tiles each of the 36 is a product of
matrices. Torch's own convolutions on the CPU follow the plain formula. In float32 both are off by
rounding: a single layer by 1e-6 to 2e-6 of its outputs' standard deviation in the root of the mean
square, three to five times as much as torch's. Behind several layers of VGG-11 there is no
difference to be seen; SqueezeNet's maps are off by 5e-7 to 1e-6 where torch's are by 4e-7 to 8e-7.
A value that is not finite spoils tiles of 4x4, and one over 1e36 is too large for the sums.
"""

from functools import cached_property

from torch import Tensor, nn

from pipeline.backbones.on_cpu import Array, FrozenConv2d
from pipeline.backbones.winograd_loops import convolve, convolve_in_parts
from pipeline.compiled import threads_to_share
from pipeline.compiled.panels import in_panels
from pipeline.compiled.writer import LANES

_TILE = 4
_FEWEST_CHANNELS, _FEWEST_TILES = 16, 4
"""With fewer the sums around the products take longer than what they save."""
_VALUES_AT_ONCE = 1 << 16
"""Inputs of products, which should stay in fast memory from one panel of channels to the next."""
_TILES_AT_ONCE = 48
"""At least, and a quarter of the channels more: for fewer the kernels would be transformed and read
too often."""


class WinogradConv2d(FrozenConv2d):
    """A frozen 3x3 convolution that takes the fast way on the CPU, in float32, where it pays.

    That is where there are 16 channels or more, in multiples of 8.
    """

    @staticmethod
    def replaces(module: nn.Conv2d) -> bool:
        """Tell whether a convolution is one of those that this is made for."""
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return (
            plain
            and min(module.in_channels, module.out_channels) >= _FEWEST_CHANNELS
            and module.in_channels % LANES == 0
            and module.kernel_size == (3, 3)
            and set(module.stride) == set(module.dilation) == {module.groups} == {1}
        )

    def takes(self, images: Tensor) -> bool:
        """Tell whether images (N, C, H, W) are convolved the fast way."""
        if not super().takes(images):
            return False
        height, width = self.size_of_output(images)
        tiles = -(-height // _TILE) * -(-width // _TILE)
        return tiles >= _FEWEST_TILES

    def convolve(self, images: Array, maps: Array, first: int) -> None:
        """Convolve images (N, H, W, C) into some channels of maps (N, h, w, C'), without gaps."""
        padding = int(self.padding[0]), int(self.padding[1])
        tiles = max(
            _VALUES_AT_ONCE // (36 * self.in_channels), _TILES_AT_ONCE + self.in_channels // 4
        )
        down, across = (-(-length // _TILE) for length in maps.shape[1:3])
        at_once, threads = max(1, tiles // across), threads_to_share()
        what = self._kernels, self.bias_panels, self.relu, padding
        for image, out in zip(images, maps, strict=True):
            where = out, first, self.out_channels
            if threads == 1:
                convolve(image, *what, 0, down, at_once, *where)
            else:
                convolve_in_parts(image, *what, at_once, *where, threads)

    @cached_property
    def _kernels(self) -> Array:
        """The weights, (P, C_in, 9, 16)."""
        weights = self.weight.reshape(self.out_channels, self.in_channels, 9)
        return in_panels(weights.permute(1, 2, 0).numpy())
