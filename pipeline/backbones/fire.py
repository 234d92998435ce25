"""SqueezeNet's module of three convolutions, without copying what two of them give."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.squeezenet import Fire


class JoinedFire(nn.Module):
    """A fire whose two expanding convolutions write side by side into one map, where both can.

    Its modules have torchvision's names.
    """

    def __init__(self, fire: Fire) -> None:
        super().__init__()
        for name, module in fire.named_children():
            self.add_module(name, module)
        self.train(fire.training)

    def forward(self, images: Tensor) -> Tensor:
        """Compute (N, C, H, W) from images (N, C', H, W)."""
        own: Any = self._modules
        squeezed = own["squeeze_activation"](own["squeeze"](images))
        small, large = own["expand1x1"], own["expand3x3"]
        if not (small.takes(squeezed) and large.takes(squeezed)):
            maps = own["expand1x1_activation"](small(squeezed))
            return torch.cat([maps, own["expand3x3_activation"](large(squeezed))], 1)
        both: Tensor = small.room_for(squeezed, small.out_channels + large.out_channels)
        small(squeezed, (both, 0))
        large(squeezed, (both, small.out_channels))
        return both if small.relu and large.relu else both.relu()
