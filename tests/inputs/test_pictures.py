"""Images and masks of every kind: what is unusable is one line, what is usable keeps its values."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus import (
    BAD_IMAGES,
    BAD_MASKS,
    BOMBS,
    FOUR_GREYS,
    HEIGHT,
    LABELS,
    NOISE,
    NOT_FILES,
    SMOOTH,
    USABLE_IMAGES,
    WIDTH,
    Kind,
    Write,
    content,
    exif,
    palette,
    picture,
    png,
    rows,
    sparse,
)

from pipeline import FeatureCache, Preprocessing, VocDataset
from pipeline.cli import main
from pipeline.data import image_size, read_image, read_mask, write_mask
from pipeline.errors import DataError


@pytest.mark.parametrize("kind", BAD_IMAGES, ids=str)
def test_extract_and_check_refuse_a_bad_image(kind, data_set, extraction, refused, problems):
    path = data_set.image(kind.suffix)
    kind.write(path)
    said = refused(*extraction)
    assert re.match(f"{re.escape(str(path))} {kind.says}", said), said
    assert not list(Path("out").glob("*.h5"))
    (listed,) = problems(data_set.root)
    assert listed == f"[train] {said}"


IN_PREDICT = {"zero bytes", "text", "a truncated JPEG", "a flipped bit in a PNG", "16-bit colour"}
IN_PREDICT |= {kind.name for kind in (BOMBS[0], *NOT_FILES) if kind.name != "a folder"}


@pytest.mark.parametrize("kind", [k for k in BAD_IMAGES if k.name in IN_PREDICT], ids=str)
def test_predict_refuses_a_bad_image(kind, sparse_head, refused):
    path = Path(f"odd{kind.suffix}")
    kind.write(path)
    said = refused("predict", "--head", sparse_head, "--weights", "random", "--out", "masks", path)
    assert re.match(f"{re.escape(str(path))} {kind.says}", said), said
    assert not list(Path().glob("masks/*"))


@pytest.mark.parametrize("kind", BAD_MASKS, ids=str)
def test_extract_and_check_refuse_a_bad_mask(kind, data_set, extraction, refused, problems):
    data_set.mask.unlink()
    kind.write(data_set.mask)
    said = refused(*extraction)
    assert re.match(f"{re.escape(str(data_set.mask))} {kind.says}", said), said
    (listed,) = problems(data_set.root)
    assert listed == f"[train] {said}"


@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClass"])
def test_a_missing_file(part, data_set, extraction, refused, problems):
    (data_set.root / part / "odd.png").unlink()
    said = refused(*extraction)
    assert re.match(f"set/{part}/odd .* does not exist: restore the file, or remove it from", said)
    assert problems(data_set.root) == [f"[train] {said}"]


@pytest.mark.skipif(os.geteuid() == 0, reason="whoever runs the tests may read everything")
@pytest.mark.parametrize("part", ["JPEGImages", "SegmentationClass"])
def test_a_forbidden_folder(part, data_set, extraction, refused):
    (data_set.root / part).chmod(0)
    try:
        said = refused(*extraction)
    finally:
        (data_set.root / part).chmod(0o700)
    assert said == (
        f"set/{part} cannot be listed (Permission denied): change its rights, as with chmod u+rx"
    )


def test_a_mask_drawn_on_the_rotated_view(data_set, extraction, refused, problems):
    picture(NOISE, exif=exif(6))(data_set.image(".jpg"))
    write_mask(data_set.mask, np.ascontiguousarray(np.rot90(LABELS, -1)))
    said = refused(*extraction)
    expected = r"set/.*/odd\.png has 24x32 pixels, its image 32x24: it is drawn on the view that "
    expected += r"the EXIF orientation of set/.*/odd\.jpg turns, .*; bake the rotation into the im"
    assert re.match(expected, said), said
    assert problems(data_set.root) == [f"[train] {said}"]


@pytest.mark.parametrize(
    ("size", "input_size", "expected"),
    [
        ((1, 1), "native", "squeezenet1_0 cannot take an image of 1x1 pixels .*; choose another"),
        ((1, 50), "native", "squeezenet1_0 cannot take an image of 1x50 pixels"),
        ((50, 1), "native", "squeezenet1_0 cannot take an image of 50x1 pixels"),
        (
            (1, 10_000),
            "short:224",
            "an image of 1x10000 pixels becomes 224x2240000 with input size 'short:224', more than "
            "100 million pixels; cut it into parts, or choose another input size",
        ),
    ],
)
def test_a_size_the_backbone_cannot_take(size, input_size, expected, data_set, extraction, refused):
    path = data_set.image(".png")
    picture(np.zeros((*size, 3), np.uint8))(path)
    write_mask(data_set.mask, np.zeros(size, np.uint8))
    said = refused(*extraction, "--input-size", input_size)
    assert re.match(f"{path}: cannot go through the backbone; {expected}", said), said


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold this limit")
def test_bombs_are_refused_before_memory_is_taken(tmp_path):
    """Within 64 MB: each of them would need hundreds."""
    paths = []
    for number, kind in enumerate((*BOMBS, Kind("a gigabyte", ".png", sparse, ""))):
        paths.append(tmp_path / f"{number}{kind.suffix}")
        kind.write(paths[-1])
    script = """
import re, resource, sys
from pathlib import Path
from pipeline.data import image_size, read_image, read_mask
from pipeline.errors import DataError
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[1:]:
    for read in (read_image, read_mask, image_size):
        try:
            read(Path(path))
        except DataError as error:
            print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, text=True
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(paths)
    # The WebP library reserves, without touching it, what the size in the header asks for.
    assert not [line for line in lines if "memory" in line and not line.startswith(str(paths[7]))]


def test_usable_images_keep_their_values(data_set, extraction, capsys):
    for kind in USABLE_IMAGES:
        kind.write(data_set.root / "JPEGImages" / f"{kind.name}{kind.suffix}")
        write_mask(
            data_set.root / "SegmentationClass" / f"{kind.name}.png",
            np.ones(kind.values.shape[:2], np.uint8),
        )
        data_set.add(kind.name)
    assert main(["data", "check", "set"]) == 0
    assert main(extraction) == 0
    assert f" {len(USABLE_IMAGES) + 3} images, " in capsys.readouterr().out
    dataset, cached = VocDataset.open("set"), FeatureCache("out")["train"]
    preprocessing = Preprocessing(input_size="32")
    for kind in USABLE_IMAGES:
        read = dataset.read_image(kind.name)
        assert read.shape == kind.values.shape, kind.name
        assert image_size(dataset.image_path(kind.name)) == read.shape[:2], kind.name
        difference = np.abs(read.astype(int) - kind.values)
        assert difference.max() <= kind.give_or_take, kind.name
        stored = cached.image(kind.name)
        np.testing.assert_array_equal(stored, preprocessing.resize_image(read), kind.name)


def test_usable_images_are_predicted_at_their_own_size(sparse_head, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    kinds = [kind for kind in USABLE_IMAGES if not kind.name.startswith("one_")]
    for kind in kinds:
        kind.write(folder / f"{kind.name}{kind.suffix}")
    words = ["predict", "--head", sparse_head, "--weights", "random", "--out", "masks", folder]
    assert main([str(word) for word in words]) == 0
    assert len(list(Path("masks").iterdir())) == len(kinds)
    for kind in kinds:
        assert read_mask(Path("masks") / f"{kind.name}.png").shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("write", "values"),
    [
        (picture(LABELS), LABELS),
        (picture(LABELS == 1), LABELS == 1),
        (content(png((WIDTH, HEIGHT), 2, 0, rows(FOUR_GREYS))), NOISE[..., 0] % 4),
        (palette, NOISE[..., 0] % 4),
        (lambda path: palette(path, transparency=0), NOISE[..., 0] % 4),
        (lambda path: palette(path, bits=2), NOISE[..., 0] % 4),
    ],
    ids=["grey", "two greys", "four greys", "palette", "transparent palette", "few bits"],
)
def test_usable_masks_keep_their_indices(write, values, data_set, extraction):
    write(data_set.mask)
    (data_set.root / "classes.txt").write_text("a\nb\nc\nd\n")
    assert main(extraction) == 0
    np.testing.assert_array_equal(FeatureCache("out")["train"].label_original("odd"), values)


def test_one_bad_file_of_every_kind_is_skipped(data_set, extraction, capsys):
    """The others go in; who was left out, and why, is said in the end and in the manifest."""
    expected = {}

    def add(image_id: str, write_image: Write, suffix: str, write_a_mask: Write) -> str:
        write_image(data_set.root / "JPEGImages" / f"{image_id}{suffix}")
        write_a_mask(data_set.root / "SegmentationClass" / f"{image_id}.png")
        data_set.add(image_id)
        return image_id

    for number, kind in enumerate(BAD_IMAGES):
        if kind.name != "forbidden to read":
            image_id = add(f"image{number}", kind.write, kind.suffix, picture(LABELS))
            expected[image_id] = rf"set/JPEGImages/{image_id}\{kind.suffix} {kind.says}"
    for number, kind in enumerate(BAD_MASKS):
        if kind.name != "forbidden to read":
            image_id = add(f"mask{number}", picture(NOISE), ".png", kind.write)
            expected[image_id] = rf"set/SegmentationClass/{image_id}\.png {kind.says}"
    data_set.add("missing")
    expected["missing"] = r"set/JPEGImages/missing .* does not exist: restore the file"
    narrow = np.zeros((1, 100_000, 3), np.uint8)
    add("narrow", picture(narrow), ".png", picture(narrow[..., 0]))
    expected["narrow"] = r"set/JPEGImages/narrow\.png: cannot go through the backbone; an image of"
    data_set.add("sound")
    picture(NOISE)(data_set.root / "JPEGImages" / "sound.png")
    write_mask(data_set.root / "SegmentationClass" / "sound.png", LABELS)

    words = [*extraction, "--on-error", "skip", "--input-size", "short:32"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert f" 4 images, 4 computed now, {len(expected)} skipped" in captured.out
    skipped = captured.err.splitlines()[-len(expected) :]
    assert all(line.startswith("skipped train/") for line in skipped)
    said = dict(line.removeprefix("skipped train/").split(": ", 1) for line in skipped)
    assert said.keys() == expected.keys()
    for image_id, pattern in expected.items():
        assert re.match(pattern, said[image_id]), said[image_id]
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["splits"]["train"]["skipped"] == said
    assert FeatureCache("out")["train"].image_ids == (*("first", "odd", "last"), "sound")

    # Once mended, an image goes in with the next run, and no other is computed again.
    picture(NOISE)(data_set.root / "JPEGImages" / "missing.png")
    write_mask(data_set.root / "SegmentationClass" / "missing.png", LABELS)
    assert main(words) == 0
    assert f" 5 images, 1 computed now, {len(expected) - 1} skipped" in capsys.readouterr().out


def test_predict_skips_one_bad_image_of_every_kind(sparse_head, capsys):
    folder = Path("images")
    folder.mkdir()
    picture(NOISE)(folder / "sound.png")
    expected = {}
    for number, kind in enumerate(BAD_IMAGES):
        if kind.name not in ("a folder", "forbidden to read"):
            path = folder / f"image{number}{kind.suffix}"
            kind.write(path)
            expected[str(path)] = kind.says
    words = ["predict", "--head", sparse_head, "--weights", "random", "--out", "masks", folder]
    assert main([*map(str, words), "--on-error", "skip"]) == 0
    captured = capsys.readouterr()
    assert [path.name for path in Path("masks").iterdir()] == ["sound.png"]
    skipped = captured.err.splitlines()[-len(expected) :]
    said = dict(line.removeprefix("skipped ").split(": ", 1) for line in skipped)
    assert said.keys() == expected.keys()
    for path, says in expected.items():
        assert re.match(f"{path} {says}", said[path]), said[path]


def test_nothing_that_is_usable_is_left_out_silently(data_set, extraction, refused):
    """A split of which nothing can be used is an error even where errors are skipped."""
    for path in (data_set.root / "JPEGImages").iterdir():
        path.write_bytes(b"")
    said = refused(*extraction, "--on-error", "skip")
    assert said == "set: not one image of 'train' can be used; run 'pipeline data check'"


def test_a_flipped_bit_of_a_mask_is_found(tmp_path):
    """What is read is what was written, or nothing."""
    path = tmp_path / "mask.png"
    write_mask(path, LABELS[:6, :7])
    whole = path.read_bytes()
    flips = range(0, len(whole) * 8, 11)
    found = 0
    for bit in flips:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            np.testing.assert_array_equal(read_mask(path), LABELS[:6, :7])
        except DataError:
            found += 1
    assert found > 0.98 * len(flips)  # the others are in the checksum of the last chunk


def test_a_jpeg_that_is_cut_is_never_read(tmp_path):
    path = tmp_path / "image.jpg"
    picture(SMOOTH)(path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cannot be read|is not an image"):
            read_image(path)
