"""Index masks and the colours that PASCAL VOC draws them in."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.images import open_image
from pipeline.errors import DataError


def _voc_palette() -> npt.NDArray[np.uint8]:
    """Spread the bits of each index over the high bits of R, G and B, as the VOC devkit does."""
    index = np.arange(256)
    palette = np.zeros((256, 3), dtype=np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = index >> (3 * place + channel) & 1
            palette[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    palette.setflags(write=False)
    return palette


VOC_PALETTE = _voc_palette()
"""Colour of each index, ``(256, 3)`` uint8, read-only."""

# Pillow stretches 2- and 4-bit grey to 0..255; the factor leads back to the stored index.
_GREY_STRETCH = {"L;2": 85, "L;4": 17}


def write_mask(path: Path, mask: npt.NDArray[np.uint8]) -> None:
    """Write an index mask as a palette PNG in the VOC colours.

    Parameters
    ----------
    path
        File to write; its folder must exist.
    mask
        ``(H, W)`` uint8 class indices.

    Raises
    ------
    DataError
        If ``mask`` is not a two-dimensional, non-empty uint8 array.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise DataError(
            f"cannot write {path}: a mask is a (H, W) uint8 array, not {mask.shape} {mask.dtype}"
        )
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(VOC_PALETTE.tobytes())
    image.save(path, format="PNG")


def write_overlay(path: Path, image: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8]) -> None:
    """Write an image with its mask's colours laid over it, class 0 left as it is.

    Parameters
    ----------
    path
        PNG file to write; its folder must exist.
    image
        ``(H, W, 3)`` uint8 RGB.
    mask
        ``(H, W)`` uint8 class indices.
    """
    blended = (image.astype(np.uint16) + VOC_PALETTE[mask]) // 2
    shown = np.where((mask == 0)[..., None], image, blended).astype(np.uint8)
    Image.fromarray(shown).save(path, format="PNG")


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Read the class indices of a mask, never through its colours.

    Parameters
    ----------
    path
        An image in mode P, L or 1 (a two-class mask).

    Returns
    -------
    npt.NDArray[np.uint8]
        ``(H, W)`` indices as stored.

    Raises
    ------
    DataError
        If the file is missing, unreadable, or holds colours instead of indices.
    """
    with open_image(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(
                f"{path} is an image of mode {image.mode}, not an index mask:"
                " save one class index per pixel as 8-bit grey or palette PNG"
            )
        rawmode = image.tile[0][3] if image.tile else None
        stretch = _GREY_STRETCH.get(rawmode, 1) if isinstance(rawmode, str) else 1
        indices = np.array(image, dtype=np.uint8)
    return indices // np.uint8(stretch)
