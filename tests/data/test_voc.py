import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.palette import write_mask
from pipeline.data.voc import VOC_CLASSES, VocDataset, parse_split
from pipeline.errors import DataError

MakeVoc = Callable[..., Path]


def test_reads_splits_images_and_masks(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["b", "a.1"], "val": ["c d"]})
    dataset = VocDataset.open(root)
    assert dataset.splits() == ("train", "val")
    assert dataset.image_ids("train") == ("b", "a.1")
    assert dataset.image_ids("val") == ("c d",)
    for image_id in ("a.1", "b", "c d"):
        with Image.open(root / "JPEGImages" / f"{image_id}.png") as stored:
            np.testing.assert_array_equal(dataset.read_image(image_id), np.asarray(stored))
        with Image.open(root / "SegmentationClass" / f"{image_id}.png") as stored:
            np.testing.assert_array_equal(dataset.read_mask(image_id), np.asarray(stored))


def test_voc_classes_are_the_default(make_voc: MakeVoc) -> None:
    dataset = VocDataset.open(make_voc({"train": ["a"]}, classes=None))
    assert dataset.classes == VOC_CLASSES
    assert (len(VOC_CLASSES), VOC_CLASSES[15], dataset.void) == (21, "person", 255)


def test_classes_file_names_classes_and_void(make_voc: MakeVoc) -> None:
    listing = "# made by hand\r\nground\r\n  big cat \r\n# void: 7\r\n\r\n"
    root = make_voc({"train": ["a"]}, classes=listing)
    dataset = VocDataset.open(root)
    assert (dataset.classes, dataset.void) == (("ground", "big cat"), 7)
    override = VocDataset.open(root, classes=["x", "y", "z"], void=0)
    assert (override.classes, override.void) == (("x", "y", "z"), 0)


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("a\n\nb\n", "line 2 is blank"),
        ("a\nb\na\n", "repeat"),
        ("a\n# void: none\n", "line 2: void is a number"),
        ("a\n# void: 256\n", "from 0 to 255"),
        ("a\n# void: \x1c256\n", "from 0 to 255"),
        ("\n", "0 classes"),
        ("".join(f"c{i}\n" for i in range(257)), "257 classes"),
    ],
)
def test_bad_classes_files(make_voc: MakeVoc, listing: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"classes\.txt.*{message}"):
        VocDataset.open(make_voc({"train": ["a"]}, classes=listing))


@given(
    ids=st.lists(
        st.text(st.characters(categories=("L", "N"), include_characters="_-. "), min_size=1)
        .map(str.strip)
        .filter(lambda name: name not in ("", ".", "..")),
        min_size=1,
        unique=True,
    ),
    pad=st.sampled_from(["", " ", "\t"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_split_files_tolerate_blanks(ids: list[str], pad: str, end: str, mark: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        content = mark + "".join(pad + name + pad + end for name in ids)
        path.write_bytes(content.encode())
        assert parse_split(path) == (tuple(ids), ())


@pytest.mark.parametrize("name", ["../x", "a/b", "/a", "..", ".", r"a\b"])
def test_paths_are_no_image_ids(make_voc: MakeVoc, name: str) -> None:
    root = make_voc({"train": ["a"]})
    (root / "ImageSets/Segmentation/train.txt").write_text(f"a\n{name}\n")
    with pytest.raises(DataError, match=r"train\.txt: line 2: .* is a path"):
        VocDataset.open(root).image_ids("train")


def test_duplicate_missing_and_empty_splits(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b", "a"], "val": []})
    dataset = VocDataset.open(root)
    with pytest.raises(DataError, match=r"train\.txt: line 3: 'a' is listed in line 1 already"):
        dataset.image_ids("train")
    with pytest.raises(DataError, match=r"val\.txt: lists no image"):
        dataset.image_ids("val")
    for split in ("test", "../Main/train"):
        with pytest.raises(DataError, match="choose one of train, val"):
            dataset.image_ids(split)


def test_split_file_that_is_no_text(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a"]})
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(DataError, match=r"train\.txt: cannot be read as UTF-8"):
        VocDataset.open(root).image_ids("train")


def test_missing_files_are_named(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b"]})
    (root / "JPEGImages/a.png").unlink()
    (root / "SegmentationClass/b.png").unlink()
    dataset = VocDataset.open(root)
    with pytest.raises(DataError, match=r"JPEGImages.a .*does not exist"):
        dataset.read_image("a")
    assert dataset.read_image("b").shape == (7, 9, 3)
    with pytest.raises(DataError, match=r"SegmentationClass.b .*does not exist"):
        dataset.read_mask("b")
    with pytest.raises(DataError, match="without a suffix"):
        dataset.read_image("b.png")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a.jpg", "a.png"], "a.jpg and a.png"),
        (["a.PNG", "a.jpeg"], "a.jpeg and a.PNG"),
        (["a.Jpg", "a.jPG"], "a.Jpg and a.jPG"),
    ],
)
def test_two_files_for_one_image_are_named(make_voc: MakeVoc, names: list[str], said: str) -> None:
    root = make_voc({"train": ["a", "b"]})
    folder = root / "JPEGImages"
    content = (folder / "a.png").read_bytes()
    (folder / "a.png").unlink()
    for name in names:
        (folder / name).write_bytes(content)
    if len(list(folder.glob("a.*"))) < len(names):
        pytest.skip("case counts for nothing on this disk")
    dataset = VocDataset.open(root)
    with pytest.raises(DataError, match=rf"{said} are both there for one image: remove one"):
        dataset.image_path("a")
    assert dataset.image_path("b").name == "b.png"
    (folder / names[0]).unlink()
    (folder / names[0]).symlink_to(names[1])  # as on disks where case counts for nothing
    assert dataset.image_path("a").name in names


def test_masks_of_another_size_or_with_other_labels(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b"]})
    dataset = VocDataset.open(root)
    write_mask(root / "SegmentationClass/a.png", np.zeros((9, 6), np.uint8))
    with pytest.raises(DataError, match=r"a\.png has 6x9 pixels, its image 9x6"):
        dataset.read_mask("a")
    mask = np.zeros((7, 9), np.uint8)
    mask[0, :4] = 3, 255, 254, 2
    write_mask(root / "SegmentationClass/b.png", mask)
    with pytest.raises(DataError, match=r"b\.png has labels 3, 254, but there are 3 classes"):
        dataset.read_mask("b")
    wider = VocDataset.open(root, classes=list("abcd"), void=254)
    with pytest.raises(DataError, match=r"has labels 255, .* void is 254"):
        wider.read_mask("b")


@pytest.mark.shared
def test_real_voc_images(shared_root: Path) -> None:
    dataset = VocDataset.open(shared_root / "voc2012-animals/VOCdevkit/VOC2012")
    assert len(dataset.image_ids("train")) == 437
    assert len(dataset.image_ids("val")) == 223
    image_id = dataset.image_ids("val")[0]
    assert dataset.read_mask(image_id).shape == dataset.read_image(image_id).shape[:2]


def test_a_split_s_name_leaves_room_for_what_its_shards_are_called(tmp_path):
    splits = tmp_path / "ImageSets" / "Segmentation"
    splits.mkdir(parents=True)
    (tmp_path / "JPEGImages").mkdir()
    for length in (200, 201):
        (splits / f"{'s' * length}.txt").write_text("a\n")
    dataset = VocDataset.open(tmp_path)
    assert dataset.image_ids("s" * 200) == ("a",)
    with pytest.raises(
        DataError, match=r"s\.txt: the split's name is longer than 200 bytes: rename"
    ):
        dataset.image_ids("s" * 201)
