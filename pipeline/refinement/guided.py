"""Smoothing that stops at the edges of the image: the guided filter.

K. He, J. Sun, X. Tang, "Guided Image Filtering", TPAMI 35(6), 2013, section 3 with the colour guide
of section 3.5. In every window of pixels a class's probability p is fitted by a linear function of
the colour I, with ridge regression,

    ``minimise  sum_i ((a . I_i + b - p_i)^2 + epsilon |a|^2)``,

and a pixel gets ``a . I_i + b``, averaged over the windows that it lies in. All sums are box sums
of running sums: the time does not depend on the radius.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.refinement.contract import Refinement

_WHITE = 255


@dataclass(frozen=True)
class GuidedFilter(Refinement):
    """The guided filter, class by class.

    The filter is linear and keeps constants, so the results sum to one as probabilities do; near
    strong edges they may lie a little below zero or above one.

    Attributes
    ----------
    radius : int
        Windows are of (2 radius + 1) x (2 radius + 1) pixels, less what lies outside the image.
    epsilon : float
        How different colours in a window, as a variance, must be for an edge to be kept; white is 1
        and black 0.
    """

    radius: int
    epsilon: float

    def __str__(self) -> str:
        return f"guided:{self.radius}:{self.epsilon!r}"

    def _refine(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        # As whole numbers: sums of them and of their products are exact, and small windows do not
        # suffer from being differences of large sums.
        guide = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64))  # (3, H, W)
        windows = _Windows(guide.shape[1:], self.radius)
        mean = windows.means(guide)
        inverse = self._inverse_covariance(windows, guide, mean)  # (H, W, 3, 3)
        refined = torch.empty_like(probabilities)
        for of_class, out in zip(probabilities, refined, strict=True):
            p = of_class.double()[None]
            means = windows.means(torch.cat([p, guide * p]))  # (4, H, W)
            mean_p, covariance = means[:1], means[1:] - mean * means[:1]
            a = torch.einsum("hwij,jhw->ihw", inverse, covariance)
            b = mean_p - (a * mean).sum(dim=0, keepdim=True)
            means = windows.means(torch.cat([a, b]))
            out.copy_((means[:3] * guide).sum(dim=0) + means[3])
        return refined

    def _inverse_covariance(self, windows: "_Windows", guide: Tensor, mean: Tensor) -> Tensor:
        """Invert each window's covariance of the colours, plus the ridge."""
        rows = [
            windows.means(guide * channel) - mean * of_channel
            for channel, of_channel in zip(guide, mean, strict=True)
        ]
        ridge = self.epsilon * _WHITE**2 * torch.eye(3, dtype=guide.dtype)
        inverse: Tensor = torch.linalg.inv(torch.stack(rows).permute(2, 3, 0, 1) + ridge)
        return inverse


class _Windows:
    """The windows around the pixels of an image.

    Parameters
    ----------
    size : (H, W)
    radius : int
    """

    def __init__(self, size: torch.Size, radius: int) -> None:
        self._reaches = []
        for pixels in size:
            centres = torch.arange(pixels)
            self._reaches.append(
                ((centres - radius).clamp(min=0), (centres + radius + 1).clamp(max=pixels))
            )
        (top, bottom), (left, right) = self._reaches
        self._counts = (bottom - top)[:, None] * (right - left)

    def means(self, values: Tensor) -> Tensor:
        """Average values (C, H, W) over the window around each pixel."""
        for dim, (first, stop) in enumerate(self._reaches, start=1):
            running = values.cumsum(dim)
            running = torch.cat([torch.zeros_like(running.narrow(dim, 0, 1)), running], dim)
            values = running.index_select(dim, stop) - running.index_select(dim, first)
        return values / self._counts
