"""Instance masks with class masks and annotation files, in a data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import VocDataset, check_dataset, write_mask
from pipeline.data.annotations import AnnotatedObject, Box, write_annotation
from pipeline.data.scenes import draw_scene
from pipeline.errors import DataError

OBJECTS = (AnnotatedObject("cat", Box(0, 0, 4, 3)), AnnotatedObject("dog", Box(5, 2, 9, 6)))


@pytest.fixture
def dataset(make_voc: Callable[..., Path]) -> VocDataset:
    """Give an image of 6x9 pixels with a cat and a dog."""
    root = make_voc({"train": ["a"]})
    labels = np.zeros((6, 9), np.uint8)
    labels[:3, :3], labels[3:6, 5:9], labels[3, 5] = 1, 2, 255
    instances = np.where(labels == 255, 255, labels).astype(np.uint8)
    write_mask(root / "SegmentationClass/a.png", labels)
    write_mask(root / "SegmentationObject/a.png", instances)
    write_annotation(root / "Annotations/a.xml", "a.png", (6, 9), OBJECTS)
    return VocDataset.open(root)


def test_objects_with_annotated_boxes(dataset: VocDataset) -> None:
    found = dataset.read_instances("a")
    assert [(o.number, o.label, o.box) for o in found.objects] == [
        (1, 1, OBJECTS[0].box),
        (2, 2, OBJECTS[1].box),
    ]
    assert (found.mask == 255).sum() == 1
    assert check_dataset(dataset) == []


def test_boxes_without_annotations_hold_the_pixels(dataset: VocDataset) -> None:
    (dataset.root / "Annotations/a.xml").unlink()
    boxes = [o.box for o in dataset.read_instances("a").objects]
    assert boxes == [Box(0, 0, 3, 3), Box(5, 3, 9, 6)]
    with pytest.raises(DataError, match=r"Annotations.a \(\.xml\) does not exist"):
        dataset.read_annotation("a")


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (OBJECTS[:1], r"SegmentationObject.a\.png: holds an object 2, but .* lists 1: number"),
        (OBJECTS[::-1], r"object 1 is a cat at \(0, 0, 3, 3\), but .* lists a dog at \(5, 2, 9, 6"),
        ((AnnotatedObject("cat", Box(3, 0, 4, 3)),), r"lists a cat at \(3, 0, 4, 3\) there"),
        ((AnnotatedObject("cow", Box(0, 0, 4, 3)),), r"object 1 is a 'cow', which is no class"),
        ((AnnotatedObject("ground", Box(0, 0, 4, 3)),), r"is a 'ground', which is no class here"),
        ((AnnotatedObject("cat", Box(0, 0, 10, 3)),), r"leaves its image of 9x6 pixels"),
    ],
)
def test_annotations_of_another_image(dataset: VocDataset, objects, expected: str) -> None:
    write_annotation(dataset.root / "Annotations/a.xml", "a.png", (6, 9), objects)
    with pytest.raises(DataError, match=expected):
        dataset.read_instances("a")
    (problem,) = check_dataset(dataset)
    assert problem.image_id == "a"
    assert problem.path.is_file()
    assert "\n" not in problem.what


def test_an_object_that_is_background(dataset: VocDataset) -> None:
    mask = np.zeros((6, 9), np.uint8)
    mask[5, 0] = 1
    write_mask(dataset.root / "SegmentationObject/a.png", mask)
    with pytest.raises(DataError, match="object 1 is background or void in the class mask"):
        dataset.read_instances("a")
    write_mask(dataset.root / "SegmentationObject/a.png", mask[:5])
    (problem,) = check_dataset(dataset)
    assert "has 9x5 pixels, its image 9x6" in problem.what
    (dataset.root / "SegmentationObject/a.png").unlink()
    with pytest.raises(DataError, match=r"SegmentationObject.a \(\.png\) does not exist"):
        dataset.read_instances("a")
    assert check_dataset(dataset) == []


def test_scenes_know_their_objects() -> None:
    hidden = visible = 0
    for seed in range(8):
        scene = draw_scene(np.random.default_rng(seed), 120, 150)
        numbers = np.unique(scene.instances)
        assert numbers[numbers < 255].tolist() == list(range(len(scene.objects) + 1))
        np.testing.assert_array_equal(scene.instances == 255, scene.labels == 255)
        np.testing.assert_array_equal(scene.instances == 0, scene.labels == 0)
        for number, found in enumerate(scene.objects, start=1):
            ys, xs = np.nonzero(scene.instances == number)
            left, top, right, bottom = found.box
            assert left <= xs.min() and xs.max() < right
            assert top <= ys.min() and ys.max() < bottom
            assert len(set(scene.labels[ys, xs])) == 1
            for x, y, shown in found.keypoints.values():
                if shown:  # a corner that shows lies on the outline, near the object's pixels
                    assert np.hypot(ys + 0.5 - y, xs + 0.5 - x).min() < 4
                    assert left - 2 <= x <= right + 2 and top - 2 <= y <= bottom + 2
                visible, hidden = visible + shown, hidden + (not shown)
    assert visible > hidden > 0
