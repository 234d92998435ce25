from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.check import check_dataset
from pipeline.data.palette import write_mask
from pipeline.data.voc import VocDataset

MakeVoc = Callable[..., Path]


def test_a_sound_data_set_has_no_problems(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b"], "trainval": ["a", "b", "c"]})
    assert check_dataset(VocDataset.open(root)) == []


def test_every_problem_is_listed_once(make_voc: MakeVoc) -> None:
    root = make_voc({"train": list("abcdef"), "trainval": list("abcdef"), "val": ["g"]})
    images, masks = root / "JPEGImages", root / "SegmentationClass"
    (images / "a.png").unlink()
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:60])
    (masks / "b.png").unlink()
    write_mask(masks / "c.png", np.full((2, 3), 77, np.uint8))
    Image.new("RGB", (9, 9)).save(masks / "d.png")
    (masks / "e.png").write_bytes(b"")
    (root / "ImageSets/Segmentation/val.txt").write_text("g\n../g\ng\n")
    (root / "ImageSets/Segmentation/test.txt").write_text("\n")

    problems = check_dataset(VocDataset.open(root))
    found = [(p.split, p.image_id, str(p.path.relative_to(root))) for p in problems]
    both, splits = "train, trainval", "ImageSets/Segmentation"
    assert found == [
        ("test", "", f"{splits}/test.txt"),
        ("val", "", f"{splits}/val.txt"),
        ("val", "", f"{splits}/val.txt"),
        (both, "a", "JPEGImages/a"),
        (both, "b", "JPEGImages/b.png"),
        (both, "b", "SegmentationClass/b"),
        (both, "c", "SegmentationClass/c.png"),
        (both, "c", "SegmentationClass/c.png"),
        (both, "d", "SegmentationClass/d.png"),
        (both, "e", "SegmentationClass/e.png"),
    ]
    words = (
        *("no image", "is a path", "already", "not exist", "cannot be read", "not exist"),
        *("labels 77", "3x2 pixels", "not an index mask", "is not an image"),
    )
    for problem, word in zip(problems, words, strict=True):
        assert word in problem.what
        assert str(problem.path) in problem.what
        assert "\n" not in problem.what


def test_an_image_of_two_files_is_a_problem(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b"]})
    images = root / "JPEGImages"
    Image.new("RGB", (9, 6)).save(images / "a.jpg")
    (problem,) = check_dataset(VocDataset.open(root))
    assert problem.image_id == "a"
    assert problem.what == (
        f"{images / 'a.jpg'} and a.png are both there for one image: remove one of them"
    )


def test_only_test_splits_may_lack_all_their_masks(make_voc: MakeVoc) -> None:
    root = make_voc({"test": ["a", "b"], "val": ["c"]})
    for image_id in "abc":
        (root / "SegmentationClass" / f"{image_id}.png").unlink()
    assert [p.image_id for p in check_dataset(VocDataset.open(root))] == ["c"]
    write_mask(root / "SegmentationClass/b.png", np.full((7, 9), 9, np.uint8))
    found = [(p.image_id, p.path.name) for p in check_dataset(VocDataset.open(root))]
    assert found == [("a", "a"), ("b", "b.png"), ("c", "c")]


def test_no_split_file_is_a_problem(make_voc: MakeVoc) -> None:
    (problem,) = check_dataset(VocDataset.open(make_voc({})))
    assert "no split file" in problem.what
