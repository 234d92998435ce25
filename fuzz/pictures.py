"""What pictures may be while a target reads them."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from pipeline.data import images

_PIXELS = 1 << 20


@contextmanager
def small_pictures() -> Iterator[None]:
    """Have pictures refused that are large: they would take long, and find nothing else."""
    before = images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS
    images.MAX_PIXELS = Image.MAX_IMAGE_PIXELS = _PIXELS
    try:
        yield
    finally:
        images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS = before
