"""1x1 convolutions as what they are with the channels last: one product of matrices."""

import torch
from torch import Tensor, nn

from pipeline.backbones.on_cpu import FrozenConv2d, Place


class PointwiseConv2d(FrozenConv2d):
    """A frozen 1x1 convolution that is one product on the CPU, in float32."""

    @staticmethod
    def replaces(module: nn.Conv2d) -> bool:
        """Tell whether a convolution is one of those that this is made for."""
        return (
            module.kernel_size == (1, 1)
            and module.padding == (0, 0)
            and set(module.stride) == {module.groups} == {1}
        )

    def convolve(self, images: Tensor, place: Place) -> None:
        """Convolve images (N, H, W, C) that have no gaps in memory."""
        maps, first = place
        cells, out = images.view(-1, self.in_channels), maps.view(-1, maps.shape[3])
        if out.shape[1] > self.out_channels:
            out = out.narrow(1, first, self.out_channels)
        torch.addmm(self.added, cells, self._matrix, out=out)
        if self.relu:
            out.relu_()

    @property
    def _matrix(self) -> Tensor:
        """The kernel, (C_in, C_out)."""
        return self.weight.view(self.out_channels, self.in_channels).t()
