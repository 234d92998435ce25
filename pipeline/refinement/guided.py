"""Smoothing that stops at the edges of the image: the guided filter.

K. He, J. Sun, X. Tang, "Guided Image Filtering", TPAMI 35(6), 2013, section 3 with the colour guide
of section 3.5. In every window of pixels a class's probability p is fitted by a linear function of
the colour I, with ridge regression,

    ``minimise  sum_i ((a . I_i + b - p_i)^2 + epsilon |a|^2)``,

and a pixel gets ``a . I_i + b``, averaged over the windows that it lies in. All sums are box sums
of running sums: the time does not depend on the radius.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.refinement.contract import Refinement

_WHITE = 255
_NOWHERE = 1e-6
"""A class that is nowhere more probable is left as it is: most classes are in few images."""


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
        regressions = _Regressions(image, self.radius, self.epsilon)
        refined = probabilities.clone(memory_format=torch.contiguous_format)
        for p in refined:
            if p.max() >= _NOWHERE:
                p.copy_(regressions.fitted(p))
        return refined


class _Regressions:
    """The regressions in all windows of an image: what depends on no class is computed once.

    The numbers are float64. What is done for each class is done in place, since new memory costs
    more than sums.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
    radius : int
    epsilon : float
        As :class:`GuidedFilter` has them.
    """

    def __init__(self, image: NDArray[np.uint8], radius: int, epsilon: float) -> None:
        # As whole numbers: sums of them and of their products are exact, and small windows do not
        # suffer from being differences of large sums.
        self._guide = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64, order="C"))
        self._windows = _Windows(self._guide.shape[1:], radius)
        self._mean = self._windows.add_up(self._guide.clone()) / self._windows.pixels
        self._lower, pivots = self._factors(epsilon * _WHITE**2)
        self._scale = 1 / (pivots * self._windows.pixels)
        self._planes = torch.empty(4, *self._guide.shape[1:], dtype=torch.float64)

    def _factors(self, ridge: float) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Factor each window's covariance of the colours, plus the ridge, as L D L'.

        The ridge is far more than what rounding does to the pivots.

        Returns
        -------
        lower : three of (H, W)
            L at (1, 0), (2, 0) and (2, 1); it is 1 on the diagonal.
        pivots : (3, H, W)
            The diagonal of D.
        """
        pairs = [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)]
        sums = self._windows.add_up(
            torch.stack([self._guide[i] * self._guide[j] for i, j in pairs])
        )
        covariance = dict(zip(pairs, sums / self._windows.pixels, strict=True))
        for i, j in pairs:
            covariance[i, j] -= self._mean[i] * self._mean[j]
        for i in range(3):
            covariance[i, i] += ridge
        first = covariance[0, 0]
        l10, l20 = covariance[1, 0] / first, covariance[2, 0] / first
        second = covariance[1, 1] - l10 * covariance[1, 0]
        rest = covariance[2, 1] - l20 * covariance[1, 0]
        l21 = rest / second
        third = covariance[2, 2] - l20 * covariance[2, 0] - l21 * rest
        return (l10, l20, l21), torch.stack([first, second, third])

    def fitted(self, p: Tensor) -> Tensor:
        """Fit a class's probability (H, W) in every window, and average the fits at each pixel."""
        planes, (l10, l20, l21) = self._planes, self._lower
        b, a = planes[0], planes[1:]
        b.copy_(p)
        torch.mul(self._guide, b, out=a)
        self._windows.add_up(planes)
        a.addcmul_(self._mean, b, value=-1)  # as many times the covariances as there are pixels
        a[1].addcmul_(l10, a[0], value=-1)
        a[2].addcmul_(l20, a[0], value=-1).addcmul_(l21, a[1], value=-1)
        a.mul_(self._scale)
        a[1].addcmul_(l21, a[2], value=-1)
        a[0].addcmul_(l10, a[1], value=-1).addcmul_(l20, a[2], value=-1)
        b.div_(self._windows.pixels)
        for slope, mean in zip(a, self._mean, strict=True):
            b.addcmul_(slope, mean, value=-1)
        self._windows.add_up(planes)
        for slope, colour in zip(a, self._guide, strict=True):
            b.addcmul_(slope, colour)
        return b.div_(self._windows.pixels)


class _Windows:
    """The windows around the pixels of an image.

    Parameters
    ----------
    size : (H, W)
    radius : int

    Attributes
    ----------
    pixels : Tensor of float64, shape (H, W)
        How many there are in each window.
    """

    def __init__(self, size: Sequence[int], radius: int) -> None:
        self._radius = radius
        self._running = torch.empty(0, dtype=torch.float64)
        self.pixels = self.add_up(torch.ones(1, *size, dtype=torch.float64))[0]

    def add_up(self, planes: Tensor) -> Tensor:
        """Replace the values of planes (C, H, W) by their sums over each pixel's window."""
        if self._running.shape != planes.shape:
            self._running = torch.empty_like(planes)
        for axis in (2, 1):
            length = planes.shape[axis]
            running = torch.cumsum(planes, axis, out=self._running)
            before = min(self._radius, length - 1)
            after = length - before
            # Up to the last pixel of the window, less what lies before its first.
            planes.narrow(axis, 0, after).copy_(running.narrow(axis, before, after))
            planes.narrow(axis, after, before).copy_(running.narrow(axis, length - 1, 1))
            planes.narrow(axis, before + 1, after - 1).sub_(running.narrow(axis, 0, after - 1))
        return planes
