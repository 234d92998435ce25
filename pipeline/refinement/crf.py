"""A fully connected random field over superpixels: alike and near ones take the same class.

P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011, has a node for every pixel and filters in a high-dimensional space. Here
a node is a superpixel s of n_s pixels with mean colour I_s (CIELAB) and mean place x_s, so that all
pairs are one matrix of some hundred rows. With Potts potentials, mean-field inference is

    ``k_st = exp(-|I_s - I_t|^2 / (2 colour^2) - |x_s - x_t|^2 / (2 reach^2))``, ``k_ss = 0``,
    ``m_sc = sum_t n_t k_st q_tc / sum_t n_t k_st``,    ``q_sc = p_sc exp(weight m_sc) / Z_s``,

begun with q = p, the mean probability of a superpixel's pixels. A pixel i of s then gets
``p_ic exp(weight m_sc) / Z_i``, so that edges within a superpixel are not lost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.refinement.contract import Refinement
from pipeline.refinement.superpixels import require_skimage, segments_of

_STEPS = 8
"""Of mean-field inference; more change nothing that is seen."""

_REACH = 0.15
"""How near superpixels must be to count much, as a share of the image's longer side."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class SuperpixelField(Refinement):
    """Mean-field inference over an image's superpixels.

    Attributes
    ----------
    count : int
        How many superpixels to aim at. The time grows with its square.
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
        segments = segments_of(image, self.count)
        from skimage.color import rgb2lab  # an extra; it is there, or this line is not reached

        flat = segments.ravel()
        pixels = np.bincount(flat).astype(np.float64)

        def means(planes: NDArray[np.float64]) -> Matrix:
            """Average each of planes (N, H, W) over each superpixel: (superpixels, N)."""
            sums = np.array([np.bincount(flat, plane.ravel()) for plane in planes], np.float64)
            return sums.T / pixels[:, None]

        places = np.indices(segments.shape) / (_REACH * max(segments.shape))
        colours = rgb2lab(image).transpose(2, 0, 1) / self.colour
        messages = self._weights(means(np.concatenate([places, colours])), pixels)
        p = means(probabilities.numpy().astype(np.float64))
        q = p
        for _ in range(_STEPS):
            q = _normalised(p * self._factors(messages @ q))
        factors = torch.from_numpy(self._factors(messages @ q)[flat].T.astype(np.float32))
        refined = probabilities * factors.reshape(probabilities.shape)
        return refined / refined.sum(dim=0)

    def _factors(self, messages: Matrix) -> Matrix:
        """Give what probabilities are multiplied by; at most 1, so that nothing overflows."""
        most = messages.max(axis=1, keepdims=True)
        return np.asarray(np.exp(self.weight * (messages - most)))

    @staticmethod
    def _weights(points: Matrix, pixels: NDArray[np.float64]) -> Matrix:
        """Give how much each superpixel (a column) counts for each (a row); rows sum to one.

        One that nothing is like has a row of zeros, and hears from nobody.
        """
        squares = (points**2).sum(axis=1)
        distances = squares[:, None] + squares - 2 * points @ points.T
        alike = np.exp(-0.5 * distances.clip(min=0)) * pixels
        np.fill_diagonal(alike, 0)
        total = alike.sum(axis=1, keepdims=True)
        return np.asarray(alike / total.clip(min=np.finfo(np.float64).tiny))


def _normalised(values: Matrix) -> Matrix:
    return np.asarray(values / values.sum(axis=1, keepdims=True))
