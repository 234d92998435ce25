"""Index masks."""

import random
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fuzz.bytes_values import flip
from fuzz.pictures import small_pictures
from pipeline.data import images, read_mask, read_note, write_mask

PACKAGES = "pipeline.data PIL"
_HEAD = b"\x89PNG\r\n\x1a\n"


def seeds() -> list[bytes]:
    """Give masks in every mode that is read, and some that are not."""
    indices = np.arange(35, dtype=np.uint8).reshape(5, 7) % 4
    found = []
    for mode in ("L", "P", "1", "RGB", "LA", "I;16"):
        image = Image.fromarray(indices)
        found.append(_png(image.convert("I").convert(mode) if mode == "I;16" else _in(image, mode)))
    for bits in (1, 2, 4):
        palette = Image.fromarray(indices % 2**bits)
        palette.putpalette(bytes(range(3 * 2**bits)))
        found.append(_png(palette, bits=bits, transparency=0))
    return found


def _in(image: Image.Image, mode: str) -> Image.Image:
    return image if mode == "L" else image.convert(mode)


def _png(image: Image.Image, **options: int) -> bytes:
    file = BytesIO()
    image.save(file, format="PNG", **options)
    return file.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the chunks of a PNG, compressed pixels included, and renew its checksums."""
    chunks = _chunks(data)
    if not chunks:
        return flip(data, chance)
    at = chance.randrange(len(chunks))
    name, content = chunks[at]
    action = chance.randrange(6)
    if action == 0:
        chunks.insert(chance.randrange(len(chunks) + 1), chunks[at])
    elif action == 1:
        del chunks[at]
    elif action == 2:
        name = chance.choice(
            (b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"eXIf")
        )
        chunks.insert(at, (name, flip(content, chance)))
    elif name == b"IDAT" and action < 5:
        try:
            content = zlib.compress(flip(zlib.decompress(content), chance))
        except zlib.error:
            content = flip(content, chance)
        chunks[at] = name, content
    else:
        chunks[at] = name, flip(content, chance)
    return _HEAD + b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(_HEAD)
    while data.startswith(_HEAD) and at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


@small_pictures()
def check(data: bytes, folder: Path) -> None:
    """Read a mask; what is read survives being written and read again."""
    path = folder / "mask.png"
    path.write_bytes(data)
    assert isinstance(read_note(path), str)
    mask = read_mask(path)
    assert mask.dtype == np.uint8 and mask.ndim == 2 and 0 < mask.size <= images.MAX_PIXELS
    again = folder / "again.png"
    write_mask(again, mask, note="a note")
    assert np.array_equal(read_mask(again), mask)
    assert read_note(again) == "a note"
