"""Hypercolumns as they are defined: the full map, and single columns read at chosen pixels.

The full map is the plain formula (Hariharan et al., CVPR 2015, section 3) and is kept as the
reference that everything faster must equal; it takes ``4 D H W`` bytes, so nothing in the pipeline
calls it. :func:`hypercolumns_at` gives the same values at ``n`` pixels for four reads per tap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    return read_columns([_cells_of(m) for m in maps], ys, xs, size, geometry)


@dataclass(frozen=True)
class Cells:
    """A feature map of which only single cells are needed, so that it need not be in memory.

    Attributes
    ----------
    size : (h, w)
        The map's size.
    at : callable
        Given the rows and the columns of n cells, int64 of shape (n,), gives their values, at
        least float32, of shape (C, n).
    """

    size: tuple[int, int]
    at: Callable[[Tensor, Tensor], Tensor]


def read_columns(
    maps: Sequence[Cells], ys: Tensor, xs: Tensor, size: tuple[int, int], geometry: Geometry
) -> Tensor:
    """Do as :func:`hypercolumns_at` does, with maps that give single cells."""
    # Maps of one size are read at the same cells.
    sizes = tuple(dict.fromkeys(m.size for m in maps))
    corners = dict(zip(sizes, _corners_around(ys, xs, sizes, size, geometry), strict=True))
    weighted = torch.cat([corners[m.size].read(m) for m in maps], dim=1)
    corners_of_all = weighted.reshape(4, len(ys), weighted.shape[1])
    top_left, top_right, bottom_left, bottom_right = corners_of_all.unbind()
    return top_left + top_right + bottom_left + bottom_right


@dataclass(frozen=True)
class _Corners:
    """The four cells around each of n pixels, one corner after the other, and their weights."""

    ys: Tensor
    xs: Tensor
    weights: Tensor
    """All three are of shape (4 * n,)."""

    def read(self, m: Cells) -> Tensor:
        """Read the weighted cells (4 * n, C) of a map."""
        values = m.at(self.ys, self.xs).T
        return values * self.weights.to(values.device, values.dtype)[:, None]


def _corners_around(
    ys: Tensor,
    xs: Tensor,
    sizes: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    geometry: Geometry,
) -> list[_Corners]:
    """Give the corners on maps of different sizes, computed for all of them at once."""
    top, bottom, down, left, right, across = _corner_reads(sizes, size, geometry)
    top, bottom, down = top[:, ys], bottom[:, ys], down[:, ys]
    left, right, across = left[:, xs], right[:, xs], across[:, xs]
    up, back = 1 - down, 1 - across
    cell_ys = torch.cat([top, top, bottom, bottom], dim=1)
    cell_xs = torch.cat([left, right, left, right], dim=1)
    weights = torch.cat([up * back, up * across, down * back, down * across], dim=1)
    return [_Corners(*parts) for parts in zip(cell_ys, cell_xs, weights, strict=True)]


# The images of a data set are of few sizes, if they are resized.
@lru_cache(maxsize=64)
def _corner_reads(
    sizes: tuple[tuple[int, int], ...], size: tuple[int, int], geometry: Geometry
) -> list[Tensor]:
    """Give what :func:`corner_reads` does, a row for each size."""
    reads = (corner_reads(cells, size, geometry) for cells in sizes)
    return [torch.stack(rows) for rows in zip(*reads, strict=True)]


def _cells_of(m: Tensor) -> Cells:
    dtype = torch.promote_types(m.dtype, torch.float32)
    return Cells((m.shape[1], m.shape[2]), lambda y, x: m[:, y, x].to(dtype))
