"""One prediction for all pixels of a superpixel.

Superpixels are SLIC's (R. Achanta et al., TPAMI 34(11), 2012, as scikit-image has it), computed
from the image alone. Zoom-out features (Mostajabi et al., CVPR 2015) are classified by superpixel;
here the pixels' predictions are pooled.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ParamsError
from pipeline.refinement.contract import Refinement

_LEAST_PIXELS = 16
"""Of a superpixel, on average: smaller ones are no regions, and SLIC makes far too many of them."""


def require_skimage(refinement: str) -> None:
    """Make sure that scikit-image is installed.

    Raises
    ------
    ParamsError
        If it is not; the message says how to install it.
    """
    try:
        import skimage.segmentation  # noqa: F401 - an extra
    except ImportError as error:
        raise ParamsError(
            f"scikit-image is not installed, which {refinement} needs; run: "
            "pip install 'hypercolumn-pipeline[superpixels]'"
        ) from error


class Segments:
    """The superpixels of an image.

    Parameters
    ----------
    image : array of uint8, shape (H, W, 3)
    count : int
        How many to aim at; of small images there are fewer.

    Attributes
    ----------
    of_pixels : array of int64, shape (H, W)
        The number of each pixel's superpixel, from 0 on.
    sizes : array of float64, shape (superpixels,)
        How many pixels each has.
    """

    def __init__(self, image: NDArray[np.uint8], count: int) -> None:
        from skimage.segmentation import slic

        count = max(1, min(count, image[..., 0].size // _LEAST_PIXELS))
        self.of_pixels: NDArray[np.int64] = np.asarray(slic(image, n_segments=count, start_label=0))
        self.sizes = np.bincount(self.of_pixels.ravel()).astype(np.float64)

    def means(self, planes: Iterable[NDArray[np.floating]]) -> NDArray[np.float64]:
        """Average planes (H, W) over each superpixel, one after the other: (n, superpixels)."""
        flat = self.of_pixels.ravel()
        sums = np.array([np.bincount(flat, plane.ravel()) for plane in planes], np.float64)
        return sums / self.sizes


@dataclass(frozen=True)
class Superpixels(Refinement):
    """The mean of the *probabilities*, not of their logarithms, over each superpixel.

    With logarithms a single pixel that is sure could rule a class out for all of them, and there
    are none of votes of 0 and 1.

    Attributes
    ----------
    count : int
        How many superpixels to aim at in an image; SLIC makes about so many.
    """

    count: int

    def __str__(self) -> str:
        return f"superpixels:{self.count}"

    def require(self, n_classes: int) -> None:
        """Make sure that scikit-image is installed; the message says how to install it."""
        require_skimage(str(self))

    def _refine(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        self.require(len(probabilities))
        segments = Segments(image, self.count)
        refined = np.empty(probabilities.shape, np.float32)
        for means, out in zip(segments.means(probabilities.numpy()), refined, strict=True):
            out[...] = means[segments.of_pixels]
        return torch.from_numpy(refined)
