"""What every refinement takes, gives and keeps to."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Refinement(ABC):
    """A correction of class probabilities by the image that they were predicted from.

    What it gives sums to one over the classes wherever what it was given does. No label is looked
    at. The computing is done on the CPU, where the same input gives the same bits. ``str()`` gives
    the text that :func:`pipeline.refinement.parse_refinement` reads.
    """

    def __call__(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """Refine the probabilities of one image.

        Parameters
        ----------
        probabilities : Tensor of float32, shape (n_classes, H, W)
            They sum to one over the classes. They are left as they are.
        image : array of uint8, shape (H, W, 3)
            RGB, of the same size.

        Returns
        -------
        Tensor of float32, shape (n_classes, H, W)
            On the device of ``probabilities``.

        Raises
        ------
        ValueError
            If the image is of another size.
        """
        if image.shape != (*probabilities.shape[1:], 3):
            raise ValueError(
                f"an image of shape {image.shape} for probabilities of {tuple(probabilities.shape)}"
            )
        if not image.size:
            return probabilities.clone()
        return self._refine(probabilities.cpu(), image).to(probabilities.device)

    @abstractmethod
    def _refine(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        """Refine probabilities that lie on the CPU, of one pixel or more."""

    def require(self, n_classes: int) -> None:  # noqa: B027 - most need nothing
        """Make sure, before any work, that it can refine so many classes and has what it needs.

        Raises
        ------
        ParamsError
            If it names a class that there is not, or needs what is not installed; the message says
            what to install.
        """
