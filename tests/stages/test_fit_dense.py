"""Dense training from the cache: reproducible, interruptible, and on the right images."""

import csv
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from torch.nn.functional import cross_entropy

from pipeline import FeatureCache, TrainSettings, evaluate, fit_dense, fit_sparse, load_head
from pipeline.classifiers import MISSING_CLASS_LOGIT
from pipeline.errors import CacheDamagedError, CacheMismatchError, HeadError
from pipeline.heads import save_head
from pipeline.progress import Silent
from pipeline.training import DenseTrainer

SETTINGS = TrainSettings(epochs=3, batch_size=5, learning_rate=2e-3)


class Stop(Exception):
    """Stands for whatever ends a process."""


class StopAt(Silent):
    """Stops when a line begins in this way, or in the middle of a task."""

    def __init__(self, line="never", task="never"):
        self.line, self.task = line, task
        self.lines = []

    def say(self, text):
        self.lines.append(text)
        if text.startswith(self.line):
            raise Stop

    def track(self, items, *, total, unit, what):
        for count, item in enumerate(items):
            if what == self.task and count == total // 2:
                raise Stop
            yield item


@pytest.fixture
def recorded(monkeypatch):
    """Note what trainers are given."""
    notes = []

    class Recorder(DenseTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            notes.append({"class_pixels": kwargs["class_pixels"], "batches": []})

        def step(self, batch):
            labels = [label.numpy().tobytes() for _, label in batch]
            notes[-1]["batches"].append(labels)
            return super().step(batch)

    monkeypatch.setattr("pipeline.stages.fit_dense.DenseTrainer", Recorder)
    return notes


@pytest.fixture(scope="module")
def undisturbed(cache, sparse_head, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "dense.safetensors"
    return fit_dense(cache, sparse_head, out, settings=SETTINGS)


def labels_of(cache, split, image_ids=None, **choices):
    split = FeatureCache(cache)[split]
    return [split.label(i, **choices) for i in image_ids or split.image_ids]


def predictions(head, cache, split):
    images = FeatureCache(cache)[split]
    for image_id in images.image_ids:
        maps = [torch.from_numpy(m) for m in images.maps(image_id, head.taps)]
        yield images.label(image_id), head.scores(maps, images.size(image_id))


def test_same_seed_same_file(cache, sparse_head, undisturbed, tmp_path):
    again = fit_dense(cache, sparse_head, tmp_path / "again", settings=SETTINGS)
    assert again.history == undisturbed.history
    assert again.head.read_bytes() == undisturbed.head.read_bytes()
    other = SETTINGS.model_copy(update={"seed": 1})
    result = fit_dense(cache, sparse_head, tmp_path / "other", settings=other)
    assert result.history["train_loss"] != undisturbed.history["train_loss"]


@pytest.mark.parametrize(
    ("stop", "done"),
    [
        (StopAt(line="epoch 0"), None),
        (StopAt(task="epoch 1/3"), None),
        (StopAt(line="epoch 1"), 1),
        (StopAt(task="epoch 2/3"), 1),
        (StopAt(line="epoch 2"), 2),
        (StopAt(line="epoch 3"), 3),
    ],
    ids=["before 1", "in 1", "after 1", "in 2", "after 2", "after 3"],
)
def test_an_interrupted_run_goes_on_to_the_same_result(
    cache, sparse_head, undisturbed, tmp_path, stop, done
):
    out, csv_file = tmp_path / "dense.safetensors", tmp_path / "history.csv"
    with pytest.raises(Stop):
        fit_dense(cache, sparse_head, out, settings=SETTINGS, progress=stop)
    assert not out.exists()
    checkpoint = tmp_path / "dense.safetensors.checkpoint"
    assert checkpoint.exists() == (done is not None)
    listening = StopAt()
    result = fit_dense(
        cache, sparse_head, out, settings=SETTINGS, history=csv_file, progress=listening
    )
    went_on = [line for line in listening.lines if line.startswith("going on after epoch")]
    assert went_on == ([f"going on after epoch {done}, from {checkpoint}"] if done else [])
    assert result.history == undisturbed.history
    assert out.read_bytes() == undisturbed.head.read_bytes()
    assert not checkpoint.exists()
    with csv_file.open(newline="") as file:
        losses = [row["train_loss"] for row in csv.DictReader(file)]
    assert losses == ["", *map(str, result.history["train_loss"][1:])]


@pytest.fixture(scope="module")
def other_head(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("other") / "sparse.safetensors"
    return fit_sparse(cache, out, options={"hidden": 24, "epochs": 1}, holdout=0.2).head


@pytest.mark.parametrize("change", ["seed", "keep", "validation", "initial head"])
def test_a_checkpoint_of_another_run_is_not_gone_on_from(
    cache, sparse_head, other_head, tmp_path, change
):
    first = {"init": sparse_head, "settings": SETTINGS}
    changes = {
        "seed": {"settings": SETTINGS.model_copy(update={"seed": 1})},
        "keep": {"keep": "last"},
        "validation": {"validate_on": "train"},
        "initial head": {"init": other_head},
    }
    second, out = first | changes[change], tmp_path / "dense"
    with pytest.raises(Stop):
        fit_dense(cache, out=out, progress=StopAt(line="epoch 1"), **first)
    listening = StopAt()
    fit_dense(cache, out=out, progress=listening, **second)
    assert not any(line.startswith("going on") for line in listening.lines)
    checkpoint = tmp_path / "dense.checkpoint"
    assert listening.lines[0] == (
        f"{checkpoint} is of a run with other settings; beginning anew, "
        "it is kept as dense.checkpoint.other"
    )
    fit_dense(cache, out=tmp_path / "fresh", **second)
    assert out.read_bytes() == (tmp_path / "fresh").read_bytes()
    # Under its own name, with its own settings, it can still be gone on from.
    (tmp_path / "dense.checkpoint.other").rename(checkpoint)
    listening = StopAt()
    fit_dense(cache, out=out, progress=listening, **first)
    assert listening.lines[0].startswith("going on after epoch 1")


def test_a_damaged_checkpoint_is_an_error(cache, sparse_head, tmp_path):
    (tmp_path / "dense.checkpoint").write_bytes(b"half a checkpoint")
    with pytest.raises(HeadError, match=r"dense\.checkpoint.*damaged"):
        fit_dense(cache, sparse_head, tmp_path / "dense", settings=SETTINGS)


def test_it_learns(cache, sparse_head, tmp_path):
    settings = TrainSettings(epochs=6, learning_rate=2e-3)
    history = fit_dense(cache, sparse_head, tmp_path / "h", settings=settings).history
    assert history["epoch"] == list(range(7))
    losses = history["train_loss"][1:]
    assert losses == sorted(losses, reverse=True)
    assert max(history["val_mean_iou"]) > history["val_mean_iou"][0] + 0.02
    assert history["val_loss"][-1] < history["val_loss"][0]


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_epoch_to_keep(cache, sparse_head, tmp_path, keep):
    # Steps far too long: whatever comes out is worse than what went in.
    settings = TrainSettings(epochs=2, learning_rate=0.1, batch_size=12)
    out = tmp_path / "h"
    history = fit_dense(cache, sparse_head, out, settings=settings, keep=keep).history
    epoch = {"best": 0, "last": 2}[keep]
    assert history["best_epoch"] == epoch
    assert history["val_mean_iou"][0] > max(history["val_mean_iou"][1:]) + 0.02
    found = evaluate(cache, out)["cache_resolution"]["mean_iou"]
    assert found == pytest.approx(history["val_mean_iou"][epoch], abs=1e-3)
    assert load_head(out).info.selected_on == ("val" if keep == "best" else None)


def test_validation_metrics_are_those_of_sklearn(cache, sparse_head, undisturbed):
    # The initial head is epoch 0; what is written is the best epoch.
    for path, epoch in ((sparse_head, 0), (undisturbed.head, undisturbed.history["best_epoch"])):
        truth, predicted, loss = [], [], 0.0
        for label, scores in predictions(load_head(path), cache, "val"):
            counted = label != 255
            truth.append(label[counted])
            predicted.append(scores.argmax(0).numpy()[counted])
            logits, target = scores.flatten(1).T[counted.ravel()], torch.from_numpy(label[counted])
            loss += cross_entropy(logits, target.long(), reduction="sum").item()
        truth, predicted = np.concatenate(truth), np.concatenate(predicted)
        history = undisturbed.history
        assert history["val_loss"][epoch] == pytest.approx(loss / len(truth), rel=1e-4)
        accuracy = accuracy_score(truth, predicted)
        assert history["val_pixel_accuracy"][epoch] == pytest.approx(accuracy, abs=1e-3)
        classes = np.union1d(truth, predicted)
        ious = jaccard_score(truth, predicted, labels=classes, average="macro", zero_division=0)
        assert history["val_mean_iou"][epoch] == pytest.approx(ious, abs=2e-3)


def test_pixels_of_a_class_without_samples_are_not_in_the_loss(cache, sparse_head, tmp_path):
    """No logit of theirs was learnt, and a few of them would outweigh all others."""
    head, missing = load_head(sparse_head), 1
    with torch.no_grad():
        head.dense.biases[-1][missing] = MISSING_CLASS_LOGIT
    save_head(tmp_path / "h", head)
    losses = []
    assert any((label == missing).any() for label in labels_of(cache, "val"))
    for label, scores in predictions(head, cache, "val"):
        target = torch.from_numpy(label).long()
        target[(target == 255) | (target == missing)] = -100
        losses.append(
            cross_entropy(scores[None], target[None], reduction="none")[target[None] >= 0]
        )
    settings = TrainSettings(epochs=0)
    history = fit_dense(cache, tmp_path / "h", tmp_path / "out", settings=settings).history
    assert history["val_loss"] == [pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)]


def test_the_head_is_the_best_epoch(cache, undisturbed):
    metrics = evaluate(cache, undisturbed.head)["cache_resolution"]
    best = undisturbed.history["best_epoch"]
    assert metrics["mean_iou"] == pytest.approx(undisturbed.history["val_mean_iou"][best], abs=1e-3)
    info = load_head(undisturbed.head).info
    assert info.stage == "dense"
    assert info.selected_on == "val"
    assert info.metrics["history"] == undisturbed.history
    assert info.settings["batch_size"] == 5


def test_no_epochs_give_the_initial_head(cache, sparse_head, tmp_path):
    result = fit_dense(cache, sparse_head, tmp_path / "h", settings=TrainSettings(epochs=0))
    assert result.history["epoch"] == [0]
    before = predictions(load_head(sparse_head), cache, "val")
    after = predictions(load_head(result.head), cache, "val")
    for (_, one), (_, other) in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_without_validation_the_last_epoch_is_kept(cache, sparse_head, tmp_path, keep):
    out = tmp_path / "h"
    result = fit_dense(cache, sparse_head, out, settings=SETTINGS, validate_on=None, keep=keep)
    assert result.history["val_mean_iou"] == [None] * 4
    assert result.history["best_epoch"] == 3
    assert load_head(out).info.selected_on is None


def test_every_image_is_trained_on_once_per_epoch(cache, sparse_head, recorded, tmp_path):
    fit_dense(cache, sparse_head, tmp_path / "h", settings=SETTINGS, validate_on=None)
    (notes,) = recorded
    assert [len(batch) for batch in notes["batches"]] == [5, 5, 2] * 3
    epochs = [[i for batch in notes["batches"][n : n + 3] for i in batch] for n in (0, 3, 6)]
    expected = sorted(label.tobytes() for label in labels_of(cache, "train"))
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1]  # each in an order of its own


@pytest.mark.parametrize("void_as_background", [False, True])
def test_held_out_images_are_not_trained_on(
    cache, sparse_head, recorded, tmp_path, void_as_background
):
    held_out = load_head(sparse_head).info.held_out
    assert len(held_out) >= 2
    settings = TrainSettings(
        epochs=1, class_weights="inverse", void_as_background=void_as_background
    )
    out = tmp_path / "h"
    fit_dense(cache, sparse_head, out, settings=settings, validate_on="held-out")
    choices = {"void_as_background": void_as_background}
    rest = [i for i in FeatureCache(cache)["train"].image_ids if i not in held_out]
    trained_on = labels_of(cache, "train", rest, **choices)
    (notes,) = recorded
    seen = sorted(label for batch in notes["batches"] for label in batch)
    assert seen == sorted(label.tobytes() for label in trained_on)
    pixels = np.bincount(np.concatenate([label.ravel() for label in trained_on]), minlength=256)
    assert notes["class_pixels"].tolist() == pixels[: len(notes["class_pixels"])].tolist()
    info = load_head(out).info
    assert info.selected_on == "held-out"
    assert info.held_out == held_out


def test_validation_on_held_out_images_measures_those(cache, sparse_head, tmp_path):
    head = load_head(sparse_head)
    settings = TrainSettings(epochs=0)
    result = fit_dense(
        cache, sparse_head, tmp_path / "h", settings=settings, validate_on="held-out"
    )
    right = counted = 0
    ids = FeatureCache(cache)["train"].image_ids
    for image_id, (label, scores) in zip(ids, predictions(head, cache, "train"), strict=True):
        if image_id in head.info.held_out:
            right += int((scores.argmax(0).numpy() == label)[label != 255].sum())
            counted += int((label != 255).sum())
    assert result.history["val_pixel_accuracy"][0] == pytest.approx(right / counted, abs=1e-3)


def test_nothing_held_out_to_validate_on(cache, tmp_path):
    init = fit_sparse(cache, tmp_path / "s", options={"hidden": 4, "epochs": 1}, holdout=0).head
    with pytest.raises(HeadError, match="--holdout"):
        fit_dense(cache, init, tmp_path / "h", validate_on="held-out")


def test_linear_heads_can_be_trained(cache, tmp_path):
    init = fit_sparse(cache, tmp_path / "s", estimator="logistic", options={"epochs": 3}).head
    result = fit_dense(cache, init, tmp_path / "h", settings=TrainSettings(epochs=2))
    losses = result.history["train_loss"]
    assert losses[2] < losses[1]


def test_heads_without_layers_are_refused(cache, tmp_path):
    init = fit_sparse(cache, tmp_path / "s", estimator="sklearn.naive_bayes:GaussianNB").head
    with pytest.raises(HeadError, match=r"GaussianNB predicts in blocks.*begin with mlp"):
        fit_dense(cache, init, tmp_path / "h")


def test_heads_of_another_cache_are_refused(cache, sparse_head, tmp_path):
    head = load_head(sparse_head)
    identity = head.info.identity.model_copy(update={"dtype": "int8"})
    info = head.info.model_copy(update={"identity": identity})
    save_head(tmp_path / "other", replace(head, info=info))
    with pytest.raises(CacheMismatchError, match=r"other needs .*dtype: float16, not int8"):
        fit_dense(cache, tmp_path / "other", tmp_path / "h")


def test_damage_in_the_cache_stops_the_training(cache, sparse_head, tmp_path):
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    shard = copy / "train-00001-of-00003.h5"
    with h5py.File(shard) as file:
        start = next(iter(file.values()))["fire3"].id.get_offset()
    damaged = bytearray(shard.read_bytes())
    damaged[start + 1000] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(CacheDamagedError, match=rf"{shard.name}: .*/fire3 is damaged"):
        fit_dense(copy, sparse_head, tmp_path / "h", settings=SETTINGS)
    assert not (tmp_path / "h").exists()
