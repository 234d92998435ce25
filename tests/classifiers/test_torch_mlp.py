"""The perceptron in torch, against scikit-learn's checks and its own perceptron."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline.classifiers import perceptron
from pipeline.classifiers.torch_mlp import TorchMLPClassifier
from pipeline.errors import ClassifierError


@parametrize_with_checks(
    [TorchMLPClassifier(hidden=24, epochs=40, batch_size=16, learning_rate=0.02, random_state=0)]
)
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("batch_size", [16, 50])
def test_it_learns_what_scikit_learns_learns(activation: str, batch_size: int) -> None:
    """From the seed alone: weights, order of the samples, penalty, Adam."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 6)).astype(np.float32), np.resize([0, 1, 2], 50)
    ours = TorchMLPClassifier(
        5,
        activation=activation,
        batch_size=batch_size,
        learning_rate=0.05,
        alpha=2.0,
        random_state=4,
    )
    theirs = MLPClassifier(
        (5,),
        activation=activation,
        batch_size=batch_size,
        learning_rate_init=0.05,
        alpha=2.0,
        max_iter=20,
        n_iter_no_change=20,
        random_state=4,
    )
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs.fit(X, y)
    ours.fit(X, y)
    for mine, other in zip(
        ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True
    ):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


def test_it_stops_when_scikit_learns_does() -> None:
    rng = np.random.default_rng(0)
    y = np.resize([0, 1, 2], 60)
    X = (rng.normal(size=(3, 4))[y] * 4 + rng.normal(size=(60, 4))).astype(np.float32)
    for seed in range(4):
        ours = TorchMLPClassifier(
            8, epochs=400, patience=3, tol=1e-3, learning_rate=0.02, batch_size=20
        )
        theirs = MLPClassifier(
            (8,), max_iter=400, n_iter_no_change=3, tol=1e-3, learning_rate_init=0.02, batch_size=20
        )
        stopped = [e.set_params(random_state=seed).fit(X, y).n_iter_ for e in (ours, theirs)]
        assert stopped[0] == stopped[1] < 400


def test_a_batch_too_large_for_the_memory_is_taken_in_pieces(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 5)).astype(np.float32), np.resize([0, 1, 2], 90)
    options: dict[str, Any] = {"hidden": 6, "batch_size": 60, "alpha": 1.0, "random_state": 1}
    whole = TorchMLPClassifier(**options).fit(X, y)
    read: list[int] = []

    class Counted:
        shape = X.shape

        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, index: Any) -> Any:
            read.append(len(index))
            return X[index]

    monkeypatch.setattr(perceptron, "_AT_ONCE", 7)
    pieces = TorchMLPClassifier(**options).fit_rows(Counted(), y)
    assert max(read) == 7
    assert sum(read) == 20 * 90
    np.testing.assert_allclose(whole.loss_curve_, pieces.loss_curve_, rtol=1e-4)
    for one, other in zip(whole.coefs_, pieces.coefs_, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_the_seed_decides_and_torchs_generator_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    before = torch.get_rng_state()
    first, again, other = (
        TorchMLPClassifier(4, epochs=2, batch_size=7, random_state=s).fit(X, y) for s in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.coefs_[0], again.coefs_[0])
    assert not np.array_equal(first.coefs_[0], other.coefs_[0])


def test_balanced_weights_equal_repeating_the_rare_samples() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = np.repeat([0, 1], [30, 10])
    options: dict[str, Any] = {"hidden": 4, "alpha": 0.0, "batch_size": 1000, "random_state": 0}
    weighted = TorchMLPClassifier(class_weight="balanced", **options).fit(X, y)
    repeated = np.concatenate([np.arange(30), np.tile(np.arange(30, 40), 3)])
    plain = TorchMLPClassifier(**options).fit(X[repeated], y[repeated])
    np.testing.assert_allclose(weighted.coefs_[0], plain.coefs_[0], rtol=1e-4, atol=1e-5)


def test_divergence_and_a_device_that_is_not_there() -> None:
    X, y = np.full((20, 2), 1e30), np.resize([0, 1], 20)
    with pytest.raises(ClassifierError, match="diverged"):
        TorchMLPClassifier(4, learning_rate=1e30, random_state=0).fit(X, y)
    for device in ("abacus", "cuda:99"):
        with pytest.raises(ClassifierError, match=device):
            TorchMLPClassifier(4, device=device).fit(X, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_fits_what_the_cpu_fits() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    cpu, gpu = (TorchMLPClassifier(6, device=d, random_state=0).fit(X, y) for d in ("cpu", "cuda"))
    np.testing.assert_allclose(cpu.predict_proba(X), gpu.predict_proba(X), atol=1e-3)


def test_dropout_leaves_hidden_units_out_at_random_and_makes_up_for_it(monkeypatch: Any) -> None:
    """In training alone, and in the mean over the draws every unit counts as it does without."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4000, 6)).astype(np.float32), np.resize([0, 1, 2], 4000)
    seen: list[torch.Tensor] = []
    cross_entropy = perceptron.cross_entropy

    def watch(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(logits.detach().clone())
        return cross_entropy(logits, *args, **kwargs)

    monkeypatch.setattr(perceptron, "cross_entropy", watch)
    options: dict[str, Any] = {"hidden": 1, "epochs": 1, "batch_size": 4000, "random_state": 0}
    for dropout in (0.0, 0.25):
        TorchMLPClassifier(
            **options, dropout=dropout, activation="identity", learning_rate=1e-12
        ).fit(X, y)
    plain, dropped = (torch.cat(seen[i : i + 4]) for i in (0, 4))
    # With one hidden unit, a sample without it is left with the second layer's biases.
    bias = dropped.mode(dim=0).values
    gone = (dropped == bias).all(dim=1)
    assert 0.22 < gone.float().mean() < 0.28
    # The samples come in another order, since a number was drawn: each is one of the plain ones.
    expected = (plain - bias) / 0.75 + bias
    distance = torch.cdist(dropped[~gone].double(), expected.double()).min(dim=1).values
    assert distance.max() < 1e-5


def test_dropout_is_drawn_from_the_seed() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 5)).astype(np.float32), np.resize([0, 1, 2], 90)
    fits = [
        TorchMLPClassifier(6, epochs=3, dropout=0.5, random_state=seed).fit(X, y)
        for seed in (1, 1, 2)
    ]
    assert (fits[0].coefs_[0] == fits[1].coefs_[0]).all()
    assert (fits[0].coefs_[0] != fits[2].coefs_[0]).any()


def test_the_learning_rate_goes_to_zero_along_half_a_cosine(monkeypatch: Any) -> None:
    rates: list[float] = []
    step = perceptron.AdamW.step
    monkeypatch.setattr(
        perceptron.AdamW, "step", lambda self, rate: (rates.append(rate), step(self, rate))[1]
    )
    X, y = np.ones((40, 3), np.float32), np.resize([0, 1], 40)
    TorchMLPClassifier(
        4, epochs=3, batch_size=10, learning_rate=0.5, schedule="cosine", patience=0
    ).fit(X, y)
    expected = [0.25 * (1 + np.cos(np.pi * step / 12)) for step in range(12)]
    np.testing.assert_allclose(rates, expected)


def test_members_are_perceptrons_of_their_own_and_their_logits_are_averaged() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)).astype(np.float32), np.resize([0, 1, 2], 60)
    random = np.random.RandomState(3)
    options: dict[str, Any] = {"hidden": 6, "epochs": 4, "batch_size": 20, "dropout": 0.5}
    alone = [TorchMLPClassifier(**options, random_state=random).fit(X, y) for _ in range(3)]
    together = TorchMLPClassifier(**options, members=3, random_state=3).fit(X, y)
    assert together.coefs_[0].shape == (5, 18)
    assert together.coefs_[0].dtype == together.coefs_[1].dtype == np.float32
    logits = [one.decision_function(X) for one in alone]
    np.testing.assert_allclose(
        together.decision_function(X), np.mean(logits, axis=0), rtol=1e-4, atol=1e-5
    )
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    assert together.loss_curve_ == alone[-1].loss_curve_
