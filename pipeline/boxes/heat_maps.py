"""Heat maps over boxes (Hariharan et al., CVPR 2015, section 3).

A box is covered by N x N points, N = 50 in the paper, and by a coarser K x K grid of classifiers.
The heat at point i interpolates between the classifiers' outputs, not between their weights:

    ``p_i = sum_k alpha_ik sigmoid(w_k f_i + b_k)``

where ``f_i`` is the hypercolumn at the point and ``alpha`` the bilinear weights of the point
between the centres of the grid's cells. As the paper has it, each ``w_k`` is trained on the points
of its own cell, and interpolation comes at test time.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.boxes.grid import Size, interpolation, places, resampled
from pipeline.data import Box
from pipeline.hypercolumn import Geometry


def box_logits(
    maps: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    *,
    box: Box,
    size: Size,
    geometry: Geometry,
    points: int,
) -> Tensor:
    """Compute linear scores of the hypercolumns at the points of a box.

    A linear layer and resampling commute: each map is multiplied before it is resampled where the
    box reads fewer cells of it than there are points, and afterwards where it reads more.

    Parameters
    ----------
    maps : sequence of Tensor, each (C_t, h_t, w_t)
        What hypercolumns are made of, for the whole image.
    weight : Tensor of shape (R, D), D the sum of all C_t
    bias : Tensor of shape (R,)
    box : Box
        In pixels of an image of ``size``, inside it.
    size : (H, W)
        The image's, as the backbone saw it.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.
    points : int
        N, along each side.

    Returns
    -------
    Tensor of shape (R, N, N)
    """
    ys, xs = places(box.top, box.bottom, points), places(box.left, box.right, points)
    total = bias[:, None, None]
    of_map = torch.split(weight, [len(m) for m in maps], dim=1)
    for m, w in zip(maps, of_map, strict=True):
        down = interpolation(ys, m.shape[1], size[0], geometry)
        across = interpolation(xs, m.shape[2], size[1], geometry)
        cells = m[:, down.cells, across.cells]
        if cells[0].numel() <= points**2:
            scores = (w @ cells.flatten(1)).reshape(len(w), *cells.shape[1:])
            total = total + resampled(scores, down, across)
        else:
            read = resampled(cells, down, across)
            total = total + (w @ read.flatten(1)).reshape(len(w), points, points)
    return total


def box_columns(
    maps: Sequence[Tensor], *, box: Box, size: Size, geometry: Geometry, points: int
) -> Tensor:
    """Read the hypercolumns themselves at the points of a box: (D, N, N)."""
    ys, xs = places(box.top, box.bottom, points), places(box.left, box.right, points)
    read = []
    for m in maps:
        down = interpolation(ys, m.shape[1], size[0], geometry)
        across = interpolation(xs, m.shape[2], size[1], geometry)
        read.append(resampled(m[:, down.cells, across.cells], down, across))
    return torch.cat(read)


def own_cells(points: int, k: int) -> Tensor:
    """Give the grid cell that each point lies in, int64 of shape (N, N), cells row by row."""
    along = (torch.arange(points) * 2 + 1) * k // (2 * points)
    return along[:, None] * k + along


def own_logits(logits: Tensor, k: int) -> Tensor:
    """Pick at each point the score of its own cell's classifier: (T, K^2, N, N) to (T, N, N)."""
    cells = own_cells(logits.shape[-1], k).to(logits.device)
    return logits.gather(1, cells.expand(len(logits), 1, -1, -1))[:, 0]


def interpolated(logits: Tensor, k: int) -> Tensor:
    """Interpolate between the outputs of a grid of classifiers.

    Parameters
    ----------
    logits : Tensor of shape (T, K^2, N, N)
        Of every cell's classifier at every point, cells row by row.
    k : int
        K, cells along each side.

    Returns
    -------
    Tensor of shape (T, N, N)
        Heat, 0 to 1.
    """
    points = logits.shape[-1]
    alpha = interpolation(places(0.0, points, points), k, points, "half_pixel").weights
    alpha = alpha.to(logits)
    heat = logits.sigmoid().reshape(len(logits), k, k, points, points)
    return torch.einsum("ya,xb,tabyx->tyx", alpha, alpha, heat)


def splat(heat: Tensor, box: Box, size: Size) -> Tensor:
    """Resize a heat map to its box and lay it onto the image.

    Parameters
    ----------
    heat : Tensor of shape (N, N)
    box : Box
        In pixels of an image of ``size``.
    size : (H, W)
        The image's.

    Returns
    -------
    Tensor of float32, shape (H, W)
        Bilinearly interpolated at pixels whose centre lies in the box; zero elsewhere.
    """
    image = torch.zeros(size)
    points = heat.shape[0]
    rows, ys = _pixels_in(box.top, box.bottom, size[0])
    columns, xs = _pixels_in(box.left, box.right, size[1])
    if rows.stop > rows.start and columns.stop > columns.start:
        in_box = points / torch.tensor([box.height, box.width], dtype=torch.float64)
        down = interpolation((ys - box.top) * in_box[0], points, points, "half_pixel")
        across = interpolation((xs - box.left) * in_box[1], points, points, "half_pixel")
        image[rows, columns] = resampled(heat[down.cells, across.cells].cpu(), down, across)
    return image


def _pixels_in(start: float, stop: float, pixels: int) -> tuple[slice, Tensor]:
    """Give the pixels along an axis whose centres lie in [start, stop), and the centres."""
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5
    inside = torch.nonzero((centres >= start) & (centres < stop))[:, 0]
    first = int(inside[0]) if len(inside) else 0
    return slice(first, first + len(inside)), centres[inside]
