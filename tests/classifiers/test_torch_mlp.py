"""The perceptron in torch, against scikit-learn's checks and its own perceptron."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from pipeline.classifiers.torch_mlp import TorchMLPClassifier
from pipeline.errors import ClassifierError


@parametrize_with_checks(
    [TorchMLPClassifier(hidden=24, epochs=40, batch_size=16, learning_rate=0.02, random_state=0)]
)
def test_scikit_learn_contract(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_training_is_scikit_learns(activation: str) -> None:
    """Twenty full-batch steps from the same weights, with a penalty that matters."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 6)).astype(np.float32), np.resize([0, 1, 2], 50)
    ours = TorchMLPClassifier(
        5, activation=activation, batch_size=50, learning_rate=0.05, alpha=2.0, random_state=4
    )
    seed = int(np.random.RandomState(4).randint(2**31 - 1))
    initial = ours._initial(6, 3, torch.Generator().manual_seed(seed))
    pairs = [(initial[0].numpy(), initial[1].numpy()), (initial[2].numpy(), initial[3].numpy())]

    class SameStart(MLPClassifier):
        def _init_coef(self, fan_in: int, fan_out: int, dtype: Any) -> Any:
            return next(pair for pair in pairs if pair[0].shape == (fan_in, fan_out))

    theirs = SameStart(
        (5,),
        activation=activation,
        batch_size=50,
        learning_rate_init=0.05,
        alpha=2.0,
        max_iter=20,
        n_iter_no_change=20,
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


def test_seeded_by_a_generator_of_its_own() -> None:
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
