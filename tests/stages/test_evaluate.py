"""Evaluation against scikit-learn on plain arrays, and against a hypercolumn's definition."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score, recall_score
from torch.nn.functional import interpolate

from pipeline import (
    Drawing,
    FeatureCache,
    Features,
    Preprocessing,
    TrainSettings,
    evaluate,
    extract,
    fit_dense,
    fit_sparse,
    load_head,
)
from pipeline.errors import CacheMismatchError, CacheNotFoundError, HeadError, ParamsError
from pipeline.hypercolumn import labels_of
from pipeline.refinement import GuidedFilter, Superpixels
from pipeline.stages.evaluate import score_image
from pipeline.stages.training_images import measured

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def square(scenes, backbone, tmp_path_factory) -> tuple[Path, Path]:
    """Give a cache whose images were all resized to 48x48, and a head of it."""
    folder = tmp_path_factory.mktemp("square")
    drawing = Drawing(features=Features(context=("global", "3", "conv1:global", "conv1:5")))
    preprocessing = Preprocessing(input_size="48")
    extract(scenes, backbone, folder / "cache", preprocessing=preprocessing, drawing=drawing)
    head = folder / "head.safetensors"
    fit_sparse(folder / "cache", head, options={"hidden": 16, "epochs": 12})
    return folder / "cache", head


def upsampled(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return interpolate(values[None], size=size, mode="bilinear", align_corners=False)[0]


def scores_by_definition(cache: FeatureCache, head_file: Path, image_id: str) -> torch.Tensor:
    """Build the whole hypercolumn map of an image, and apply the head's layers to every pixel."""
    split = cache["val"]
    size = split.size(image_id)
    maps = [
        torch.from_numpy(m).clamp(min=0) for m in split.maps(image_id, cache.identity.tap_names)
    ]
    context = []
    for m, reach in ((maps[-1], 1), (maps[0], 2)):
        windows = torch.zeros_like(m)
        for y in range(m.shape[1]):
            for x in range(m.shape[2]):
                cells = m[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
                windows[:, y, x] = cells.mean(dim=(1, 2))
        context += [m.mean(dim=(1, 2), keepdim=True), windows]
    columns = torch.cat([upsampled(m, size) for m in (*maps, *context)]).flatten(1)
    layers = load_file(head_file)
    hidden = layers["conv0.weight"][:, :, 0, 0] @ columns + layers["conv0.bias"][:, None]
    scores = layers["conv1.weight"][:, :, 0, 0] @ hidden.relu() + layers["conv1.bias"][:, None]
    return scores.reshape(-1, *size)


def assert_is_what_sklearn_says(found: dict, truths: list, predictions: list, cache: FeatureCache):
    """Compare a summary with scikit-learn's numbers on all pixels in one row, void left out."""
    truth = np.concatenate([t.ravel() for t in truths])
    prediction = np.concatenate([p.ravel() for p in predictions])
    counted = truth != cache.identity.void
    truth, prediction = truth[counted], prediction[counted]
    names = cache.identity.classes
    labels = list(range(len(names)))
    expected = confusion_matrix(truth, prediction, labels=labels)
    assert found["confusion_matrix"] == expected.tolist()
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(truth, prediction))
    seen = sorted({*truth.tolist(), *prediction.tolist()})
    assert found["classes_counted"] == len(seen)
    iou = jaccard_score(truth, prediction, labels=seen, average=None, zero_division=0)
    assert found["mean_iou"] == pytest.approx(iou.mean())
    by_name = {names[label]: value for label, value in zip(seen, iou, strict=True)}
    assert list(found["iou"]) == list(names)
    assert found["iou"] == pytest.approx({name: by_name.get(name) for name in names})
    recall = recall_score(truth, prediction, labels=np.unique(truth), average="macro")
    assert found["mean_class_accuracy"] == pytest.approx(recall)
    weighted = jaccard_score(truth, prediction, labels=seen, average="weighted", zero_division=0)
    assert found["frequency_weighted_iou"] == pytest.approx(weighted)


def test_metrics_at_both_resolutions(square: tuple[Path, Path], tmp_path: Path) -> None:
    path, head_file = square
    out = tmp_path / "new" / "metrics.json"
    found = evaluate(path, head_file, out=out, device="cpu")
    assert json.loads(out.read_text()) == found

    cache, head = FeatureCache(path), load_head(head_file)
    split = cache["val"]
    all_scores = [score_image(head, split, image_id, CPU) for image_id in split.image_ids]
    cached = [split.label(image_id) for image_id in split.image_ids]
    original = [split.label_original(image_id) for image_id in split.image_ids]
    assert {t.shape for t in cached} == {(48, 48)}
    assert len({t.shape for t in original}) > 3
    at_cache = [scores.argmax(0).numpy() for scores in all_scores]
    at_original = [
        upsampled(scores, truth.shape).argmax(0).numpy()
        for scores, truth in zip(all_scores, original, strict=True)
    ]
    assert_is_what_sklearn_says(found["cache_resolution"], cached, at_cache, cache)
    assert_is_what_sklearn_says(found, original, at_original, cache)
    assert found["confusion_matrix"] != found["cache_resolution"]["confusion_matrix"]
    assert (found["split"], found["images"]) == ("val", 6)
    assert found["head"] == {"stage": "sparse", "estimator": "mlp", "selected_on": None}
    assert found["fingerprint"] == cache.identity.fingerprint


def test_scores_are_those_of_the_definition(square: tuple[Path, Path]) -> None:
    path, head_file = square
    cache, head = FeatureCache(path), load_head(head_file)
    for image_id in cache["val"].image_ids[:3]:
        expected = scores_by_definition(cache, head_file, image_id)
        found = score_image(head, cache["val"], image_id, CPU)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_native_resolution_is_measured_once_and_for_all(cache: Path, sparse_head: Path) -> None:
    """Where images were not resized, the two resolutions are one."""
    found = evaluate(cache, sparse_head)
    same = found["cache_resolution"]
    assert {key: found[key] for key in same} == same


def test_masks_come_from_the_data_set(cache: Path, sparse_head: Path, scenes) -> None:
    """The truth is what lies in the mask files: its pixels, class by class."""
    found = evaluate(cache, sparse_head, split="train")
    masks = np.concatenate([scenes.read_mask(i).ravel() for i in scenes.image_ids("train")])
    counts = np.bincount(masks[masks != scenes.void], minlength=len(scenes.classes))
    assert np.sum(found["confusion_matrix"], axis=1).tolist() == counts.tolist()
    assert found["images"] == 12


def test_a_head_is_measured_on_the_images_that_it_was_not_fitted_on(
    cache: Path, sparse_head: Path, scenes, tmp_path: Path
) -> None:
    """A dense head too, unless it was trained on them in the end."""
    dense, trained = tmp_path / "dense.safetensors", tmp_path / "trained.safetensors"
    settings = TrainSettings(epochs=1)
    fit_dense(cache, sparse_head, dense, settings=settings, validate_on="held-out")
    fit_dense(cache, sparse_head, trained, settings=settings)
    held_out = load_head(sparse_head).info.held_out
    assert 0 < len(held_out) < 12
    masks = np.concatenate([scenes.read_mask(i).ravel() for i in held_out])
    for head in (sparse_head, dense):
        found = evaluate(cache, head, split="held-out")
        assert (found["split"], found["images"]) == ("held-out", len(held_out))
        counted = np.sum(found["confusion_matrix"])
        assert counted == np.count_nonzero(masks != scenes.void)
    with pytest.raises(HeadError, match="held out no image of 'train'"):
        evaluate(cache, trained, split="held-out")


def test_a_split_that_is_called_held_out_is_not_mixed_up(sparse_head: Path, cache: Path) -> None:
    opened = FeatureCache(cache)
    opened.splits["held-out"] = opened.splits.pop("val")
    with pytest.raises(HeadError, match="a split of its own called 'held-out'"):
        measured(opened, load_head(sparse_head), "held-out")


@pytest.mark.parametrize("estimator", ["mlp", "forest"])
@pytest.mark.parametrize("how", ["guided:3:0.01", "superpixels:30"])
def test_refined_predictions_are_measured_at_both_resolutions(
    square: tuple[Path, Path], tmp_path: Path, how: str, estimator: str
) -> None:
    """Step by step: probabilities, refined by the cached image, at each resolution's own size."""
    refine: GuidedFilter | Superpixels = GuidedFilter(3, 0.01)
    if how.startswith("superpixels"):
        pytest.importorskip("skimage", reason="needs the extra 'superpixels'")
        refine = Superpixels(30)
    path, head_file = square
    if estimator == "forest":
        head_file = tmp_path / "forest.safetensors"
        fit_sparse(path, head_file, estimator="forest")
    plain = evaluate(path, head_file, device="cpu")
    found = evaluate(path, head_file, refine=how, out=tmp_path / "metrics.json", device="cpu")
    assert json.loads((tmp_path / "metrics.json").read_text())["refine"] == how
    assert plain["refine"] is None
    assert found["confusion_matrix"] != plain["confusion_matrix"]

    cache, head = FeatureCache(path), load_head(head_file)
    split = cache["val"]
    cached = [split.label(image_id) for image_id in split.image_ids]
    original = [split.label_original(image_id) for image_id in split.image_ids]
    assert any((truth == cache.identity.void).any() for truth in original)
    at_cache, at_original = [], []
    for image_id, truth in zip(split.image_ids, original, strict=True):
        scores = score_image(head, split, image_id, CPU)
        probabilities = scores if estimator == "forest" else scores.softmax(dim=0)
        refined = refine(probabilities, split.image(image_id))
        at_cache.append(refined.argmax(0).numpy())
        at_original.append(labels_of(refined, truth.shape))
    assert_is_what_sklearn_says(found["cache_resolution"], cached, at_cache, cache)
    assert_is_what_sklearn_says(found, original, at_original, cache)


def test_a_forest_is_measured_too(square: tuple[Path, Path], tmp_path: Path) -> None:
    path, _ = square
    head_file = tmp_path / "forest.safetensors"
    fit_sparse(path, head_file, estimator="forest")
    found = evaluate(path, head_file, device="cpu")
    assert found["head"]["estimator"] == "forest"

    cache, head = FeatureCache(path), load_head(head_file)
    assert head.dense is None
    split = cache["val"]
    predictions = []
    for image_id in split.image_ids:
        maps = [torch.from_numpy(m) for m in split.maps(image_id, cache.identity.tap_names)]
        used = head.info.features.apply(maps, head.taps)
        columns = torch.cat([upsampled(m, split.size(image_id)) for m in used]).flatten(1).T
        predictions.append(head.estimator.predict(columns.numpy()))
    truth = np.concatenate([split.label(i).ravel() for i in split.image_ids])
    right = (np.concatenate(predictions) == truth)[truth != cache.identity.void].mean()
    # A tie of votes, or a threshold met to the last bit, may fall either way.
    assert found["cache_resolution"]["pixel_accuracy"] == pytest.approx(right, abs=2e-3)


def test_a_head_of_another_cache_is_refused(square, sparse_head: Path) -> None:
    with pytest.raises(CacheMismatchError, match=r"preprocessing: .*48.*, not .*native") as caught:
        evaluate(square[0], sparse_head)
    assert str(sparse_head) in str(caught.value)


def test_what_is_not_there_is_named(cache: Path, sparse_head: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheNotFoundError, match="no split 'test'; it holds train, val"):
        evaluate(cache, sparse_head, split="test")
    with pytest.raises(CacheNotFoundError, match="run 'pipeline extract' first"):
        evaluate(tmp_path, sparse_head)
    with pytest.raises(HeadError, match=r"none\.safetensors: no such file"):
        evaluate(cache, tmp_path / "none.safetensors")


def test_a_split_that_is_not_complete_is_refused(
    cache: Path, sparse_head: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    next(copy.glob("val-00001-of-*.h5")).unlink()
    with pytest.raises(CacheNotFoundError, match="'val' is not complete, 1 of 2 shards"):
        evaluate(copy, sparse_head)
    assert evaluate(copy, sparse_head, split="train")["images"] == 12


@pytest.mark.parametrize("device", ["gpu", "cuda:none", "mps", "", "cuda:999"])
def test_a_device_that_is_none(cache: Path, sparse_head: Path, device: str) -> None:
    with pytest.raises(ParamsError, match=f"no (device|GPU) '{device}'.*; give "):
        evaluate(cache, sparse_head, device=device)
