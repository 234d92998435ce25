import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.images import image_size, is_turned, list_images, read_image
from pipeline.errors import DataError

COLOURS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_rgb_is_read_as_stored(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, COLOURS)
    assert image_size(tmp_path / "a.png") == (5, 7)


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7, 1)
    Image.fromarray(np.concatenate([COLOURS, alpha], axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOURS)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.png"), np.repeat(COLOURS[..., :1], 3, axis=2)
    )


def test_palette_with_transparency_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colours = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(colours[0], [[10, 20, 30], [200, 100, 50]])


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - [200, 30, 40]).max() <= 6


def test_exif_rotation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (5, 7, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_is_turned_where_the_orientation_swaps_the_sides(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    turned = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(COLOURS).save(path, exif=exif)
        turned.append(is_turned(path))
        assert image_size(path) == (5, 7)
    assert turned == [False] * 4 + [True] * 4
    Image.fromarray(COLOURS).save(path)
    assert not is_turned(path)


def test_an_orientation_that_is_none_turns_nothing(tmp_path: Path) -> None:
    for value in (0, 9, 60000):
        exif = Image.Exif()
        exif[0x0112] = value
        Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
        assert not is_turned(tmp_path / "a.png")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOURS)


def test_threads_leave_the_filters_of_warnings_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [tmp_path / "a.png"] * 200))
    assert warnings.filters == before


def test_sixteen_bit_grey_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png does not have 8 bits per channel"):
        read_image(tmp_path / "a.png")


def test_sixteen_bit_colour_is_refused(tmp_path: Path) -> None:
    row = b"\0" + np.arange(6, dtype=">u2").tobytes()
    _write_png(tmp_path / "a.png", (2, 1), bits=16, colour_type=2, content=row)
    with pytest.raises(DataError, match=r"a\.png does not have 8 bits per channel"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=rf"cut\{suffix} cannot be read") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_files_are_no_images(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg is not an image"):
        read_image(tmp_path / "a.jpg")


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(DataError, match="is a folder: put a file in its place"):
        read_image(tmp_path)


@pytest.mark.parametrize("size", [(20_000, 5_001), (30_000, 30_000)])
def test_huge_images_are_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    # The file holds no pixels at all: decoding would fail in another way.
    _write_png(tmp_path / "a.png", size, bits=8, colour_type=2, content=b"")
    with warnings.catch_warnings(), pytest.raises(DataError, match=r"more than 100 million"):
        warnings.simplefilter("error")
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "1"])
def test_a_tiff_is_read_as_it_is_stored(tmp_path: Path, mode: str, orientation: int) -> None:
    """Pillow turns it as its orientation says, and misread a grey one as it did so."""
    image, exif = Image.fromarray(COLOURS).convert(mode), Image.Exif()
    exif[0x112] = orientation
    image.save(tmp_path / "a.tif", exif=exif)
    image.convert("RGB").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), read_image(tmp_path / "a.png"))
    assert image_size(tmp_path / "a.tif") == (5, 7)


def test_list_images_sorts_and_leaves_out_the_rest(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "c.JPeG"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("gone")
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["a.jpg", "b.PNG", "c.JPeG", "link.png"]


def test_list_images_needs_a_folder_with_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        list_images(tmp_path / "gone")


def _write_png(
    path: Path, size: tuple[int, int], *, bits: int, colour_type: int, content: bytes
) -> None:
    """Write a PNG by hand, for what Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(content)), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
