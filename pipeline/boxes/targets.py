"""What the heat maps of a box ought to show: the object, or one of its keypoints."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.boxes.grid import places
from pipeline.data import Box, Keypoint

NOT_COUNTED = 255


def figure_ground(
    mask: NDArray[np.uint8], number: int, *, box: Box, points: int, void: int
) -> Tensor:
    """Tell at each point of a box whether the pixel there belongs to an object.

    Parameters
    ----------
    mask : array of uint8, shape (H, W)
        Numbers of objects.
    number : int
        The object's.
    box : Box
        In pixels of that image, inside it.
    points : int
        N, along each side.
    void : int
        Value of pixels that do not count.

    Returns
    -------
    Tensor of uint8, shape (N, N)
        1 in the object, 0 outside, :data:`NOT_COUNTED` on void.
    """
    ys = places(box.top, box.bottom, points).long().clamp(max=mask.shape[0] - 1)
    xs = places(box.left, box.right, points).long().clamp(max=mask.shape[1] - 1)
    read = torch.from_numpy(mask[ys.numpy()[:, None], xs.numpy()])
    target = (read == number).to(torch.uint8)
    target[read == void] = NOT_COUNTED
    return target


def near_keypoint(keypoint: Keypoint, *, box: Box, points: int, reach: float) -> Tensor:
    """Tell at each point of a box whether it is within ``reach`` pixels of a keypoint.

    Returns
    -------
    Tensor of uint8, shape (N, N)
        1 near a visible keypoint, 0 elsewhere. Where a keypoint is hidden nothing counts: another
        object is to be seen at its place.
    """
    if not keypoint.visible:
        return torch.full((points, points), NOT_COUNTED, dtype=torch.uint8)
    down = places(box.top, box.bottom, points) - keypoint.y
    across = places(box.left, box.right, points) - keypoint.x
    return (down[:, None] ** 2 + across**2 <= reach**2).to(torch.uint8)
