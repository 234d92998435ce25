"""A few real images with real weights through all stages; skipped where they are not at hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import (
    BoxSettings,
    FeatureCache,
    Features,
    Preprocessing,
    Segmenter,
    TrainSettings,
    VocDataset,
    evaluate,
    evaluate_boxes,
    extract,
    fit_boxes,
    fit_dense,
    fit_sparse,
    load_backbone,
)
from pipeline.data import check_dataset, write_mask

pytestmark = [pytest.mark.shared, pytest.mark.slow]
WEIGHTS = "weights/squeezenet1_0-imagenet.safetensors"


@pytest.fixture(scope="module")
def animals(shared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> VocDataset:
    """Give the first images of the real data set's splits."""
    real = shared_root / "voc2012-animals/VOCdevkit/VOC2012"
    root = tmp_path_factory.mktemp("animals")
    for folder in ("JPEGImages", "SegmentationClass"):
        (root / folder).symlink_to(real / folder)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, count in (("train", 10), ("val", 3)):
        ids = VocDataset.open(real).image_ids(split)[:count]
        (lists / f"{split}.txt").write_text("\n".join(ids))
    return VocDataset.open(root)


def test_squeezenet_learns_to_tell_animals(
    animals: VocDataset, shared_root: Path, tmp_path: Path
) -> None:
    weights = shared_root / WEIGHTS
    backbone = load_backbone("squeezenet1_0", weights=weights)
    cache = tmp_path / "cache"
    extract(animals, backbone, cache, preprocessing=Preprocessing(input_size="128"))

    image_id = animals.image_ids("val")[0]
    cached = FeatureCache(cache)["val"]
    resized = Preprocessing(input_size="128").resize_image(animals.read_image(image_id))
    inputs = torch.from_numpy(Preprocessing(input_size="128").normalize(resized))[None]
    for tap, m in zip(backbone.taps, backbone(inputs), strict=True):
        (found,) = cached.maps(image_id, [tap.name])
        expected = m[0].numpy()
        assert found.min() < 0 < found.max()
        np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-4)

    sparse, dense = tmp_path / "sparse.safetensors", tmp_path / "dense.safetensors"
    fit_sparse(cache, sparse, options={"hidden": 32})
    settings = TrainSettings(epochs=3, learning_rate=2e-3)
    history = fit_dense(cache, sparse, dense, settings=settings).history
    assert history["train_loss"][-1] < history["train_loss"][1]
    own = evaluate(cache, dense, split="train")
    assert own["pixel_accuracy"] > 0.85
    assert own["mean_iou"] > 0.5

    segment = Segmenter(dense, weights=weights)
    image = animals.read_image(image_id)
    assert segment(image).shape == image.shape[:2]


@pytest.mark.parametrize("name", ["vgg11", "alexnet"])
def test_the_other_backbones_run_with_random_weights(
    name: str, animals: VocDataset, tmp_path: Path
) -> None:
    backbone = load_backbone(name, weights="random")
    cache, head = tmp_path / "cache", tmp_path / "head.safetensors"
    extract(animals, backbone, cache, preprocessing=Preprocessing(input_size="128"))
    fit_sparse(cache, head, estimator="logistic", options={"epochs": 5})
    fit_dense(cache, head, head, settings=TrainSettings(epochs=1))
    assert evaluate(cache, head)["pixel_accuracy"] > 0


def test_animals_in_boxes(animals: VocDataset, shared_root: Path, tmp_path: Path) -> None:
    """These real images have no instance masks: all pixels of a class count as one object here."""
    for split in animals.splits():
        for image_id in animals.image_ids(split):
            mask = animals.read_mask(image_id)
            labels = [label for label in np.unique(mask).tolist() if label not in (0, 255)]
            numbers = np.zeros(256, np.uint8)
            numbers[labels], numbers[255] = np.arange(1, 1 + len(labels)), 255
            write_mask(animals.root / "SegmentationObject" / f"{image_id}.png", numbers[mask])
    assert check_dataset(animals) == []

    backbone = load_backbone("squeezenet1_0", weights=shared_root / WEIGHTS)
    cache, head = tmp_path / "cache", tmp_path / "boxes.safetensors"
    extract(animals, backbone, cache, preprocessing=Preprocessing(input_size="short:160"))
    settings = BoxSettings(epochs=8, batch_size=1)
    fit_boxes(cache, animals.root, head, features=Features(context=()), settings=settings)
    found = evaluate_boxes(cache, animals.root, head, split="train")
    objects = [o for i in animals.image_ids("train") for o in animals.read_instances(i).objects]
    assert found["objects"] == len(objects)
    filled = []  # what whole boxes would get
    for image_id in animals.image_ids("train"):
        true = animals.read_instances(image_id)
        for thing in true.objects:
            left, top, right, bottom = map(int, thing.box)
            inside = true.mask[top:bottom, left:right]
            filled.append((inside == thing.number).sum() / (inside != 255).sum())
    assert found["mean_overlap"] > np.mean(filled) + 0.15
    unseen = evaluate_boxes(cache, animals.root, head)
    assert 0 <= unseen["mean_overlap"] <= 1
