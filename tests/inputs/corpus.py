"""The corpus of pictures: one entry for every kind of image and mask file, made when needed.

``BAD_IMAGES`` and ``BAD_MASKS`` cannot be used, and say what is said of them; ``USABLE_IMAGES``
can, and say which values they have.
"""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEIGHT, WIDTH = 24, 32
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(WIDTH) * 5, np.arange(HEIGHT) * 9) * 2)[:3]
SMOOTH = np.ascontiguousarray(SMOOTH.transpose(1, 2, 0)).astype(np.uint8)
LABELS = RNG.choice([0, 1, 2, 255], (HEIGHT, WIDTH)).astype(np.uint8)

NO_IMAGE = "is not an image in a format that is read: replace it by a JPEG or PNG file"
DAMAGED = r"cannot be read \(.+\): replace the file"
NOT_8_BIT = r"does not have 8 bits per channel .*: convert it to 8-bit RGB or grey"
TOO_LARGE = "has .*more than 100 million( pixels)?: scale it down"
NO_FILE = "is a .*: put a file in its place"
NO_MASK = "is an image of mode .*, not an index mask: save one class index per pixel as 8-bit grey"

Write = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file that cannot be used, and what is said of it."""

    name: str
    suffix: str
    write: Write
    says: str

    def __str__(self) -> str:
        return self.name


def content(data: bytes) -> Write:
    return lambda path: path.write_bytes(data)


def picture(array: np.ndarray, mode: str | None = None, **options: object) -> Write:
    """Write an array as the format that the options or the suffix name."""

    def write(path: Path) -> None:
        image = Image.fromarray(array)
        (image if mode is None else image.convert(mode)).save(path, **options)

    return write


def cut(write: Write, share: float = 0.6) -> Write:
    """Write a file and cut its end off."""

    def write_cut(path: Path) -> None:
        write(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return write_cut


def flipped(write: Write, offset: int) -> Write:
    """Write a file with one bit flipped, counted from its end."""

    def write_flipped(path: Path) -> None:
        write(path)
        data = bytearray(path.read_bytes())
        data[-offset] ^= 4
        path.write_bytes(data)

    return write_flipped


def png(size: tuple[int, int], bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """Make a PNG by hand, for what Pillow does not write; ``size`` is (width, height)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    pieces = [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces) + chunk(b"IEND", b"")


def rows(array: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in array)


def tiff(width: int, height: int) -> bytes:
    """Make the header of a TIFF, which promises one strip of grey pixels that is not there."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(100)


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        file.truncate(1_000_000_001)


def unreadable(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("whoever runs the tests may read everything")
    picture(NOISE)(path)
    path.chmod(0)


NOT_FILES = [
    Kind("a folder", ".png", Path.mkdir, NO_FILE),
    Kind("a pipe", ".png", os.mkfifo, NO_FILE),
    Kind("a device", ".png", lambda path: path.symlink_to("/dev/zero"), NO_FILE),
    Kind("a dangling link", ".png", lambda p: p.symlink_to("gone"), "is a link that leads nowhere"),
    Kind("a link to itself", ".png", lambda p: p.symlink_to(p.name), "cannot be reached .*: check"),
    Kind("a gigabyte", ".png", sparse, "is larger than the 1000 MB .*: make it smaller"),
    Kind("forbidden to read", ".png", unreadable, r"may not be read: change its rights"),
]
BOMBS = [
    Kind("a PNG of 400 megapixels", ".png", content(png((20_000,) * 2, 8, 2, b"")), TOO_LARGE),
    Kind("a PNG of 110 megapixels", ".png", content(png((11_000, 10_000), 8, 0, b"")), TOO_LARGE),
    Kind("a PNG of a bit each", ".png", content(png((50_000,) * 2, 1, 3, b"")), TOO_LARGE),
    Kind("a GIF of 4 gigapixels", ".png",
         content(b"GIF89a\xff\xff\xff\xff\x80" + bytes(8) + b",\0\0\0\0\xff\xff\xff\xff\0\2\0;"),
         TOO_LARGE),
    Kind("a BMP of 3 gigapixels", ".png",
         content(b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 60_000, 60_000, 1, 24,
                                     0, 0, 0, 0, 0, 0)),
         TOO_LARGE),
    Kind("a JPEG of 4 gigapixels", ".jpg",
         content(bytes.fromhex("ffd8ffc0001108ffdcffdc03011100021100031100ffda0008010100003f00")),
         TOO_LARGE),
    Kind("a TIFF of 900 megapixels", ".png", content(tiff(30_000, 30_000)), TOO_LARGE),
    Kind("a WebP of 268 megapixels", ".png",
         content(b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\xfe\xff\xff\x0f" + bytes(9)),
         TOO_LARGE),
]  # fmt: skip
BAD_IMAGES = [
    Kind("zero bytes", ".jpg", content(b""), NO_IMAGE),
    Kind("text", ".jpg", content(b"not an image"), NO_IMAGE),
    Kind("a web page", ".jpg", content(b"<!DOCTYPE html><html>404</html>"), NO_IMAGE),
    Kind("PostScript", ".png", content(b"%!PS-Adobe-3.0 EPSF-3.0\n"), NO_IMAGE),
    Kind("HEIC", ".jpg", content(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), NO_IMAGE),
    Kind("SVG", ".png", content(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), NO_IMAGE),
    Kind("just a signature", ".png", content(b"\x89PNG\r\n\x1a\n"), f"({NO_IMAGE}|{DAMAGED})"),
    Kind("a truncated JPEG", ".jpg", cut(picture(NOISE)), DAMAGED),
    Kind("a truncated PNG", ".png", cut(picture(NOISE)), DAMAGED),
    Kind("a PNG without its end", ".png", cut(picture(NOISE), 0.995), DAMAGED),
    Kind("a truncated BMP", ".png", cut(picture(NOISE, format="BMP")), DAMAGED),
    Kind("a truncated GIF", ".png", cut(picture(NOISE, "P", format="GIF")), DAMAGED),
    Kind("a truncated WebP", ".png", cut(picture(NOISE, format="WEBP")), f"({DAMAGED}|{NO_IMAGE})"),
    Kind("a truncated TIFF", ".png", cut(picture(NOISE, format="TIFF")), f"({DAMAGED}|{NO_IMAGE})"),
    Kind("a flipped bit in a PNG", ".png", flipped(picture(NOISE), 300), DAMAGED),
    Kind("a PNG without pixels", ".png", content(png((9, 9), 8, 2, b"")), DAMAGED),
    Kind("a PNG of no size", ".png", content(png((0, 9), 8, 2, b"")), f"({DAMAGED}|{NO_IMAGE})"),
    Kind("16-bit grey", ".png", picture(NOISE[..., 0].astype(np.uint16) * 257), NOT_8_BIT),
    Kind("16-bit colour", ".png", content(png((2, 1), 16, 2, b"\0" + bytes(12))), NOT_8_BIT),
    Kind("16-bit alpha", ".png", content(png((2, 1), 16, 6, b"\0" + bytes(16))), NOT_8_BIT),
    Kind("16-bit TIFF", ".png",
         picture(NOISE[..., 0].astype(np.uint16), format="TIFF"), NOT_8_BIT),
    Kind("32-bit TIFF", ".png",
         picture(NOISE[..., 0].astype(np.int32), format="TIFF"), NOT_8_BIT),
    Kind("float TIFF", ".png",
         picture(NOISE[..., 0].astype(np.float32), format="TIFF"), NOT_8_BIT),
    Kind("LAB TIFF", ".png",
         lambda path: Image.new("LAB", (WIDTH, HEIGHT)).save(path, format="TIFF"), NOT_8_BIT),
    *BOMBS,
    *NOT_FILES,
]  # fmt: skip
BAD_MASKS = [
    Kind("zero bytes", ".png", content(b""), NO_IMAGE),
    Kind("text", ".png", content(b"0 0 1 1"), NO_IMAGE),
    Kind("colours", ".png", picture(NOISE), NO_MASK),
    Kind("colours and alpha", ".png", picture(NOISE, "RGBA"), NO_MASK),
    Kind("grey and alpha", ".png", picture(NOISE, "LA"), NO_MASK),
    Kind("16-bit indices", ".png", picture(LABELS.astype(np.uint16)), NO_MASK),
    Kind("another size", ".png", picture(LABELS[:-1]),
         r"has 32x23 pixels, its image 32x24: redraw the mask at the size of the image"),
    Kind("the image on its side", ".png", picture(LABELS.T),
         r"has 24x32 pixels, its image 32x24: redraw the mask at the size of the image"),
    Kind("labels out of range", ".png", picture(np.where(LABELS == 2, 3, LABELS).astype(np.uint8)),
         r"has labels 3, but there are 3 classes and void is 255: correct the mask, or name the"),
    Kind("nothing but void", ".png", picture(np.full_like(LABELS, 255)),
         r"has no label but void \(255\): label some of its pixels, or remove the image"),
    Kind("truncated", ".png", cut(picture(LABELS)), DAMAGED),
    Kind("a flipped bit", ".png", flipped(picture(LABELS), 60), DAMAGED),
    Kind("a JPEG", ".png", picture(LABELS, format="JPEG"), "is of format JPEG.*: save .* as PNG"),
    Kind("a TIFF", ".png", picture(LABELS, format="TIFF"), "is of format TIFF.*: save .* as PNG"),
    *BOMBS,
    *NOT_FILES,
]  # fmt: skip


@dataclass(frozen=True)
class Usable:
    """A kind of image that can be used, with the RGB values it has, give or take some."""

    name: str
    suffix: str
    write: Write
    values: np.ndarray
    give_or_take: int = 0


def frames(mode: str = "RGB", **options: object) -> Write:
    def write(path: Path) -> None:
        first, second = (Image.fromarray(a).convert(mode) for a in (NOISE, 255 - NOISE))
        first.save(path, save_all=True, append_images=[second], **options)

    return write


def palette(path: Path, **options: object) -> None:
    image = Image.fromarray(NOISE[..., 0] % 4)
    image.putpalette(PALETTE.tobytes())
    image.save(path, format="PNG", **options)


PALETTE = np.array([[10, 20, 30], [200, 100, 50], [7, 7, 7], [0, 255, 0]], np.uint8)
GREY = np.repeat(NOISE[..., :1], 3, axis=2)
ALPHA = np.concatenate([NOISE, NOISE[..., :1]], axis=2)
BITS = np.unpackbits(NOISE[..., :1] % 4, axis=2)
FOUR_GREYS = np.packbits(BITS[..., 6:].reshape(HEIGHT, -1), axis=1)
BLACK_AND_WHITE = np.repeat(np.where(NOISE[..., :1] > 127, 255, 0), 3, axis=2)
GIF_VALUES = np.asarray(Image.fromarray(NOISE).convert("P").convert("RGB"))
CMYK = np.concatenate([SMOOTH, np.zeros_like(SMOOTH[..., :1])], axis=2)
USABLE_IMAGES = [
    Usable("jpeg", ".jpg", picture(SMOOTH, quality=95), SMOOTH, 25),
    Usable("grey", ".png", picture(NOISE[..., 0]), GREY),
    Usable("grey_jpeg", ".jpeg", picture(SMOOTH, "L", quality=95),
           np.asarray(Image.fromarray(SMOOTH).convert("L").convert("RGB")), 12),
    Usable("two_greys", ".png", picture(NOISE[..., 0] > 127), BLACK_AND_WHITE),
    Usable("four_greys", ".png", content(png((WIDTH, HEIGHT), 2, 0, rows(FOUR_GREYS))),
           np.repeat(NOISE[..., :1] % 4 * 85, 3, axis=2)),
    Usable("cmyk_jpeg", ".jpg", picture(SMOOTH, "CMYK", quality=95), SMOOTH, 25),
    Usable("cmyk_tiff", ".png",
           lambda path: Image.fromarray(CMYK, "CMYK").save(path, format="TIFF"), 255 - SMOOTH),
    Usable("palette", ".png", palette, PALETTE[NOISE[..., 0] % 4]),
    Usable("palette_and_alpha", ".png", lambda path: palette(path, transparency=b"\0\x80"),
           PALETTE[NOISE[..., 0] % 4]),
    Usable("grey_and_alpha", ".png",
           lambda path: Image.fromarray(ALPHA[..., 2:], "LA").save(path),
           np.repeat(NOISE[..., 2:], 3, axis=2)),
    Usable("alpha", ".png", picture(ALPHA), NOISE),
    Usable("one_colour_transparent", ".png", picture(NOISE, transparency=(1, 2, 3)), NOISE),
    Usable("gif_renamed", ".png", frames("P", format="GIF"), GIF_VALUES),
    Usable("animated_png", ".png", frames(format="PNG"), NOISE),
    Usable("animated_webp", ".png", frames(format="WEBP", lossless=True), NOISE),
    Usable("pages", ".png", frames(format="TIFF"), NOISE),
    Usable("pages_compressed", ".png", frames(format="TIFF", compression="tiff_lzw"), NOISE),
    Usable("stereo_jpeg", ".jpg",
           lambda path: Image.fromarray(SMOOTH).save(path, format="MPO", save_all=True,
                append_images=[Image.fromarray(255 - SMOOTH)], quality=95), SMOOTH, 25),
    Usable("bmp_renamed", ".jpg", picture(NOISE, format="BMP"), NOISE),
    Usable("suffix_in_capitals", ".PNG", picture(NOISE, format="PNG"), NOISE),
    Usable("turned_jpeg", ".jpg", picture(SMOOTH, quality=95, exif=exif(6)), SMOOTH, 25),
    Usable("turned_webp", ".png",
           picture(NOISE, format="WEBP", lossless=True, exif=exif(8)), NOISE),
    *(Usable(f"turned_{n}_png", ".png", picture(NOISE, exif=exif(n)), NOISE) for n in range(2, 9)),
    *(Usable(f"turned_{n}_tiff", ".png", picture(NOISE, format="TIFF", exif=exif(n)), NOISE)
      for n in range(2, 9)),
    Usable("one_pixel", ".png", picture(NOISE[:1, :1]), NOISE[:1, :1]),
    Usable("one_row", ".png", picture(NOISE[:1]), NOISE[:1]),
    Usable("one_column", ".png", picture(NOISE[:, :1]), NOISE[:, :1]),
]  # fmt: skip
