"""Index masks and the colours that PASCAL VOC draws them in."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.data.images import open_image
from pipeline.errors import DataError
from pipeline.wholefile import written_whole


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


_NOTE = "Comment"


def write_mask(
    path: Path, mask: npt.NDArray[np.uint8], *, note: str = "", tidied: bool = False
) -> None:
    """Write an index mask as a palette PNG in the VOC colours; it exists whole or not at all.

    Parameters
    ----------
    path
        File to write.
    mask
        ``(H, W)`` uint8 class indices.
    note
        A comment to write into the file, for :func:`read_note`.
    tidied
        As :func:`~pipeline.wholefile.written_whole` takes it.

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
    _save(path, image, note, tidied=tidied)


def read_note(path: Path) -> str:
    """Return the note in a PNG file, or nothing if there is no such file, or none that is whole.

    The image itself is decoded as well, which checks its checksums.
    """
    if not path.is_file():
        return ""
    try:
        with open_image(path) as image:
            image.load()
            return str(image.info.get(_NOTE, ""))
    except DataError:
        return ""


def _save(path: Path, image: Image.Image, note: str, *, tidied: bool) -> None:
    info = PngInfo()
    if note:
        info.add_text(_NOTE, note)
    with written_whole(path, tidied=tidied) as file:
        image.save(file, format="PNG", pnginfo=info)


def write_overlay(
    path: Path,
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    *,
    note: str = "",
    tidied: bool = False,
) -> None:
    """Write an image with its mask's colours laid over it, class 0 left as it is.

    Parameters
    ----------
    path
        PNG file to write; it exists whole or not at all.
    image
        ``(H, W, 3)`` uint8 RGB.
    mask
        ``(H, W)`` uint8 class indices.
    note, tidied
        As :func:`write_mask` takes them.
    """
    blended = (image.astype(np.uint16) + VOC_PALETTE[mask]) // 2
    shown = np.where((mask == 0)[..., None], image, blended).astype(np.uint8)
    _save(path, Image.fromarray(shown), note, tidied=tidied)


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Read the class indices of a mask, never through its colours.

    Parameters
    ----------
    path
        A PNG file in mode P, L or 1 (a two-class mask). Other formats are refused: JPEG changes the
        values at edges, and only PNG has checksums.

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
        if image.format != "PNG":
            raise DataError(
                f"{path} is of format {image.format}, whose pixels may not be the indices that were"
                " saved: save the mask as PNG"
            )
        if image.mode not in ("P", "L", "1"):
            raise DataError(
                f"{path} is an image of mode {image.mode}, not an index mask:"
                " save one class index per pixel as 8-bit grey or palette PNG"
            )
        rawmode = image.tile[0][3] if image.tile else None
        stretch = _GREY_STRETCH.get(rawmode, 1) if isinstance(rawmode, str) else 1
        indices = np.array(image, dtype=np.uint8)
    return indices // np.uint8(stretch)
