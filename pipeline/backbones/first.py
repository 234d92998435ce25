"""The first convolution of a backbone, for those who compute its map from the image."""

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.backbones.backbone import Backbone
from pipeline.backbones.preprocessing import Preprocessing
from pipeline.errors import BackboneError, WeightsError
from pipeline.hypercolumn import FirstConvolution


def first_convolution(backbone: Backbone, preprocessing: Preprocessing) -> FirstConvolution:
    """Give what the first tap of a backbone is computed with from an image as it is stored.

    With ``compute="bfloat16"`` kernel and input are rounded as the backbone rounds them; its map is
    not, while the backbone's is.

    Raises
    ------
    BackboneError
        If the tap is not a plain convolution of the image itself.
    WeightsError
        If its weights are such that the map could be infinite.
    """
    tap, module = backbone.taps[0], backbone.first_module()
    if module is None or not _is_plain(module):
        raise BackboneError(
            f"{backbone.name}: the first tap, {tap.name}, is not the network's first convolution "
            "of the image, so it cannot be computed from that; leave out --recompute-first"
        )
    kernel, channels = module.weight.detach(), module.out_channels
    bias = torch.zeros(channels) if module.bias is None else module.bias.detach()
    values = torch.from_numpy(preprocessing.values())
    if backbone.compute == "bfloat16":
        values = values.bfloat16()
    found = FirstConvolution(
        _array(kernel),
        _array(bias),
        _array(values),
        stride=(module.stride[0], module.stride[1]),
        padding=(int(module.padding[0]), int(module.padding[1])),
    )
    if not found.is_bounded:
        raise WeightsError(
            f"{backbone.name}: the weights of {tap.name} are not finite or far too large; "
            "check its weights"
        )
    return found


def _is_plain(module: nn.Conv2d) -> bool:
    zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return zeros and module.groups == 1 and set(module.dilation) == {1}


def _array(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Copy numbers in plain order, so that they depend on no device and no layout."""
    return np.array(tensor.cpu().float().numpy(), order="C")
