import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.palette import VOC_PALETTE, read_mask, write_mask
from pipeline.errors import DataError


def test_palette_has_the_colours_that_voc_publishes() -> None:
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        8: (64, 0, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    for index, colour in published.items():
        assert tuple(VOC_PALETTE[index]) == colour
    assert len({tuple(row) for row in VOC_PALETTE}) == 256


def test_every_index_survives_a_round_trip(tmp_path: Path) -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_mask(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "P"
        shown = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(shown, VOC_PALETTE[mask])


def test_mask_files_are_deterministic_and_hold_no_metadata(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 21, (20, 30), dtype=np.uint8)
    write_mask(tmp_path / "a.png", mask)
    write_mask(tmp_path / "b.png", np.asfortranarray(mask))
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    kinds, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kinds.append(content[at + 4 : at + 8])
        at += length + 12
    assert set(kinds) == {b"IHDR", b"PLTE", b"IDAT", b"IEND"}


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.int64), np.zeros((0, 2), np.uint8)]
)
def test_only_index_arrays_are_written(tmp_path: Path, mask: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"m\.png: a mask is"):
        write_mask(tmp_path / "m.png", mask)


def test_grey_and_two_level_masks_are_indices(tmp_path: Path) -> None:
    mask = np.array([[0, 1, 1], [1, 0, 255]], dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png"), mask)
    Image.fromarray(mask > 0).save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "two.png"), mask > 0)


def test_palette_order_does_not_matter(tmp_path: Path) -> None:
    mask = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    image = Image.fromarray(mask)
    image.putpalette([9, 9, 9] * 4)  # all colours equal: only the indices can tell
    image.save(tmp_path / "m.png", bits=2)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), mask)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(tmp_path: Path, bits: int) -> None:
    values = np.arange(8, dtype=np.uint8) % 2**bits
    _write_grey_png(tmp_path / "m.png", values, bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png"), values[None])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16"])
def test_colours_are_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"m\.png .*not an index mask"):
        read_mask(tmp_path / "m.png")


def _write_grey_png(path: Path, row: np.ndarray, bits: int) -> None:
    """Write one row as a greyscale PNG of few bits, which Pillow itself cannot."""
    packed = np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :])

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", len(row), 1, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" + packed.tobytes()))
        + chunk(b"IEND", b"")
    )
