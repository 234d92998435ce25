"""Class probabilities corrected by the image: a guided filter, or pooling over superpixels."""

from pipeline.refinement.choice import choose_refinement, parse_refinement
from pipeline.refinement.contract import Refinement
from pipeline.refinement.guided import GuidedFilter
from pipeline.refinement.superpixels import Superpixels

__all__ = [
    "GuidedFilter",
    "Refinement",
    "Superpixels",
    "choose_refinement",
    "parse_refinement",
]
