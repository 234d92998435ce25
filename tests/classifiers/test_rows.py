"""Fitting on rows that are read a few at a time, against the same in memory."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.classifiers import fit, fit_classifier, make_estimator, rows

CHANNELS = 6


class OnDisk:
    """Rows that note how many are asked for at once."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values, self.asked = values, [0]
        self.shape = values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        self.asked.append(len(index))
        return self.values[index]


def samples(count: int = 600) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Give hypercolumns whose channels differ in scale, labels and images."""
    rng = np.random.default_rng(0)
    y = rng.choice(4, count, p=[0.7, 0.2, 0.09, 0.01])
    X = rng.normal(size=(4, CHANNELS))[y] * 2 + rng.normal(size=(count, CHANNELS))
    scales, shifts = np.logspace(-3, 3, CHANNELS), np.linspace(-1e3, 1e3, CHANNELS)
    return (X * scales + shifts).astype(np.float32), y, np.arange(count) // 6


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 4 * CHANNELS * 32)


def fitted(X: Any, name: str = "mlp", **options: Any) -> fit.FitResult:
    _, y, groups = samples()
    settings = {"hidden": 8, "epochs": 4, "batch_size": 25} if name == "mlp" else {}
    estimator = make_estimator(name, seed=2, **settings)
    return fit_classifier(X, y, estimator=estimator, n_classes=4, groups=groups, seed=2, **options)


def test_the_perceptron_never_holds_more_than_a_block() -> None:
    X = OnDisk(samples()[0])
    result = fitted(X)
    assert max(X.asked) == 32
    assert (result.n_train, result.n_heldout, result.n_unused) == (540, 60, 0)


def test_it_learns_what_it_learns_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scaler and a full shuffle of the plain kind."""
    X, y, groups = samples()
    found = fitted(OnDisk(X))
    held = np.isin(groups, found.heldout_groups)
    scaler, perceptron = make_estimator("mlp", seed=2, hidden=8, epochs=4, batch_size=25)
    plain = perceptron.fit(scaler.fit_transform(X[~held]), y[~held])
    own_scaler, own = (step for _, step in found.estimator.steps)
    np.testing.assert_allclose(own_scaler.mean_, X[~held].astype(float).mean(0), rtol=1e-6)
    np.testing.assert_allclose(own_scaler.scale_, X[~held].astype(float).std(0), rtol=1e-5)
    np.testing.assert_allclose(own.loss_curve_, plain.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(own.coefs_[0], plain.coefs_[0], rtol=1e-3, atol=1e-5)
    right = plain.predict(scaler.transform(X[held])) == y[held]
    assert found.heldout_accuracy == pytest.approx(right.mean(), abs=0.02)


def test_the_same_seed_fits_the_same() -> None:
    one, other = (fitted(OnDisk(samples()[0])).estimator[-1] for _ in range(2))
    np.testing.assert_array_equal(one.coefs_[0], other.coefs_[0])


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_of_too_many_samples_some_are_chosen(name: str) -> None:
    X, y, _ = samples()
    result = fitted(OnDisk(X), name, max_samples=100)
    assert result.n_heldout == 60
    assert 95 <= result.n_train <= 100
    assert result.n_unused == 600 - 60 - result.n_train
    assert set(result.estimator.classes_) == set(y)


def test_the_choice_is_even_over_classes_and_samples() -> None:
    y = np.repeat([0, 1, 2], [800, 197, 3])
    index = np.arange(1000)
    counts = np.zeros(1000)
    for seed in range(400):
        chosen = fit._thinned(index, y, 100, seed)
        assert np.bincount(y[chosen]).tolist() == [80, 19, 1]
        assert (np.diff(chosen) > 0).all()
        counts[chosen] += 1
    assert 10 < counts[:800].min() <= counts[:800].max() < 80  # 40 expected, standard deviation 6
    np.testing.assert_array_equal(fit._thinned(index, y, 100, 3), fit._thinned(index, y, 100, 3))
    np.testing.assert_array_equal(fit._thinned(index, y, 1000, 3), index)


def test_by_default_only_what_needs_memory_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "_BYTES_IN_MEMORY", 4 * CHANNELS * 200)
    X = samples()[0]
    assert fitted(OnDisk(X)).n_unused == 0
    thinned = fitted(OnDisk(X), "logistic")
    assert 195 <= thinned.n_train <= 200
    assert fitted(OnDisk(X), "logistic", max_samples=10_000).n_unused == 0
