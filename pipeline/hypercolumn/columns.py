"""Hypercolumns as they are defined: the full map, and single columns read at chosen pixels.

The full map is the plain formula (Hariharan et al., CVPR 2015, section 3) and is kept as the
reference that everything faster must equal; it takes ``4 D H W`` bytes, so nothing in the pipeline
calls it. :func:`hypercolumns_at` gives the same values at ``n`` pixels for four reads per tap.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.hypercolumn.geometry import Geometry, corner_reads


def hypercolumn_map(
    maps: Sequence[Tensor], size: tuple[int, int], geometry: Geometry = "half_pixel"
) -> Tensor:
    """Resample every feature map to the image and concatenate them.

    Parameters
    ----------
    maps : sequence of Tensor, each (C_t, h_t, w_t)
        The feature maps of one image, in float.
    size : (H, W)
        The image's size in pixels.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.

    Returns
    -------
    Tensor of shape (D, H, W), D the sum of all C_t
    """
    align = geometry == "align_corners"
    return torch.cat(
        [interpolate(m[None], size=size, mode="bilinear", align_corners=align)[0] for m in maps]
    )


def hypercolumns_at(
    maps: Sequence[Tensor],
    ys: Tensor,
    xs: Tensor,
    size: tuple[int, int],
    geometry: Geometry = "half_pixel",
) -> Tensor:
    """Read the hypercolumns of chosen pixels without upsampling anything.

    Parameters
    ----------
    maps : sequence of Tensor, each (C_t, h_t, w_t)
        The feature maps of one image.
    ys, xs : Tensor of int64, shape (n,)
        Pixel coordinates in an image of ``size``.
    size : (H, W)
        The image's size in pixels.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.

    Returns
    -------
    Tensor of shape (n, D), in the dtype of the maps, at least float32
    """
    return torch.cat([_columns(m, ys, xs, size, geometry) for m in maps], dim=1)


def _columns(
    m: Tensor, ys: Tensor, xs: Tensor, size: tuple[int, int], geometry: Geometry
) -> Tensor:
    """Read the columns (n, C) of one map."""
    reads = corner_reads((m.shape[1], m.shape[2]), size, geometry)
    top, bottom, down = (read[ys] for read in reads[:3])
    left, right, across = (read[xs] for read in reads[3:])
    corners = (
        (top, left, (1 - down) * (1 - across)),
        (top, right, (1 - down) * across),
        (bottom, left, down * (1 - across)),
        (bottom, right, down * across),
    )
    dtype = torch.promote_types(m.dtype, torch.float32)
    total = m.new_zeros(len(ys), len(m), dtype=dtype)
    for cell_ys, cell_xs, weight in corners:
        total += m[:, cell_ys, cell_xs].T.to(dtype) * weight.to(m.device, dtype)[:, None]
    return total
