"""1x1 convolutions as what they are with the channels last: one product of matrices."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbones.on_cpu import FrozenConv2d, Place
from pipeline.compiled import threads_to_share
from pipeline.compiled.panels import in_panels, multiply_by_panels, multiply_in_parts


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
        cells, out = images.view(-1, self.in_channels).numpy(), maps.view(-1, maps.shape[3]).numpy()
        what = cells, self._matrix, self.bias_panels, self.relu, out, first, self.out_channels
        threads = threads_to_share()
        if threads == 1:
            multiply_by_panels(*what)
        else:
            multiply_in_parts(*what, threads)

    @cached_property
    def _matrix(self) -> NDArray[np.float32]:
        """The weights, (P, C_in, 16)."""
        return in_panels(self.weight.view(self.out_channels, -1).t().numpy())
