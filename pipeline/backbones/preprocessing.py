"""From an image as it is stored to the array that a backbone takes.

A mask is resized by the same geometry as its image, so that a pixel sample's label belongs to its
hypercolumn.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import BackboneError, ParamsError

Normalization = Literal["imagenet", "raw"]

# Channel statistics of ImageNet on the 0..1 scale: torchvision's published weights expect them.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

MAX_SIDE = 10_000
"""Largest input size, in pixels."""

MAX_PIXELS = MAX_SIDE**2
"""Largest image that a backbone is given, in pixels: a narrow one grows beyond all bounds when its
shorter side is enlarged."""

_INPUT_SIZE = re.compile(r"native|(?P<short>short:)?(?P<pixels>[1-9][0-9]*)")


@dataclass(frozen=True)
class Preprocessing:
    """How images are resized and scaled before the backbone sees them.

    Parameters
    ----------
    normalization
        ``"imagenet"``: scaled to 0..1, minus ImageNet's mean, divided by its standard deviation.
        ``"raw"``: the values 0..255 as they are, as the original project fed them.
    input_size
        ``"224"``: a square of 224x224 pixels, whatever the aspect. ``"short:320"``: the shorter
        side becomes 320 pixels and the aspect is kept. ``"native"``: no resizing.

    Raises
    ------
    ParamsError
        If either is not one of these spellings.
    """

    normalization: Normalization = "imagenet"
    input_size: str = "224"

    def __post_init__(self) -> None:
        """Check the spellings."""
        if self.normalization not in get_args(Normalization):
            raise ParamsError(
                f"normalization {self.normalization!r} is unknown; use 'imagenet' or 'raw'"
            )
        if not isinstance(self.input_size, str) or not _INPUT_SIZE.fullmatch(self.input_size):
            raise ParamsError(
                f"input size {self.input_size!r} is not understood; write a square as '224', "
                "the shorter side as 'short:320', or 'native' (as text)"
            )
        # Counted before it is read as a number, which takes time where there are thousands.
        digits = self.input_size.removeprefix("short:")
        if digits.isdecimal() and (len(digits) > 5 or int(digits) > MAX_SIDE):
            raise ParamsError(
                f"input size {self.input_size[:20]!r} is too large; choose {MAX_SIDE} at most"
            )

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that an image of this height and width is resized to.

        With ``short:S`` the longer side is scaled by ``S / shorter`` and rounded to the nearest
        pixel, halves up.

        Raises
        ------
        BackboneError
            If that is more than `MAX_PIXELS`.
        """
        target = self._target_size(height, width)
        if target[0] * target[1] > MAX_PIXELS:
            raise BackboneError(
                f"an image of {height}x{width} pixels becomes {target[0]}x{target[1]} with input "
                f"size {self.input_size!r}, more than {MAX_PIXELS // 10**6} million pixels; cut it "
                "into parts, or choose another input size"
            )
        return target

    def _target_size(self, height: int, width: int) -> tuple[int, int]:
        match = _INPUT_SIZE.fullmatch(self.input_size)
        if match is None or match["pixels"] is None:
            return height, width
        size = int(match["pixels"])
        if match["short"] is None:
            return size, size
        shorter = min(height, width)
        # Whole-number arithmetic: floor(length * size / shorter + 1/2) without a float between.
        return (
            (2 * height * size + shorter) // (2 * shorter),
            (2 * width * size + shorter) // (2 * shorter),
        )

    def resize_image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize an image ``(H, W, 3)`` uint8 bilinearly, antialiased where it shrinks.

        Returns
        -------
        ndarray
            ``(h, w, 3)`` uint8 with ``(h, w) = target_size(H, W)``.

        Raises
        ------
        BackboneError
            As :meth:`target_size`.
        """
        height, width = self.target_size(*image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.uint8)

    def resize_mask(self, mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resize a label mask ``(H, W)`` uint8 by nearest neighbour, pixel centres at half.

        Target row ``i`` reads source row ``floor((i + 1/2) * H / h)``; columns likewise.
        """
        height, width = self.target_size(*mask.shape)
        rows = _nearest(mask.shape[0], height)
        columns = _nearest(mask.shape[1], width)
        return mask.take(rows, axis=0).take(columns, axis=1)

    def normalize(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Turn a resized image ``(h, w, 3)`` uint8 into the backbone's float32 ``(3, h, w)``."""
        # There are only 256 values, so each is computed once and looked up.
        return np.stack([v[image[:, :, c]] for c, v in enumerate(self.values())])

    def values(self) -> npt.NDArray[np.float32]:
        """Return what the backbone is given for each value of each channel, (3, 256)."""
        values = np.arange(256, dtype=np.float32)[:, None].repeat(3, axis=1)
        if self.normalization == "imagenet":
            values = (values / np.float32(255) - IMAGENET_MEAN) / IMAGENET_STD
        return np.ascontiguousarray(values.T)

    def as_dict(self) -> dict[str, str]:
        """Return the fields as plain values, for the configuration of a cache or a head."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Preprocessing":
        """Rebuild from :meth:`as_dict`.

        Raises
        ------
        ParamsError
            If a field is missing, unknown or has an impossible value.
        """
        expected = {"normalization", "input_size"}
        if set(fields) != expected:
            raise ParamsError(
                f"preprocessing has the fields {sorted(fields)}; give exactly {sorted(expected)}"
            )
        return cls(**fields)


def _nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    """Return for each of ``target`` cells the nearest of ``source`` cells."""
    return (2 * np.arange(target) + 1) * source // (2 * target)
