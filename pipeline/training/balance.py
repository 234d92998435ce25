"""Class weights, for data in which most pixels are background."""

from typing import Literal

import torch
from torch import Tensor

ClassWeights = Literal["none", "inverse", "batch"]


def inverse_frequency(pixels: Tensor) -> Tensor:
    """Weigh each class by the inverse of its share of the pixels.

    Parameters
    ----------
    pixels : Tensor of shape (n_classes,)
        Number of pixels of each class.

    Returns
    -------
    Tensor of float32, shape (n_classes,)
        ``N / (n_present * n_c)``, so that the weighted pixel count stays N; zero for classes
        without pixels.
    """
    counts = pixels.double()
    present = counts > 0
    weights = torch.zeros_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.float()
