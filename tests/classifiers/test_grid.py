"""Fitting grids of classifiers: where the place matters, and where it does not."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.classifiers import MISSING_CLASS_LOGIT, to_layers
from pipeline.classifiers.grid import Places, fit_grid, predict_grid
from pipeline.hypercolumn.grid import grid_weights


@pytest.fixture
def samples():
    """Give features that mean the opposite in the lower half of images of several sizes."""
    rng = np.random.default_rng(0)
    n = 3000
    height, width = rng.integers(20, 60, n), rng.integers(20, 60, n)
    y, x = (rng.random(n) * height).astype(np.int64), (rng.random(n) * width).astype(np.int64)
    features = rng.normal(3, 2, (n, 12)).astype(np.float32)
    label = ((features[:, 0] > 3) ^ (2 * y >= height)).astype(np.uint8) * 2  # classes 0 and 2
    return features, label, Places(y, x, height, width)


def fitted(classifier, features, label, n_classes=4):
    return to_layers(make_pipeline(StandardScaler(), classifier).fit(features, label), n_classes)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["linear", "perceptron"])
def test_what_depends_on_the_place_is_learnt(samples, kind, monkeypatch):
    monkeypatch.setattr("pipeline.classifiers.grid._LEARNING_RATE", 1e-2)
    monkeypatch.setattr("pipeline.classifiers.grid._EPOCHS", 40)  # of few samples
    features, label, places = samples
    linear = LogisticRegression()
    perceptron = MLPClassifier((128,), max_iter=1, random_state=0)  # features as good as random
    begin = fitted(linear if kind == "linear" else perceptron, features, label)
    train, rest = np.arange(2000), np.arange(2000, 3000)
    alone = begin.logits(features[rest]).argmax(axis=1)
    assert (alone == label[rest]).mean() < 0.6
    layers = fit_grid(begin, features, label, places, train, grid=2)
    found = predict_grid(layers, features, places, rest, grid=2)
    assert (found == label[rest]).mean() > 0.8
    assert set(found) <= {0, 2}
    assert all(
        np.array_equal(a, b) for a, b in zip(layers.weights[:-1], begin.weights[:-1], strict=True)
    )


def test_predictions_are_those_of_the_direct_formula(samples, monkeypatch):
    monkeypatch.setattr("pipeline.classifiers.grid._EPOCHS", 1)
    features, label, places = samples
    begin = fitted(LogisticRegression(), features, label)
    chosen = np.arange(0, 3000, 7)
    layers = fit_grid(begin, features, label, places, chosen, grid=3)
    assert layers.n_classes == 9 * 4
    odds = torch.from_numpy(layers.logits(features[chosen])).reshape(-1, 9, 4).softmax(dim=2)
    arrays = (places.y, places.x, places.height, places.width)
    weights = grid_weights(*(torch.from_numpy(a[chosen]) for a in arrays), 3)
    expected = torch.einsum("nkc,kn->nc", odds.float(), weights).argmax(dim=1).numpy()
    assert np.array_equal(predict_grid(layers, features, places, chosen, grid=3), expected)


def test_a_class_without_samples_stays_out(samples):
    features, label, places = samples
    begin = fitted(LogisticRegression(), features, label)
    layers = fit_grid(begin, features, label, places, np.arange(500), grid=2)
    for missing in (1, 3):
        assert (layers.biases[-1][missing::4] == MISSING_CLASS_LOGIT).all()
        assert (layers.weights[-1][missing::4] == 0).all()


def test_the_same_seed_gives_the_same_grid(samples):
    features, label, places = samples
    begin = fitted(LogisticRegression(), features, label)
    one, two, other = (
        fit_grid(begin, features, label, places, np.arange(800), grid=2, seed=seed)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one.weights[-1], two.weights[-1])
    assert not np.array_equal(one.weights[-1], other.weights[-1])


def test_a_grid_of_one_is_the_classifier(samples):
    features, label, places = samples
    begin = fitted(LogisticRegression(), features, label)
    assert fit_grid(begin, features, label, places, np.arange(800), grid=1) is begin


def test_nothing_to_predict(samples):
    features, label, places = samples
    begin = fitted(LogisticRegression(), features, label)
    none = np.empty(0, np.int64)
    assert predict_grid(begin, features, places, none, grid=1).shape == (0,)
