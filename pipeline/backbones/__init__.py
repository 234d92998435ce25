"""Frozen backbones: preprocessing, taps, weights, and the feature maps they give.

Names that need torch are imported when they are first used, so that reading a configuration does
not cost torch's import.
"""

from typing import TYPE_CHECKING, Any

from pipeline.backbones.preprocessing import Preprocessing
from pipeline.backbones.taps import NAMED_TAPS, Tap, TapInfo, parse_tap, parse_taps

if TYPE_CHECKING:
    from pipeline.backbones.backbone import Backbone, load_backbone
    from pipeline.backbones.first import first_convolution

__all__ = [
    "NAMED_TAPS",
    "Backbone",
    "Preprocessing",
    "Tap",
    "TapInfo",
    "first_convolution",
    "load_backbone",
    "parse_tap",
    "parse_taps",
]


def __getattr__(name: str) -> Any:
    if name in {"Backbone", "load_backbone"}:
        from pipeline.backbones import backbone

        return getattr(backbone, name)
    if name == "first_convolution":
        from pipeline.backbones import first

        return first.first_convolution
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
