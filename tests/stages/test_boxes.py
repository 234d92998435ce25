"""fit-boxes and evaluate-boxes on the scenes: what is learnt, stored, measured and refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import (
    BoxSettings,
    FeatureCache,
    Features,
    Preprocessing,
    VocDataset,
    evaluate_boxes,
    extract,
    fit_boxes,
    load_backbone,
    load_box_head,
)
from pipeline.boxes import splat
from pipeline.data import write_mask
from pipeline.errors import CacheMismatchError, CacheNotFoundError, DataError, ParamsError
from pipeline.identity import Identity

FEATURES = Features(context=())
SETTINGS = BoxSettings(grid=2, points=20, epochs=12, batch_size=2, learning_rate=0.01)


@pytest.fixture(scope="module")
def head(cache: Path, scenes: VocDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxes") / "regions.safetensors"
    fit_boxes(cache, scenes.root, out, features=FEATURES, settings=SETTINGS)
    return out


@pytest.fixture(scope="module")
def keypoint_head(
    cache: Path, scenes: VocDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("boxes") / "keypoints.safetensors"
    fit_boxes(cache, scenes.root, out, task="keypoints", features=FEATURES, settings=SETTINGS)
    return out


def detections_of(scenes: VocDataset, path: Path, *, shift: float = 0.0) -> Path:
    """Write the true boxes of the val split as detections, moved by a share of their sides."""
    rng = np.random.default_rng(0)
    listed = []
    for image_id in scenes.image_ids("val"):
        for thing in scenes.read_annotation(image_id):
            left, top, _, _ = thing.box
            dx, dy = rng.choice([-shift, shift], 2) * (thing.box.width, thing.box.height)
            bbox = [left + dx, top + dy, thing.box.width, thing.box.height]
            label = scenes.classes.index(thing.name)
            one = {"image_id": image_id, "category_id": label, "bbox": bbox}
            listed.append(one | {"score": float(rng.random())})
    path.write_text(json.dumps(listed))
    return path


def test_what_is_stored(head: Path, cache: Path, scenes: VocDataset) -> None:
    loaded = load_box_head(head)
    identity: Identity = FeatureCache(cache).identity
    assert (loaded.info.task, loaded.info.identity) == ("figure-ground", identity)
    assert (loaded.info.grid, loaded.info.points) == (2, 20)
    assert loaded.info.settings["seed"] == 0
    labels = {o.label for i in scenes.image_ids("train") for o in scenes.read_instances(i).objects}
    assert [target.label for target in loaded.info.targets] == sorted(labels)
    objects = sum(len(scenes.read_instances(i).objects) for i in scenes.image_ids("train"))
    assert loaded.info.metrics["boxes"] == objects
    losses = loaded.info.metrics["losses"]
    assert losses[0] > losses[-1]
    assert loaded.weight.shape == (len(labels), 4, 96 + 128 + 256)


def test_the_same_seed_gives_the_same_head(
    cache: Path, scenes: VocDataset, tmp_path: Path, head: Path
) -> None:
    for name, seed in (("same", 0), ("other", 1)):
        settings = SETTINGS.model_copy(update={"seed": seed})
        fit_boxes(cache, scenes.root, tmp_path / name, features=FEATURES, settings=settings)
    assert (tmp_path / "same").read_bytes() == head.read_bytes()
    assert (tmp_path / "other").read_bytes() != head.read_bytes()


def test_regions_are_better_than_whole_boxes(
    cache: Path, scenes: VocDataset, head: Path, tmp_path: Path
) -> None:
    """On the images that were trained on: twelve small ones do not teach much about others."""
    found = evaluate_boxes(cache, scenes.root, head, split="train", out=tmp_path / "m.json")
    assert found == json.loads((tmp_path / "m.json").read_text())
    overlaps: dict[str, list[float]] = {}
    for image_id in scenes.image_ids("train"):
        true = scenes.read_instances(image_id)
        for thing in true.objects:
            region = splat(torch.ones(1, 1), thing.box, true.mask.shape).numpy() > 0
            own, counted = true.mask == thing.number, true.mask != scenes.void
            both, either = region & own & counted, (region | own) & counted
            name = scenes.classes[thing.label]
            overlaps.setdefault(name, []).append(both.sum() / either.sum())
    means = [np.mean(values) for values in overlaps.values()]
    assert found["objects"] == sum(map(len, overlaps.values()))
    assert {n for n, value in found["overlap"].items() if value is not None} == overlaps.keys()
    assert found["mean_overlap"] > np.mean(means) + 0.15
    assert 0 < found["region_ap"]["0.7"]["mean"] <= found["region_ap"]["0.5"]["mean"] <= 1
    assert (found["candidates"], found["split"], found["images"]) == ("true boxes", "train", 12)


def test_regions_by_hand(cache: Path, scenes: VocDataset, head: Path) -> None:
    """One image's overlaps from the head's parts, one after the other."""
    image_id = scenes.image_ids("val")[0]
    split, loaded = FeatureCache(cache)["val"], load_box_head(head)
    taps = loaded.info.taps
    maps = FEATURES.apply([torch.from_numpy(m) for m in split.maps(image_id, taps)], taps)
    true = scenes.read_instances(image_id)
    size = true.mask.shape
    overlaps: dict[int, list[float]] = {}
    for thing in true.objects:
        window = loaded.window(thing.box, size)
        (heat,) = loaded.heat_maps(maps, thing.label, window, size, split.size(image_id))
        region = splat(heat, window, size).numpy() >= 0.6
        own, counted = true.mask == thing.number, true.mask != scenes.void
        both, either = region & own & counted, (region | own) & counted
        overlaps.setdefault(thing.label, []).append(both.sum() / either.sum())
    # The same image alone in a split of its own.
    found = evaluate_boxes(cache, scenes.root, head, threshold=0.6)
    everything = {n: v for n, v in found["overlap"].items() if v is not None}
    assert everything.keys() >= {scenes.classes[label] for label in overlaps}
    for label, values in overlaps.items():
        others = [o for i in scenes.image_ids("val")[1:] for o in scenes.read_instances(i).objects]
        if all(o.label != label for o in others):
            assert everything[scenes.classes[label]] == pytest.approx(np.mean(values), abs=1e-6)


def test_detections_that_are_the_truth_find_what_it_does(
    cache: Path, scenes: VocDataset, head: Path, tmp_path: Path
) -> None:
    exact = detections_of(scenes, tmp_path / "exact.json")
    found = evaluate_boxes(cache, scenes.root, head, detections=exact)
    given_box = evaluate_boxes(cache, scenes.root, head)
    assert found["overlap"] == given_box["overlap"]
    assert found["candidates"] == "detections"
    moved = detections_of(scenes, tmp_path / "moved.json", shift=0.6)
    worse = evaluate_boxes(cache, scenes.root, head, detections=moved)
    assert worse["overlap"] == given_box["overlap"]
    assert worse["region_ap"]["0.5"]["mean"] < found["region_ap"]["0.5"]["mean"]


def test_keypoints(cache: Path, scenes: VocDataset, keypoint_head: Path, tmp_path: Path) -> None:
    loaded = load_box_head(keypoint_head)
    assert loaded.info.task == "keypoints"
    named = {(t.label, t.keypoint) for t in loaded.info.targets}
    assert (scenes.classes.index("quilt"), "top left") in named
    found = evaluate_boxes(cache, scenes.root, keypoint_head)
    shown = sum(
        keypoint.visible
        for image_id in scenes.image_ids("val")
        for thing in scenes.read_annotation(image_id)
        for keypoint in thing.keypoints.values()
    )
    assert found["keypoints"] == shown
    # Guessing the middle of the box would be right for none: corners are half a side away.
    assert evaluate_boxes(cache, scenes.root, keypoint_head, split="train")["mean_pck"] > 0.6
    generous = evaluate_boxes(cache, scenes.root, keypoint_head, alpha=0.3)
    assert generous["mean_pck"] > found["mean_pck"]
    exact = detections_of(scenes, tmp_path / "exact.json")
    detected = evaluate_boxes(cache, scenes.root, keypoint_head, detections=exact)
    assert detected["pck"] == found["pck"]
    assert detected["apk"] != found["apk"]


def test_detections_are_trained_on_where_they_overlap_enough(
    cache: Path, scenes: VocDataset, tmp_path: Path
) -> None:
    quick = SETTINGS.model_copy(update={"epochs": 1})
    counts = {}
    for shift in (0.0, 0.05, 0.4):
        listed = detections_of(scenes, tmp_path / "d.json", shift=shift)
        counts[shift] = fit_boxes(
            cache, scenes.root, tmp_path / "h", split="val", settings=quick, detections=listed
        ).boxes
    assert counts[0.4] < counts[0.05] <= counts[0.0] == 2 * counts[0.4]


def test_images_at_another_size_than_they_are_stored(scenes: VocDataset, tmp_path: Path) -> None:
    """Boxes are those of the stored image, while the backbone saw a smaller one."""
    backbone = load_backbone("squeezenet1_0", weights="random", taps=["conv1", "fire3"])
    extract(scenes, backbone, tmp_path / "c", preprocessing=Preprocessing(input_size="48"))
    fit_boxes(tmp_path / "c", scenes.root, tmp_path / "h", features=FEATURES, settings=SETTINGS)
    found = evaluate_boxes(tmp_path / "c", scenes.root, tmp_path / "h", split="train")
    assert found["mean_overlap"] > 0.6


def test_taps_can_be_chosen(cache: Path, scenes: VocDataset, tmp_path: Path) -> None:
    quick = SETTINGS.model_copy(update={"epochs": 1})
    top = Features(context=("global",), taps=("fire5",))
    fit_boxes(cache, scenes.root, tmp_path / "h", features=top, settings=quick)
    assert load_box_head(tmp_path / "h").weight.shape[2] == 256 + 256
    assert evaluate_boxes(cache, scenes.root, tmp_path / "h")["head"]["taps"] == ["fire5"]
    with pytest.raises(ParamsError, match="no tap 'conv9' in this cache"):
        fit_boxes(cache, scenes.root, tmp_path / "h", features=Features(taps=("conv9",)))


def test_mistakes(cache: Path, scenes: VocDataset, head: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheNotFoundError, match="no split 'test'"):
        fit_boxes(cache, scenes.root, tmp_path / "h", split="test")
    with pytest.raises(ParamsError, match="threshold 0 is not in"):
        evaluate_boxes(cache, scenes.root, head, threshold=0)
    outside = tmp_path / "outside.json"
    image_id = scenes.image_ids("val")[0]
    one = {"image_id": image_id, "category_id": 1, "bbox": [500, 0, 9, 9], "score": 1}
    outside.write_text(json.dumps([one]))
    with pytest.raises(DataError, match=rf"{image_id}: the detection at \[500.* lies outside"):
        evaluate_boxes(cache, scenes.root, head, detections=outside)

    other = tmp_path / "other"
    shutil.copytree(scenes.root, other)
    shutil.rmtree(other / "SegmentationObject")
    with pytest.raises(DataError, match=r"SegmentationObject.*does not exist"):
        evaluate_boxes(cache, other, head)
    first = scenes.image_ids("train")[0]
    shutil.copy(scenes.image_path(image_id), other / "JPEGImages" / f"{first}.png")
    with pytest.raises(CacheMismatchError, match="not the image of that id that the cache was"):
        fit_boxes(cache, other, tmp_path / "h")
    assert not (tmp_path / "h").exists()


def test_a_split_without_objects(cache: Path, scenes: VocDataset, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(scenes.root, other)
    for image_id in scenes.image_ids("val"):
        mask = np.zeros(scenes.read_mask(image_id).shape, np.uint8)
        write_mask(other / "SegmentationObject" / f"{image_id}.png", mask)
    with pytest.raises(DataError, match="no object in the images of 'val'"):
        fit_boxes(cache, other, tmp_path / "h", split="val")


def test_a_class_that_was_not_trained_on_is_not_found(
    cache: Path, scenes: VocDataset, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(scenes.root, other)
    snake = scenes.classes.index("snake")
    for image_id in scenes.image_ids("train"):
        true = scenes.read_instances(image_id)
        mask = true.mask.copy()
        for thing in true.objects:
            if thing.label == snake:
                mask[mask == thing.number] = 0
        write_mask(other / "SegmentationObject" / f"{image_id}.png", mask)
    fit_boxes(cache, other, tmp_path / "h", features=FEATURES, settings=SETTINGS)
    found = evaluate_boxes(cache, scenes.root, tmp_path / "h")
    assert found["overlap"]["snake"] == 0
    assert found["region_ap"]["0.5"]["by_class"]["snake"] == 0
