"""1x1 convolutions as what they are with the channels last: one product of matrices."""

from functools import cached_property

from torch import nn

from pipeline.backbones.on_cpu import Array, FrozenConv2d
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

    def convolve(self, images: Array, maps: Array, first: int) -> None:
        """Convolve images (N, H, W, C) into some channels of maps (N, h, w, C'), without gaps."""
        cells, out = images.reshape(-1, self.in_channels), maps.reshape(-1, maps.shape[3])
        what = cells, self._matrix, self.bias_panels, self.relu, out, first, self.out_channels
        threads = threads_to_share()
        if threads == 1:
            multiply_by_panels(*what)
        else:
            multiply_in_parts(*what, threads)

    @cached_property
    def _matrix(self) -> Array:
        """The weights, (P, C_in, 16)."""
        return in_panels(self.weight.view(self.out_channels, -1).t().numpy())
