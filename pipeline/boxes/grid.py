"""Boxes, the grid of places in a box, and reading feature maps there.

Bilinear interpolation at a grid of places is that of its rows times that of its columns, so it is
written as two small matrices, which cover just the cells that the box reads: ``A F B^T``. Matrix
products are the same on every run, on a CPU and on a GPU, and so are their gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data import Box
from pipeline.hypercolumn import Geometry
from pipeline.hypercolumn.geometry import reads_at

Size = tuple[int, int]


def expanded(box: Box, factor: float, size: Size) -> Box:
    """Enlarge a box about its centre, and cut it off where its image ends.

    Parameters
    ----------
    box : Box
    factor : float
        Of its sides.
    size : (H, W)
        The image's.

    Returns
    -------
    Box
        Without extent if the box lies outside the image.
    """
    more_x, more_y = (factor - 1) / 2 * box.width, (factor - 1) / 2 * box.height
    return Box(
        min(max(box.left - more_x, 0.0), size[1]),
        min(max(box.top - more_y, 0.0), size[0]),
        min(max(box.right + more_x, 0.0), size[1]),
        min(max(box.bottom + more_y, 0.0), size[0]),
    )


def rescaled(box: Box, size: Size, target: Size) -> Box:
    """Give a box of an image of one (H, W) as a box of the same image resized to another."""
    across, down = target[1] / size[1], target[0] / size[0]
    return Box(box.left * across, box.top * down, box.right * across, box.bottom * down)


def places(start: float, stop: float, points: int) -> Tensor:
    """Divide an axis into equal parts, and give the middle of each: float64, shape (points,)."""
    return start + (torch.arange(points, dtype=torch.float64) + 0.5) * ((stop - start) / points)


@dataclass(frozen=True)
class Interpolation:
    """Bilinear reads along one axis of a map.

    Attributes
    ----------
    first : int
        The first cell that is read.
    weights : Tensor of float32, shape (places, cells read)
    """

    first: int
    weights: Tensor

    @property
    def cells(self) -> slice:
        """The cells that are read."""
        return slice(self.first, self.first + self.weights.shape[1])


def interpolation(at: Tensor, cells: int, pixels: int, geometry: Geometry) -> Interpolation:
    """Give the reads at places along one axis.

    Parameters
    ----------
    at : Tensor of float64, shape (n,)
        Places in pixels, from the image's edge.
    cells : int
        Cells of the map along the axis.
    pixels : int
        Pixels of the image along the axis.
    geometry : {"half_pixel", "align_corners"}
        How the map lies on the image.
    """
    lower, upper, weight = reads_at(at, cells, pixels, geometry)
    first = int(lower.min())
    weights = torch.zeros(len(at), int(upper.max()) + 1 - first, dtype=torch.float64)
    row = torch.arange(len(at))
    # Lower and upper are one cell where there is no other: the weights add up.
    weights.index_put_((row, lower - first), 1 - weight, accumulate=True)
    weights.index_put_((row, upper - first), weight, accumulate=True)
    return Interpolation(first, weights.float())


def resampled(values: Tensor, down: Interpolation, across: Interpolation) -> Tensor:
    """Read values (..., h, w), just the cells that are read, at a grid of places (..., n, m)."""
    return down.weights.to(values) @ values @ across.weights.to(values).T


def box_overlap(one: Box, other: Box) -> float:
    """Compute the intersection over union of two boxes."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (one.width * one.height + other.width * other.height - shared)
