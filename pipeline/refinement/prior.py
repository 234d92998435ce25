"""How frequent each class is in this image, found from the predictions themselves.

A classifier of pixels has learnt how frequent the classes are over all training images, but an
image shows few of them. M. Saerens, P. Latinne, C. Decaestecker, "Adjusting the outputs of a
classifier to new a priori probabilities", Neural Computation 14(1), 2002, estimate the new
frequencies m by expectation maximisation, here over the pixels i of one image:

    ``m_c = mean_i q_ic``,    ``q_ic = m_c p_ic / sum_d m_d p_id``,

beginning with q = p. Unlike theirs, this does not divide by the frequencies of training, which are
nearly equal where samples are drawn by class.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ParamsError
from pipeline.refinement.contract import Refinement


@dataclass(frozen=True)
class ImagePrior(Refinement):
    """Some steps of expectation maximisation for an image's own frequencies of classes.

    Attributes
    ----------
    steps : int
        So many. With many of them a class of small objects is lost beside one of large ones.
    background : int or None
        A class that keeps its probability at every pixel, since it is in every image: only what
        the others have together is divided among them anew.
    """

    steps: int
    background: int | None = None

    def __str__(self) -> str:
        return f"prior:{self.steps}" + ("" if self.background is None else f":{self.background}")

    def require(self, n_classes: int) -> None:
        """Make sure that the background is a class; the message says which there are."""
        if self.background is not None and self.background >= n_classes:
            raise ParamsError(
                f"{self}: there is no class {self.background}, they are 0 to {n_classes - 1}"
            )

    def _refine(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        flat = probabilities.flatten(1).double()
        self.require(len(flat))
        others = [c for c in range(len(flat)) if c != self.background]
        p = flat[others]
        total = p.sum(dim=0)
        q = p
        for _ in range(self.steps):
            weighted = p * q.mean(dim=1, keepdim=True)
            q = weighted * (total / weighted.sum(dim=0).clamp(min=torch.finfo(q.dtype).tiny))
        refined = flat.index_copy(0, torch.tensor(others, dtype=torch.long), q)
        return refined.reshape(probabilities.shape).to(probabilities.dtype)
