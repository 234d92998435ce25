"""Fitting on samples: what is reported, what is stored, and from which samples."""

import shutil

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from pipeline import (
    Drawing,
    FeatureCache,
    Features,
    Preprocessing,
    draw_samples,
    extract,
    fit_sparse,
    load_head,
)
from pipeline.cache import read_samples, samples_path
from pipeline.errors import CacheNotFoundError, ClassifierError
from pipeline.progress import Silent
from pipeline.tensorfile import read_tensors

OPTIONS = {"hidden": 8, "epochs": 3}


def tensors(path):
    return read_tensors(path, kind="hypercolumn-head", remedy="")[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def dense_scores(head, columns):
    """A dense head as plain matrix products on (n, D) hypercolumns."""
    *hidden, last = zip(head.dense.weights, head.dense.biases, strict=True)
    x = torch.from_numpy(columns)
    for weight, bias in hidden:
        x = torch.relu(x @ weight.T + bias)
    return (x @ last[0].T + last[1]).detach().numpy()


@pytest.mark.parametrize("estimator", ["mlp", "logistic", "svm", "sgd"])
def test_dense_estimators(cache, tmp_path, estimator):
    options = OPTIONS if estimator == "mlp" else {"epochs": 3}
    result = fit_sparse(
        cache, tmp_path / "h", estimator=estimator, options=options, holdout=0.3, seed=1
    )
    assert result.dense
    assert result.head == tmp_path / "h"
    samples = read_samples(samples_path(cache, "train"))
    assert result.samples == len(samples)

    head = load_head(result.head)
    assert (head.info.stage, head.info.estimator) == ("sparse", estimator)
    assert head.info.features == samples.drawing.features
    assert head.info.identity == FeatureCache(cache).identity
    assert head.info.settings["options"] == options
    assert head.info.settings["seed"] == 1
    assert 3 <= len(head.info.held_out) <= 4  # of twelve images
    held = np.isin(np.array(samples.image_ids)[samples.image], head.info.held_out)
    predicted = dense_scores(head, samples.features[held]).argmax(1)
    assert result.heldout_accuracy == pytest.approx(
        accuracy_score(samples.label[held], predicted), abs=0.02
    )
    assert head.info.metrics["heldout_sample_accuracy"] == result.heldout_accuracy


@pytest.mark.parametrize("estimator", ["boosting", "sklearn.naive_bayes:GaussianNB"])
def test_estimators_that_predict_in_blocks(cache, tmp_path, estimator):
    options = {"epochs": 1} if estimator == "boosting" else {}
    result = fit_sparse(cache, tmp_path / "h", estimator=estimator, options=options)
    assert not result.dense
    head = load_head(result.head)
    assert head.dense is None
    samples = read_samples(samples_path(cache, "train"))
    held = np.isin(np.array(samples.image_ids)[samples.image], head.info.held_out)
    predicted = head.estimator.predict(samples.features[held])
    assert result.heldout_accuracy == accuracy_score(samples.label[held], predicted)


def test_same_seed_same_head(cache, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit_sparse(cache, tmp_path / name, options=OPTIONS, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not same(tensors(tmp_path / "a"), tensors(tmp_path / "c"))


def test_nothing_held_out(cache, tmp_path):
    result = fit_sparse(cache, tmp_path / "h", options=OPTIONS, holdout=0)
    assert result.heldout_accuracy is None
    assert load_head(result.head).info.held_out == ()


def test_another_drawing_is_drawn_from_the_cached_maps(cache, tmp_path):
    features = Features(activation="none", context=(), taps=("fire5", "conv1"))
    drawing = Drawing(features=features, pixels_per_class=1, seed=5)
    said = []

    class Listening(Silent):
        def say(self, text):
            said.append(text)

    result = fit_sparse(
        cache, tmp_path / "h", options=OPTIONS, drawing=drawing, progress=Listening()
    )
    opened = FeatureCache(cache)
    assert result.samples == len(draw_samples(opened["train"], opened.identity, drawing))
    assert any("drawing samples anew" in text for text in said)
    head = load_head(result.head)
    assert head.info.features == features
    assert head.taps == ["fire5", "conv1"]
    assert sum(head.dense.channels) == 256 + 96
    assert head.info.settings["drawing"] == drawing.model_dump(mode="json")


@pytest.mark.parametrize("estimator", ["mlp", "logistic"])
def test_samples_beyond_the_most_are_left_out_and_that_is_said(cache, tmp_path, estimator):
    said = []

    class Listening(Silent):
        def say(self, text):
            said.append(text)

    whole = fit_sparse(cache, tmp_path / "a", estimator=estimator, options={"epochs": 1})
    result = fit_sparse(
        cache,
        tmp_path / "b",
        estimator=estimator,
        options={"epochs": 1},
        max_samples=40,
        progress=Listening(),
    )
    assert result.samples == whole.samples
    assert result.fitted_samples <= 40 < whole.fitted_samples
    assert said[-1] == (
        f"{whole.fitted_samples - result.fitted_samples} samples were left out at random, "
        f"{result.fitted_samples} were fitted on; --max-samples says how many"
    )
    info = load_head(tmp_path / "b").info
    assert info.settings["max_samples"] == 40
    assert info.metrics["fitted_samples"] == result.fitted_samples
    assert info.held_out == load_head(tmp_path / "a").info.held_out


def test_samples_drawn_anew_are_those_of_one_drawing(cache, tmp_path, monkeypatch):
    drawing = Drawing(features=Features(context=()), pixels_per_class=2, seed=9)
    fit_sparse(cache, tmp_path / "a", options=OPTIONS, drawing=drawing)
    monkeypatch.setattr("pipeline.stages.fit_sparse._AT_ONCE", 5)
    fit_sparse(cache, tmp_path / "b", options=OPTIONS, drawing=drawing)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_naming_the_stored_drawing_changes_nothing(cache, tmp_path):
    stored = read_samples(samples_path(cache, "train")).drawing
    fit_sparse(cache, tmp_path / "a", options=OPTIONS)
    fit_sparse(cache, tmp_path / "b", options=OPTIONS, drawing=stored)
    assert same(tensors(tmp_path / "a"), tensors(tmp_path / "b"))


def test_samples_of_other_maps_are_not_used(cache, scenes, backbone, tmp_path):
    """As an extraction leaves them that was killed between the shards and the samples."""
    stale = tmp_path / "stale"
    shutil.copytree(cache, stale)
    raw = Preprocessing("raw", "native")
    drawing = read_samples(samples_path(cache, "train")).drawing
    extract(scenes, backbone, stale, preprocessing=raw, drawing=drawing, replace=True)
    fit_sparse(stale, tmp_path / "expected", options=OPTIONS)
    shutil.copy(samples_path(cache, "train"), samples_path(stale, "train"))
    fit_sparse(stale, tmp_path / "found", options=OPTIONS)
    assert same(tensors(tmp_path / "found"), tensors(tmp_path / "expected"))


def test_without_samples(cache, tmp_path):
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    samples_path(copy, "train").unlink()
    with pytest.raises(CacheNotFoundError, match="pipeline extract"):
        fit_sparse(copy, tmp_path / "h", options=OPTIONS)
    drawing = Drawing(features=Features(context=()), pixels_per_class=1)
    assert fit_sparse(copy, tmp_path / "h", options=OPTIONS, drawing=drawing).samples > 12


def test_a_misspelt_option_fails_before_anything_is_read(cache, tmp_path):
    with pytest.raises(ValueError, match=r"'hiden'.*hidden"):
        fit_sparse(cache, tmp_path / "h", options={"hiden": 3})
    assert not (tmp_path / "h").exists()


def test_an_estimator_that_fails_is_named(cache, tmp_path):
    estimator = "sklearn.naive_bayes:MultinomialNB"  # takes no negative values
    drawing = Drawing(features=Features(activation="none"), pixels_per_class=1)
    with pytest.raises(ClassifierError, match="MultinomialNB could not be fitted"):
        fit_sparse(cache, tmp_path / "h", estimator=estimator, drawing=drawing)
