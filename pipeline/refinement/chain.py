"""Several refinements, one after the other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.refinement.contract import Refinement


@dataclass(frozen=True)
class Chain(Refinement):
    """Each refines what the one before it gives.

    Attributes
    ----------
    steps : tuple of Refinement
    """

    steps: tuple[Refinement, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.steps))

    def require(self, n_classes: int) -> None:
        """Make sure that each of them can be used; the message begins with the one that cannot."""
        for step in self.steps:
            step.require(n_classes)

    def _refine(self, probabilities: Tensor, image: NDArray[np.uint8]) -> Tensor:
        for step in self.steps:
            probabilities = step(probabilities, image)
        return probabilities
