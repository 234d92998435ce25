"""Reading image files as stored: no rotation, no surprises, nothing too large."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from pipeline.data.files import list_folder, require_file
from pipeline.errors import DataError

MAX_PIXELS = 100_000_000
"""Largest image that is decoded, in pixels."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes that `list_images` looks for, in any case."""

# Named, because Pillow would otherwise also try formats that call other programs (EPS).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
"""Formats that are read, by Pillow's names, whatever the suffix of the file."""

# Pillow loads its formats when it first needs them, and is not ready for several threads then.
Image.init()
# Filters of warnings belong to the process: threads that change them take turns.
_OPENING = threading.Lock()
# Pillow turns a TIFF, and no other format, as its orientation says; this turns it back.
_TURN_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_SIDES_SWAPPED = (5, 6, 7, 8)
_EIGHT_BIT_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


@contextmanager
def open_image(path: Path, *, formats: tuple[str, ...] = FORMATS) -> Iterator[ImageFile.ImageFile]:
    """Open an image file, turning whatever Pillow raises in the block into a DataError.

    What a PNG says of itself, its checksums, is checked here: Pillow would not notice a byte that
    has changed in the pixels.

    Parameters
    ----------
    path
        The file; its format is told by its content.
    formats
        The formats to read, some of `FORMATS`.

    Yields
    ------
    ImageFile.ImageFile
        The image, not yet decoded.

    Raises
    ------
    DataError
        If the file is missing, not a regular file, too large, damaged, or no image.
    """
    require_file(path)
    try:
        with _opened(path, formats) as image:
            _require_pixels(path, image)
            if image.format != "PNG":
                yield image
                return
            image.verify()  # which leaves the image unusable
        with _opened(path, formats) as image:
            _require_pixels(path, image)
            yield image
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more than {MAX_PIXELS // 10**6} million pixels: scale it down"
        ) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path} is not an image in a format that is read: replace it by a JPEG or PNG file"
        ) from None
    except MemoryError as error:
        raise DataError(f"{path} does not fit into the memory: scale it down") from error
    # Each of Pillow's formats has exceptions of its own for damage: TypeError, IndexError, ...
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read ({reason}): replace the file") from error


@contextmanager
def _opened(path: Path, formats: tuple[str, ...]) -> Iterator[ImageFile.ImageFile]:
    """Read the header of an image, without warnings: they are of metadata, or said better later."""
    # Given a path, Pillow would map the file into memory, and misread a grey TIFF that is turned.
    with path.open("rb") as file:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(file, formats=formats)
        with image:
            yield image


def _require_pixels(path: Path, image: ImageFile.ImageFile) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{path} has {image.width}x{image.height} pixels, more than"
            f" {MAX_PIXELS // 10**6} million: scale it down"
        )


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file as RGB.

    Grey, palette and CMYK images are converted and an alpha channel is dropped. A rotation noted in
    EXIF is *not* applied: masks are drawn on the stored pixels, as in PASCAL VOC.

    Parameters
    ----------
    path
        A file in one of `FORMATS` of 8 bits per channel. Of several frames, the first.

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
                f"{path} does not have 8 bits per channel of grey or colour ({raw or image.mode}):"
                " convert it to 8-bit RGB or grey"
            )
        turned = _orientation(image) if image.format == "TIFF" else None
        image.load()
        # Transparency is dropped, and Pillow would warn about it for palette images.
        image.info.pop("transparency", None)
        colours = image.convert("RGB")
        if turned in _TURN_BACK:
            colours = colours.transpose(_TURN_BACK[turned])
        return np.array(colours, dtype=np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image file, as `read_image` gives it, without decoding it.

    Raises
    ------
    DataError
        If the file is missing, no image, or over `MAX_PIXELS`.
    """
    with open_image(path) as image:
        if image.format == "TIFF" and _orientation(image) in _SIDES_SWAPPED:
            return image.width, image.height
        return image.height, image.width


def is_turned(path: Path) -> bool:
    """Tell whether an image is shown on its side: whether its EXIF orientation swaps the sides.

    Raises
    ------
    DataError
        If the file is missing, or no image.
    """
    with open_image(path) as image:
        return _orientation(image) in _SIDES_SWAPPED


def _orientation(image: ImageFile.ImageFile) -> int | None:
    """Return the EXIF orientation, 1 to 8, of an image that has one."""
    found = image.getexif().get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) else None


def list_images(folder: Path) -> tuple[Path, ...]:
    """List the image files of a folder, sorted by name, without its subfolders.

    Parameters
    ----------
    folder
        Folder to look in; hidden files are left out.

    Returns
    -------
    tuple of Path
        What is called like an image and is not a folder, at least one; a link that leads nowhere,
        say, is found out when it is read.

    Raises
    ------
    DataError
        If the folder does not exist or holds no image.
    """
    found = tuple(
        path
        for path in list_folder(folder)
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    )
    if not found:
        raise DataError(
            f"{folder} holds no image: put files there that end in {', '.join(IMAGE_SUFFIXES)}"
        )
    return found
