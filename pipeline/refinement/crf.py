"""A fully connected conditional random field (CRF) whose nodes are superpixels.

Superpixels that are alike in colour and near one another take the same class. P. Krähenbühl, V.
Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NeurIPS 2011,
have a node for every pixel and filter in a high-dimensional space. Here a node is a superpixel s
of n_s pixels with mean colour I_s (CIELAB) and mean place x_s, so that all pairs are one matrix.
With Potts potentials, mean-field inference is

    ``k_st = exp(-|I_s - I_t|^2 / (2 colour^2) - |x_s - x_t|^2 / (2 reach^2))``,
    ``m_sc = sum_{t != s} n_t k_st q_tc / sum_t n_t k_st``,
    ``q_sc = p_sc exp(weight m_sc) / Z_s``,

begun with q = p, the mean probability of a superpixel's pixels. What a superpixel hears counts the
less the fewer are like it, since it is itself in the sum that is divided by. Every step takes the
mean of the old q and the new one: all are computed at once, and two that are alike would take over
one another's class for ever. A pixel i of s then gets ``p_ic exp(weight m_sc) / Z_i``, so that
edges within a superpixel are not lost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.refinement.contract import Refinement
from pipeline.refinement.superpixels import Segments, require_skimage

_STEPS = 10
"""Of mean-field inference; with more of them, hardly a pixel of a photograph changes its class."""

_REACH = 0.15
"""How near superpixels must be to count much, as a share of the image's longer side."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class SuperpixelCRF(Refinement):
    """Mean-field inference over an image's superpixels.

    Attributes
    ----------
    count : int
        How many superpixels to aim at. Time and memory grow with its square.
    weight : float
        How much the other superpixels count beside a pixel's own probabilities.
    colour : float
        How far apart two colours may lie to count as alike, in units of CIELAB, in which 2 can just
        be told apart.
    """

    count: int
    weight: float
    colour: float

    def __str__(self) -> str:
        return f"crf:{self.count}:{self.weight!r}:{self.colour!r}"

    def require(self, n_classes: int) -> None:
        """Make sure that scikit-image is installed; the message says how to install it."""
        require_skimage(str(self))

    def _refine(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        self.require(len(probabilities))
        from skimage.color import rgb2lab

        segments = Segments(image, self.count)
        colours = segments.means(rgb2lab(image).transpose(2, 0, 1)) / self.colour
        extent = _REACH * max(image.shape[:2])
        places = segments.means(np.indices(image.shape[:2]).astype(np.float64)) / extent
        heard = self._heard(np.concatenate([places, colours]), segments.sizes)
        # A guided filter may leave values a little below zero.
        refined = probabilities.clamp(min=0)
        p = segments.means(refined.numpy())
        q = p / p.sum(axis=0)
        for _ in range(_STEPS):
            new = p * self._factors(q @ heard)
            q = (q + new / new.sum(axis=0)) / 2
        for factors, of_class in zip(self._factors(q @ heard), refined, strict=True):
            of_class *= torch.from_numpy(factors.astype(np.float32)[segments.of_pixels])
        return refined.div_(refined.sum(dim=0))

    def _factors(self, messages: Matrix) -> Matrix:
        """Give what probabilities (classes, superpixels) are multiplied by.

        That is 1 at most, so that nothing overflows.
        """
        return np.asarray(np.exp(self.weight * (messages - messages.max(axis=0))))

    @staticmethod
    def _heard(points: Matrix, sizes: NDArray[np.float64]) -> Matrix:
        """Give how much each superpixel, a row, counts for each, a column.

        Parameters
        ----------
        points : (features, superpixels)
            They are alike that are within 1 of each other.
        sizes : (superpixels,)
        """
        squares = (points**2).sum(axis=0)
        distances = squares[:, None] + squares - 2 * points.T @ points
        alike = np.exp(-0.5 * distances.clip(min=0)) * sizes[:, None]
        alike /= alike.sum(axis=0)
        np.fill_diagonal(alike, 0)
        return np.asarray(alike)
