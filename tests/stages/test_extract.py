"""Extraction: the backbone's own values, and nothing computed twice or left out silently."""

import json
import shutil
from collections import namedtuple

import h5py
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from pipeline import (
    Drawing,
    FeatureCache,
    Features,
    Preprocessing,
    load_backbone,
)
from pipeline.errors import CacheOverflowError, DataError, SpaceError

TRAIN, VAL = 5, 2


def inodes(directory):
    """Which files have been written anew shows in their inodes."""
    return {path.name: path.stat().st_ino for path in directory.glob("*-of-?????.h5")}


def test_an_image_of_two_files_is_refused_or_left_out(run, dataset):
    image_id = dataset.image_ids("train")[1]
    path = dataset.image_path(image_id)
    shutil.copy(path, path.with_suffix(".jpg"))
    with pytest.raises(DataError, match=f"{image_id}.jpg and {image_id}.png are both there"):
        run()
    result = run(on_error="skip")
    ((split, left_out, why),) = result.skipped
    assert (split, left_out, result.computed) == ("train", image_id, 6)
    assert "are both there" in why


def test_the_cache_holds_what_the_backbone_gives(run, dataset, backbone, tmp_path):
    result = run()
    assert (result.images, result.computed, result.skipped) == (TRAIN + VAL, TRAIN + VAL, [])
    cache = FeatureCache(tmp_path / "cache")
    assert result.fingerprint == cache.identity.fingerprint
    sizes = set()
    for split in ("train", "val"):
        assert cache[split].image_ids == dataset.image_ids(split)
        for image_id in dataset.image_ids(split):
            with Image.open(dataset.image_path(image_id)) as file:
                image = np.asarray(file.convert("RGB"))
            with Image.open(dataset.mask_path(image_id)) as file:
                mask = np.asarray(file)
            mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            inputs = torch.from_numpy((image / 255 - mean) / std).float().permute(2, 0, 1)
            plain = backbone(inputs[None])
            maps = cache[split].maps(image_id, cache.identity.tap_names)
            for found, expected in zip(maps, plain, strict=True):
                assert found.shape == expected.shape[1:]
                half_a_step = expected[0].abs().numpy() * 2**-11 + 2e-5
                assert (np.abs(found - expected[0].numpy()) <= half_a_step).all()
            np.testing.assert_array_equal(cache[split].image(image_id), image)
            np.testing.assert_array_equal(cache[split].label(image_id), mask)
            np.testing.assert_array_equal(cache[split].label_original(image_id), mask)
            sizes.add(mask.shape)
    assert len(sizes) > 2  # nothing assumes one size


def test_a_fixed_size_keeps_the_original_mask(run, dataset, tmp_path):
    run(preprocessing=Preprocessing(input_size="48"), splits=["val"])
    split = FeatureCache(tmp_path / "cache")["val"]
    for image_id in split.image_ids:
        assert split.size(image_id) == (48, 48)
        assert split.image(image_id).shape == (48, 48, 3)
        np.testing.assert_array_equal(split.label_original(image_id), dataset.read_mask(image_id))


@pytest.mark.parametrize("input_size", ["native", "48"])
def test_neither_batch_size_nor_threads_change_a_bit(run, tmp_path, values, input_size):
    before, found = torch.get_num_threads(), []
    for batch_size, threads in ((1, 1), (1, 2), (4, 2), (None, 3)):
        out = tmp_path / f"{batch_size}-{threads}"
        size = Preprocessing(input_size=input_size)
        torch.set_num_threads(threads)
        try:
            run(out=out, preprocessing=size, batch_size=batch_size, images_per_shard=9)
        finally:
            torch.set_num_threads(before)
        found.append(values(out))
    assert found == [found[0]] * 4


def test_same_input_same_bytes(run, tmp_path):
    run()
    first = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    run(out=tmp_path / "again")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_a_complete_extraction_computes_nothing(run, tmp_path, listening):
    run()
    before = inodes(tmp_path / "cache")
    result = run(progress=listening)
    assert (result.computed, result.images) == (0, TRAIN + VAL)
    assert inodes(tmp_path / "cache") == before
    assert any(f"{TRAIN + VAL} images are in the cache already" in line for line in listening.lines)


def test_a_missing_shard_alone_is_computed(run, tmp_path, values):
    run()
    before, kept = values(tmp_path / "cache"), inodes(tmp_path / "cache")
    lost = "train-00001-of-00003.h5"
    (tmp_path / "cache" / lost).unlink()
    assert run().computed == 2
    assert values(tmp_path / "cache") == before
    after = inodes(tmp_path / "cache")
    assert after.keys() == kept.keys()
    assert all(after[name] == kept[name] for name in kept if name != lost)


def test_an_interrupted_extraction_goes_on(run, tmp_path, values, interrupted):
    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupted("extracting train", after=3))
    finished = inodes(tmp_path / "cache")
    assert set(finished) == {"train-00000-of-00003.h5"}
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".h5"}  # tidied up
    assert run().computed == TRAIN + VAL - 2
    assert inodes(tmp_path / "cache").items() >= finished.items()
    run(out=tmp_path / "whole")
    assert values(tmp_path / "cache") == values(tmp_path / "whole")
    assert not list((tmp_path / "cache").glob("*.partial"))


@pytest.mark.parametrize(
    ("what", "drawing"), [("extracting train", Drawing()), ("sampling train", Drawing(seed=1))]
)
def test_an_interruption_is_over_while_its_traceback_is_kept(
    run, tmp_path, interrupted, listening, what, drawing
):
    """As in a notebook, which keeps the last one."""
    if what != "extracting train":
        run(drawing=Drawing())
    with pytest.raises(KeyboardInterrupt) as kept:
        run(progress=interrupted(what, after=3), drawing=drawing)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".h5", ".json"}
    assert run(progress=listening, drawing=drawing).images == TRAIN + VAL
    assert "waiting" not in listening.text
    del kept


def test_replacing_one_split_leaves_no_other_behind(run, tmp_path):
    run()
    run(dtype="int8", replace=True, splits=["train"])
    cache = FeatureCache(tmp_path / "cache")
    assert set(cache.splits) == {"train"}
    assert cache.identity.dtype == "int8"


def test_splits_can_be_added(run, tmp_path, values):
    assert run(splits=["train"]).images == TRAIN
    before = inodes(tmp_path / "cache")
    assert run(splits=["val"]).computed == VAL
    assert inodes(tmp_path / "cache").items() >= before.items()
    run(out=tmp_path / "whole")
    assert values(tmp_path / "cache") == values(tmp_path / "whole")


def test_half_written_files_are_removed(run, tmp_path):
    run()
    names = ["train-00000-of-00003.h5.0a1b2c3d.partial", "train-00000-of-00009.h5.0a1b2c3d.partial"]
    names += ["manifest.json.0a1b2c3d.partial", "val-samples.h5.0a1b2c3d.partial"]
    stale = [tmp_path / "cache" / name for name in names]
    for path in stale:
        path.write_bytes(b"half")
    assert run().computed == 0
    assert not any(path.exists() for path in stale)


def break_image(dataset, image_id):
    dataset.image_path(image_id).write_bytes(b"no image")


def lose_image(dataset, image_id):
    dataset.image_path(image_id).unlink()


def lose_mask(dataset, image_id):
    dataset.mask_path(image_id).unlink()


def mislabel(dataset, image_id):
    path = dataset.mask_path(image_id)
    with Image.open(path) as mask:
        labels = np.array(mask)
    labels[0, 0] = 99
    Image.fromarray(labels).save(path)


def shrink_mask(dataset, image_id):
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(dataset.mask_path(image_id))


def make_tiny(dataset, image_id):
    """Too small for the backbone's pooling."""
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(dataset.image_path(image_id))
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(dataset.mask_path(image_id))


@pytest.mark.parametrize(
    "spoil", [break_image, lose_image, lose_mask, mislabel, shrink_mask, make_tiny]
)
def test_what_cannot_be_used_stops_or_is_listed(run, dataset, tmp_path, spoil):
    ids = dataset.image_ids("train")
    spoil(dataset, ids[2])
    with pytest.raises(DataError, match=ids[2]) as caught:
        run()
    assert "\n" not in str(caught.value)

    result = run(on_error="skip")
    (skipped,) = result.skipped
    assert skipped[:2] == ("train", ids[2])
    assert ids[2] in skipped[2]
    assert result.images == TRAIN + VAL - 1
    cache = FeatureCache(tmp_path / "cache")
    assert cache["train"].image_ids == (*ids[:2], *ids[3:])
    assert {i: left_out.reason for i, left_out in cache["train"].skipped.items()} == {
        ids[2]: skipped[2]
    }
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["skipped"] == {ids[2]: skipped[2]}
    assert manifest["splits"]["val"]["skipped"] == {}


def test_a_skipped_image_is_named_again_and_tried_when_its_file_is_another(
    run, dataset, tmp_path, values, backbone_runs
):
    image_id = dataset.image_ids("train")[2]
    path = dataset.image_path(image_id)
    good = path.read_bytes()
    path.write_bytes(b"no image")
    first = run(on_error="skip")
    assert [i for _, i, _ in first.skipped] == [image_id]
    finished = inodes(tmp_path / "cache")
    again = run(on_error="skip")
    assert (again.computed, again.skipped) == (0, first.skipped)
    assert inodes(tmp_path / "cache") == finished
    with pytest.raises(DataError, match=image_id):
        run()
    assert inodes(tmp_path / "cache") == finished
    path.write_bytes(good)
    backbone_runs()
    result = run()
    assert (result.images, result.computed, result.skipped) == (TRAIN + VAL, 1, [])
    assert backbone_runs() == 1
    run(out=tmp_path / "fresh")
    assert values(tmp_path / "cache") == values(tmp_path / "fresh")


def test_a_split_of_which_nothing_is_left(run, dataset):
    for image_id in dataset.image_ids("val"):
        break_image(dataset, image_id)
    with pytest.raises(DataError, match="not one image of 'val'"):
        run(on_error="skip")


def test_an_unknown_split_or_tap_writes_nothing(run, tmp_path):
    with pytest.raises(DataError, match="test"):
        run(splits=["train", "test"])
    with pytest.raises(ValueError, match="no tap 'fire9'"):
        run(drawing=Drawing(features=Features(taps=("fire9",))))
    assert not (tmp_path / "cache").exists()


def test_too_little_room_is_found_before_anything_is_written(run, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**5))
    with pytest.raises(SpaceError, match=r"0\.1 MB free") as caught:
        run()
    assert isinstance(caught.value, OSError)
    assert list((tmp_path / "cache").iterdir()) == []


def test_it_says_beforehand_what_it_will_do(run, tmp_path, listening):
    run(progress=listening)
    text = "\n".join(listening.lines)
    assert f"{TRAIN} train, {VAL} val" in text
    assert "conv1 (96), fire3 (128), fire5 (256); 480 channels" in text
    told = float(text.partition("to write: ")[2].split()[0]) * 1e6
    written = sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())
    assert told == pytest.approx(written, rel=0.05)


def test_compression_changes_the_storage_alone(run, tmp_path, values):
    run(splits=["val"])
    assert run(splits=["val"], compression="gzip").computed == 0  # the same values
    run(splits=["val"], compression="gzip", out=tmp_path / "small")
    with h5py.File(tmp_path / "small" / "val-00000-of-00001.h5") as file:
        groups = [group for group in file.values() if isinstance(group, h5py.Group)]
        assert groups
        for group in groups:
            assert group["conv1"].compression == "gzip"
    assert values(tmp_path / "small", ["val"]) == values(tmp_path / "cache", ["val"])


def test_an_overflow_names_image_tap_and_remedy(run, dataset, tmp_path):
    state = torchvision.models.squeezenet1_0().state_dict()
    state["features.0.weight"] *= 1e7
    save_file(state, tmp_path / "loud.safetensors")
    loud = load_backbone("squeezenet1_0", weights=tmp_path / "loud.safetensors", taps=["conv1"])
    with pytest.raises(CacheOverflowError, match=r"tap conv1: .*--dtype float32") as caught:
        run(backbone=loud, on_error="skip")
    assert dataset.image_ids("train")[0] in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.h5"))
    assert run(backbone=loud, dtype="float32").computed == TRAIN + VAL
