"""Reading image files as stored: no rotation, no surprises, nothing too large."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.errors import DataError

MAX_PIXELS = 100_000_000
"""Largest image that is decoded, in pixels."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes that `list_images` looks for, in any case."""

# Named, because Pillow would otherwise also try formats that call other programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
# Pillow loads its formats when it first needs them, and is not ready for several threads then.
Image.init()
_EIGHT_BIT_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file, turning whatever Pillow raises in the block into a DataError.

    Parameters
    ----------
    path
        A JPEG, PNG, BMP, TIFF or WebP file.

    Yields
    ------
    ImageFile.ImageFile
        The image, not yet decoded.

    Raises
    ------
    DataError
        If the file is missing, too large, damaged, or no image.
    """
    try:
        with warnings.catch_warnings():
            # The limit below is the stricter one and an error, where Pillow only warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=_FORMATS)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{path} has {image.width}x{image.height} pixels, more than"
                    f" {MAX_PIXELS // 10**6} million: scale it down"
                )
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: restore the file, or name another") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more than {MAX_PIXELS // 10**6} million pixels: scale it down"
        ) from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image: replace it by a JPEG or PNG file") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}): replace the file") from error


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file as RGB.

    Grey, palette and CMYK images are converted and an alpha channel is dropped. A rotation noted in
    EXIF is *not* applied: masks are drawn on the stored pixels, as in PASCAL VOC.

    Parameters
    ----------
    path
        A JPEG, PNG, BMP, TIFF or WebP file of 8 bits per channel. Of several frames, the first.

    Returns
    -------
    npt.NDArray[np.uint8]
        ``(H, W, 3)`` RGB values 0 to 255.

    Raises
    ------
    DataError
        If the file is missing, damaged, no image, over `MAX_PIXELS`, or of more than 8 bits.
    """
    with open_image(path) as image:
        # Pillow cuts 16-bit colour to 8 bits on its own; only the raw mode tells.
        raw = str(image.tile[0][3]) if image.tile else ""
        if image.mode not in _EIGHT_BIT_MODES or ";16" in raw:
            raise DataError(
                f"{path} does not have 8 bits per channel (mode {image.mode}):"
                " convert it to 8-bit RGB or grey"
            )
        # Transparency is dropped, and Pillow would warn about it for palette images.
        image.load()
        image.info.pop("transparency", None)
        return np.array(image.convert("RGB"), dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image file without decoding it.

    Raises
    ------
    DataError
        If the file is missing, no image, or over `MAX_PIXELS`.
    """
    with open_image(path) as image:
        return image.height, image.width


def list_images(folder: Path) -> tuple[Path, ...]:
    """List the image files of a folder, sorted by name, without its subfolders.

    Parameters
    ----------
    folder
        Folder to look in; hidden files are left out.

    Returns
    -------
    tuple of Path
        Files whose suffix is one of `IMAGE_SUFFIXES`, at least one.

    Raises
    ------
    DataError
        If the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name an existing folder of images")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    )
    if not found:
        raise DataError(
            f"{folder} holds no image: put files there that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    return tuple(found)
