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
_NOWHERE = 1e-6
"""A class that is nowhere more probable is left as it is: most classes are in few images."""

Maps = NDArray[np.float64]
"""(C, H, W), or (3, 3, H, W)"""


@dataclass(frozen=True)
class GuidedFilter(Refinement):
    """The guided filter, class by class.

    The filter is linear and keeps constants, so the results sum to one as probabilities do, up to a
    millionth for each class that the image does not show; near
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
        guide = image.transpose(2, 0, 1).astype(np.float64)  # (3, H, W)
        windows = _Windows(image.shape[:2], self.radius)
        mean = windows.means(guide)
        inverse = self._inverse_covariance(windows, guide, mean)
        given = probabilities.numpy()
        refined = np.empty_like(given)
        for p, out in zip(given, refined, strict=True):
            if p.max() < _NOWHERE:
                out[...] = p
                continue
            means = windows.means(np.concatenate([p[None], guide * p]))  # (4, H, W)
            a = (inverse * (means[1:] - mean * means[0])).sum(axis=1)
            b = means[0] - (a * mean).sum(axis=0)
            means = windows.means(np.concatenate([a, b[None]]))
            out[...] = (means[:3] * guide).sum(axis=0) + means[3]
        return torch.from_numpy(refined)

    def _inverse_covariance(self, windows: "_Windows", guide: Maps, mean: Maps) -> Maps:
        """Invert each window's covariance of the colours, plus the ridge: (3, 3, H, W)."""
        covariance = np.stack([windows.means(guide * i) for i in guide]) - mean[:, None] * mean
        ridge = self.epsilon * _WHITE**2 * np.eye(3)
        inverse = np.linalg.inv(covariance.transpose(2, 3, 0, 1) + ridge)
        return np.ascontiguousarray(inverse.transpose(2, 3, 0, 1))


class _Windows:
    """The windows around the pixels of an image.

    Parameters
    ----------
    size : (H, W)
    radius : int
    """

    def __init__(self, size: tuple[int, ...], radius: int) -> None:
        centres = [np.arange(pixels) for pixels in size]
        self._first = [np.maximum(at - radius, 0) for at in centres]
        self._stop = [np.minimum(at + radius + 1, len(at)) for at in centres]
        height, width = (s - f for f, s in zip(self._first, self._stop, strict=True))
        self._pixels = height[:, None] * width
        # Running sums from a zero on; used again and again, since new memory costs more than sums.
        self._down, self._across = (
            np.zeros((size[0] + more, size[1] + 1 - more)) for more in (1, 0)
        )

    def means(self, values: Maps) -> Maps:
        """Average values (C, H, W) over the window around each pixel."""
        found = np.empty_like(values)
        for plane, out in zip(values, found, strict=True):
            np.cumsum(plane, axis=0, out=self._down[1:])
            sums = self._down.take(self._stop[0], 0) - self._down.take(self._first[0], 0)
            np.cumsum(sums, axis=1, out=self._across[:, 1:])
            sums = self._across.take(self._stop[1], 1) - self._across.take(self._first[1], 1)
            np.divide(sums, self._pixels, out=out)
        return found
