"""3x3 convolutions with a quarter of the multiplications.

Winograd's minimal filtering in two dimensions, F(4x4, 3x3) in the terms of Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4.2: a tile of 4x4 outputs is
``A^T [(G g G^T) * (B^T d B)] A`` for the kernel g and the 6x6 inputs d, with 36 products for each
pair of channels where the plain formula has 144. Over all tiles each of the 36 is a product of
matrices. Torch's own convolutions on the CPU follow the plain formula. In float32 both are off by
rounding: a single layer by 1e-6 of its outputs' standard deviation in the root of the mean square,
two to five times as much as torch's; behind several layers there is no difference to be seen.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

_TILE = 4
_FEWEST_CHANNELS, _FEWEST_TILES = 64, 49
"""With fewer channels, the sums around the products take longer than what they save; with fewer
tiles, of a map smaller than 28x28, hardly anything is saved for the memory of the kernels."""
_VALUES_AT_ONCE = 1 << 16
"""Channels times tiles, of which 36 times as many values are in memory before the products, and
again behind them, however large the image."""

_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)


class WinogradConv2d(nn.Conv2d):
    """A frozen 3x3 convolution that takes the fast way on the CPU, in float32, where it pays.

    Its results have their channels last in memory then. The transformed kernel is kept as well,
    four times as large as the kernel itself.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Convolve images (N, C, H, W)."""
        pad_y, pad_x = (int(pad) for pad in self.padding)
        height, width = images.shape[-2] + 2 * pad_y - 2, images.shape[-1] + 2 * pad_x - 2
        down, across = -(-height // _TILE), -(-width // _TILE)
        fits = images.device.type == "cpu" and images.dtype == self.weight.dtype == torch.float32
        if not fits or images.ndim != 4 or down * across < _FEWEST_TILES:
            return super().forward(images)
        out = images.new_empty(len(images), height, width, self.out_channels)
        channels = max(self.in_channels, self.out_channels)
        rows = max(1, _VALUES_AT_ONCE // (channels * across))
        for image, whole in zip(images.permute(0, 2, 3, 1), out, strict=True):
            for first in range(0, down, rows):
                top, bottom = _TILE * first, _TILE * min(first + rows, down)
                band = _padded(image, top - pad_y, bottom + 2 - pad_y, pad_x, _TILE * across + 2)
                place = whole[top:bottom]
                if place.shape[:2] == (bottom - top, _TILE * across):
                    self._convolve(band, place)
                else:  # the last tiles reach beyond the image
                    tiles = out.new_empty(bottom - top, _TILE * across, self.out_channels)
                    self._convolve(band, tiles)
                    place.copy_(tiles[: len(place), :width])
        return out.permute(0, 3, 1, 2)

    @cached_property
    def _kernel(self) -> Tensor:
        """The transformed kernel, (36, C_in, C_out)."""
        taps = self.weight.permute(2, 3, 1, 0).flatten(0, 1)
        kernel = taps.new_empty(36, *taps.shape[1:])
        pieces = (torch.split(tensor, 64, dim=1) for tensor in (taps, kernel))
        for some, place in zip(*pieces, strict=True):
            transformed = torch.kron(_G, _G) @ some.double().flatten(1)
            place.copy_(transformed.view(place.shape))
        return kernel

    def _convolve(self, band: Tensor, out: Tensor) -> None:
        """Convolve rows of tiles, (4 h + 2, 4 w + 2, C_in), into their place, (4 h, 4 w, C_out)."""
        down, across = len(out) // _TILE, out.shape[1] // _TILE
        channels = band.shape[2]
        by_row = band.new_empty(6, down, band.shape[1], channels)
        _to_products([band[i : i + _TILE * down - 3 : _TILE] for i in range(6)], by_row)
        values = band.new_empty(6, 6, down, across, channels)
        columns = [by_row[:, :, i : i + _TILE * across - 3 : _TILE] for i in range(6)]
        _to_products(columns, values.unbind(1))
        products = torch.bmm(values.view(36, down * across, channels), self._kernel)
        products = products.view(6, 6, down, across, -1)
        if self.bias is not None:
            products[1, 1] += self.bias  # A^T hands this one on to all outputs as it is
        by_row = products.new_empty(4, *products.shape[1:])
        _from_products(products, by_row)
        tiles = out.view(down, _TILE, across, _TILE, -1).permute(3, 1, 0, 2, 4)
        _from_products(by_row.unbind(1), tiles)


def with_winograd(network: nn.Module) -> nn.Module:
    """Exchange the convolutions of a frozen network, in place, that can take the fast way."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and _can_be_fast(module):
            parent, _, own_name = name.rpartition(".")
            setattr(network.get_submodule(parent), own_name, _exchanged(module))
    return network


def _can_be_fast(module: nn.Conv2d) -> bool:
    plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return (
        plain
        and module.weight is not None
        and min(module.in_channels, module.out_channels) >= _FEWEST_CHANNELS
        and module.kernel_size == (3, 3)
        and set(module.stride) == set(module.dilation) == {module.groups} == {1}
    )


def _exchanged(module: nn.Conv2d) -> WinogradConv2d:
    fast = WinogradConv2d(module.in_channels, module.out_channels, 3, device="meta")
    fast.padding = module.padding
    fast.weight, fast.bias = module.weight, module.bias
    return fast.train(module.training)


def _padded(image: Tensor, top: int, bottom: int, left: int, width: int) -> Tensor:
    """Give rows of an image (H, W, C), and ``left`` columns more, with zeros beyond its border."""
    band = image.new_zeros(bottom - top, width, image.shape[2])
    first, last = max(top, 0), min(bottom, len(image))
    if first < last:
        band[first - top : last - top, left : left + image.shape[1]] = image[first:last]
    return band


def _to_products(inputs: Sequence[Tensor], out: Sequence[Tensor] | Tensor) -> None:
    """Compute B^T d along an axis: six tensors from six."""
    d0, d1, d2, d3, d4, d5 = inputs
    v0, v1, v2, v3, v4, v5 = out
    torch.sub(d4, d2, alpha=4, out=v1)
    torch.sub(d3, d1, alpha=4, out=v0)  # v0 and v5 hold parts of others until their turn
    torch.sub(v1, v0, out=v2)
    v1.add_(v0)  # d4 - 4 d2 + d3 - 4 d1
    torch.sub(d4, d2, out=v3)
    torch.sub(d3, d1, out=v5)
    torch.sub(d0, d2, out=v0).mul_(4).add_(v3)  # 4 d0 - 5 d2 + d4
    torch.sub(v3, v5, alpha=2, out=v4)
    v3.add_(v5, alpha=2)  # d4 - d2 + 2 d3 - 2 d1
    v5.mul_(-4).add_(d5).sub_(d3)  # 4 d1 - 5 d3 + d5


def _from_products(products: Sequence[Tensor] | Tensor, out: Sequence[Tensor] | Tensor) -> None:
    """Compute A^T m along an axis: four tensors from six."""
    m0, m1, m2, m3, m4, m5 = products
    y0, y1, y2, y3 = out
    sum_34, difference_34 = m3 + m4, m3 - m4
    torch.add(m1, m2, out=y2)
    torch.sub(m1, m2, out=y3)
    torch.add(m0, y2, out=y0).add_(sum_34)
    torch.add(y3, difference_34, alpha=2, out=y1)
    y2.add_(sum_34, alpha=4)
    y3.add_(m5).add_(difference_34, alpha=8)
