"""Images of every format that is read."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from fuzz.pictures import small_pictures
from pipeline.data import image_size, images, read_image
from pipeline.data.images import FORMATS, is_turned

PACKAGES = "pipeline.data PIL"


def seeds() -> list[bytes]:
    """Give small images of every format and mode, some of them turned."""
    colours = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    found = []
    for name in FORMATS:
        for mode in ("RGB", "L", "P", "1", "CMYK", "RGBA", "LA", "I;16", "YCbCr"):
            image = Image.fromarray(colours)
            image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
            file = BytesIO()
            try:
                image.save(file, name, exif=exif)
            except (OSError, ValueError):
                continue  # a mode that this format does not have
            found.append(file.getvalue())
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        file = BytesIO()
        Image.fromarray(colours).save(file, "TIFF", compression=compression)
        found.append(file.getvalue())
    frames = [Image.fromarray(np.roll(colours, n)) for n in range(3)]
    for name in ("GIF", "PNG", "WEBP", "TIFF"):
        file = BytesIO()
        frames[0].save(file, name, save_all=True, append_images=frames[1:])
        found.append(file.getvalue())
    return found


@small_pictures()
def check(data: bytes, folder: Path) -> None:
    """Read an image; its size is the one that was told before."""
    path = folder / "image.png"
    path.write_bytes(data)
    size = image_size(path)
    assert is_turned(path) in (True, False)
    image = read_image(path)
    assert image.dtype == np.uint8 and image.shape == (*size, 3)
    assert 0 < image.size <= 3 * images.MAX_PIXELS
