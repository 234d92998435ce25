"""Where a pixel of the image lies on a feature map: the two cells and the weight along one axis.

Two conventions are in use, and a cache keeps to one of them:

``half_pixel``
    Cell ``i`` of ``n`` covers ``[i/n, (i+1)/n)`` of the image and is sampled at its centre; beyond
    the outermost centres the border value continues. This is ``align_corners=False`` of
    :func:`torch.nn.functional.interpolate`.
``align_corners``
    The outermost cells sit on the outermost pixels.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Geometry = Literal["half_pixel", "align_corners"]


def axis_reads(cells: int, pixels: int, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    """Give the bilinear reads along one axis for every pixel.

    Parameters
    ----------
    cells : int
        Number of cells of the feature map along the axis.
    pixels : int
        Number of pixels of the image along the axis.
    geometry : {"half_pixel", "align_corners"}
        The convention, see the module's text.

    Returns
    -------
    lower, upper : Tensor of int64, shape (pixels,)
        The cells on either side of each pixel; equal where there is only one.
    weight : Tensor of float64, shape (pixels,)
        The weight of ``upper``; that of ``lower`` is one minus it.
    """
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5
    return reads_at(centres, cells, pixels, geometry)


def reads_at(
    places: Tensor, cells: int, pixels: int, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """Do as :func:`axis_reads` does, at any places along the axis.

    Parameters
    ----------
    places : Tensor of float64, shape (n,)
        In pixels, from the image's edge: 0.5 is the centre of the first pixel.
    cells, pixels, geometry
        As :func:`axis_reads` takes them.
    """
    if geometry == "half_pixel":
        position = places * (cells / pixels) - 0.5
    else:
        position = (places - 0.5) * ((cells - 1) / (pixels - 1) if pixels > 1 else 0.0)
    position = position.clamp(0, cells - 1)
    lower = position.floor().long()
    return lower, (lower + 1).clamp(max=cells - 1), position - lower


# The images of a data set are of few sizes, if they are resized.
@lru_cache(maxsize=256)
def corner_reads(
    cells: tuple[int, int], pixels: tuple[int, int], geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Give :func:`axis_reads` of both axes: ``(top, bottom, down, left, right, across)``.

    They are kept for who asks again, and not to be written to.
    """
    return (
        *axis_reads(cells[0], pixels[0], geometry),
        *axis_reads(cells[1], pixels[1], geometry),
    )
