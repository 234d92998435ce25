"""What the arrays of an image can be, whatever their digests say: a file may come from anywhere."""

import numpy as np

from pipeline.cache.encoding import StoredArray
from pipeline.cache.shards import RESERVED
from pipeline.identity import Identity

_MOST_PIXELS = 100_000_000
"""As many as an image may have that is read in."""


def require_form(
    identity: Identity, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> None:
    """Refuse what can be no map, label or image of a cache, before it is read.

    Raises
    ------
    ValueError
        If the dtype or the shape cannot be.
    """
    if name in RESERVED:
        pixels = shape[:2]
        fits = dtype == np.uint8 and shape[2:] == ((3,) if name == "image" else ())
    else:
        pixels = shape[1:]
        channels = identity.tap_channels[identity.tap_names.index(name)]
        fits = dtype == identity.dtype and shape[:1] == (channels,)
    # A map may be a little larger than its image, by the padding of its convolutions.
    most = _MOST_PIXELS if name in RESERVED else 4 * _MOST_PIXELS
    if not fits or len(pixels) != 2 or not 0 < pixels[0] * pixels[1] <= most:
        raise ValueError(f"{dtype} values of shape {shape}")


def require_values(identity: Identity, name: str, array: StoredArray) -> None:
    """Refuse labels that are no classes, and scales that are no positive numbers.

    Raises
    ------
    ValueError
        If there are such.
    """
    values, scale = array.values, array.scale
    if name in ("label", "label_original"):
        strange = (values >= len(identity.classes)) & (values != identity.void)
        if strange.any():
            raise ValueError(f"the label {values[strange][0]} is no class")
    if scale is not None and not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError("a scale is not a positive number")
