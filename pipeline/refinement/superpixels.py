"""One prediction for all pixels of a superpixel.

Superpixels are SLIC's (R. Achanta et al., TPAMI 34(11), 2012, as scikit-image has it), computed
from the image alone. Zoom-out features (Mostajabi et al., CVPR 2015) are classified by superpixel;
here the pixels' predictions are pooled.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ParamsError
from pipeline.refinement.contract import Refinement


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


def segments_of(image: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Divide an image (H, W, 3) into about so many superpixels: their numbers (H, W), from 0 on.

    Raises
    ------
    ParamsError
        If scikit-image is not installed.
    """
    require_skimage("SLIC")
    from skimage.segmentation import slic

    return np.asarray(slic(image, n_segments=count, start_label=0))


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
        segments = segments_of(image, self.count)
        flat = segments.ravel()
        pixels = np.bincount(flat)
        refined = np.empty(probabilities.shape, np.float32)
        for of_class, out in zip(probabilities.numpy(), refined, strict=True):
            means = np.bincount(flat, weights=of_class.ravel()) / pixels
            out[...] = means[segments]
        return torch.from_numpy(refined)
