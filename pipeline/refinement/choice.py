"""A refinement by its name in params files and on the command line."""

import re

from pipeline.errors import ParamsError
from pipeline.refinement.chain import Chain
from pipeline.refinement.contract import Refinement
from pipeline.refinement.crf import SuperpixelCRF
from pipeline.refinement.guided import GuidedFilter
from pipeline.refinement.prior import ImagePrior
from pipeline.refinement.superpixels import Superpixels

_PRIOR = re.compile(r"prior:([1-9]\d{0,2})(?::(\d{1,3}))?")
_NUMBER = r"([-+.\deE]{1,30})"
_GUIDED = re.compile(rf"guided:([1-9]\d{{0,5}}):{_NUMBER}")
_SUPERPIXELS = re.compile(r"superpixels:([1-9]\d{0,5})")
# As many superpixels as a matrix of all pairs can be had of in little memory.
_CRF = re.compile(rf"crf:([1-9]\d{{0,2}}|[12]\d{{3}}):{_NUMBER}:{_NUMBER}")
_LEAST_EPSILON = 1e-8
"""Of gray images, whose covariance has no inverse, even this ridge leaves all digits that count."""
_LEAST, _MOST_WEIGHT, _MOST_COLOUR = 1e-3, 50.0, 1000.0
"""Beyond these a random field does nothing, or leaves no digit of what it was given."""

_LONGEST = 200
"""Characters of several refinements."""


def parse_refinement(text: str) -> Refinement | None:
    """Read a refinement's name.

    Parameters
    ----------
    text : str
        ``"none"``; ``"prior:STEPS"``, ``"prior:STEPS:BACKGROUND"``, ``"guided:RADIUS:EPSILON"``,
        ``"superpixels:COUNT"`` or ``"crf:COUNT:WEIGHT:COLOUR"``; or several of these, with
        commas between them, to be applied in this order.

    Raises
    ------
    ParamsError
        If it is none of these; of several, the message names the one that is wrong.
    """
    if text == "none":
        return None
    if "," not in text:
        return _parse_one(text, shown=f"'{text[:60]}'")
    if len(text) > _LONGEST:
        raise ParamsError(
            f"'{text[:60]}...' is too long: several refinements take {_LONGEST} characters at most"
        )
    parts = [(part, f"'{part[:60]}' in '{text[:60]}'") for part in text.split(",")]
    for part, shown in parts:
        if part == "none":
            raise ParamsError(f"{shown} is no step; leave it out, or give none alone")
    return Chain(tuple(_parse_one(part, shown=shown) for part, shown in parts))


def _parse_one(text: str, *, shown: str) -> Refinement:
    if found := _PRIOR.fullmatch(text):
        return ImagePrior(int(found[1]), None if found[2] is None else int(found[2]))
    if (found := _GUIDED.fullmatch(text)) and (epsilon := _number(found[2], _LEAST_EPSILON, 1)):
        return GuidedFilter(int(found[1]), epsilon)
    if found := _CRF.fullmatch(text):
        weight = _number(found[2], _LEAST, _MOST_WEIGHT)
        colour = _number(found[3], _LEAST, _MOST_COLOUR)
        if weight and colour:
            return SuperpixelCRF(int(found[1]), weight, colour)
    if found := _SUPERPIXELS.fullmatch(text):
        return Superpixels(int(found[1]))
    raise ParamsError(
        f"{shown} is not a refinement: give none, guided:RADIUS:EPSILON as in guided:8:0.001, "
        "superpixels:COUNT as in superpixels:300, crf:COUNT:WEIGHT:COLOUR as in crf:1000:4:5 (up "
        "to 2999, 50 and 1000), or prior:STEPS as in prior:4, prior:4:0 where class 0 is the "
        "background"
    )


def choose_refinement(text: str | None, n_classes: int) -> Refinement | None:
    """Read a refinement's name, and make sure that it can be used for so many classes.

    Raises
    ------
    ParamsError
        If it cannot be read, names a class that there is not, or needs what is not installed.
    """
    refinement = None if text is None else parse_refinement(text)
    if refinement is not None:
        refinement.require(n_classes)
    return refinement


def _number(text: str, least: float, most: float) -> float | None:
    """Read a number, if it is one in these bounds, which are above zero."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if least <= value <= most else None
