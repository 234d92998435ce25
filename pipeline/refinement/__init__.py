"""Class probabilities corrected by the image: its classes, its edges or its superpixels."""

from pipeline.refinement.chain import Chain
from pipeline.refinement.choice import choose_refinement, parse_refinement
from pipeline.refinement.contract import Refinement
from pipeline.refinement.crf import SuperpixelCRF
from pipeline.refinement.guided import GuidedFilter
from pipeline.refinement.prior import ImagePrior
from pipeline.refinement.superpixels import Superpixels

__all__ = [
    "Chain",
    "GuidedFilter",
    "ImagePrior",
    "Refinement",
    "SuperpixelCRF",
    "Superpixels",
    "choose_refinement",
    "parse_refinement",
]
