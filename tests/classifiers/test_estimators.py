"""Estimators by name."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import is_classifier

from pipeline.classifiers import ESTIMATORS, fit_classifier, make_estimator
from pipeline.errors import ParamsError


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_name_learns_and_repeats_itself(name: str) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 240)
    X = (rng.normal(size=(3, 12))[y] * 2 + rng.normal(size=(240, 12))).astype(np.float32)
    X *= np.logspace(-3, 3, 12, dtype=np.float32)  # channels of a network differ in scale
    options = {"hidden": 32, "batch_size": 16} if name == "mlp" else {}
    fits = [
        fit_classifier(
            X, y, estimator=make_estimator(name, seed=3, **options), n_classes=3, holdout=0.3
        )
        for _ in range(2)
    ]
    assert is_classifier(fits[0].estimator)
    assert fits[0].heldout_accuracy is not None
    assert fits[0].heldout_accuracy > 0.8
    first, second = (fit.estimator.predict(X) for fit in fits)
    np.testing.assert_array_equal(first, second)


def test_options_reach_the_estimator() -> None:
    mlp = make_estimator(
        "mlp", seed=5, hidden=7, epochs=9, batch_size=4, learning_rate=0.2, alpha=0.3
    )[-1]
    assert (mlp.hidden, mlp.patience) == (7, None)
    assert (mlp.epochs, mlp.batch_size, mlp.learning_rate) == (9, 4, 0.2)
    assert (mlp.alpha, mlp.random_state) == (0.3, 5)
    assert make_estimator("logistic", alpha=4.0)[-1].C == 0.25
    assert make_estimator("svm", class_weight="balanced")[-1].class_weight == "balanced"
    sgd = make_estimator("sgd", learning_rate=0.5)[-1]
    assert (sgd.eta0, sgd.learning_rate) == (0.5, "adaptive")
    assert make_estimator("boosting", epochs=3)[-1].max_iter == 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_none_means_the_default(name: str) -> None:
    plain, given = make_estimator(name), make_estimator(name, hidden=None, epochs=None, alpha=None)
    assert repr(plain) == repr(given)


def test_given_epochs_are_exactly_the_adam_steps_of_a_full_batch() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 2, 300)
    estimator = make_estimator("mlp", hidden=4, epochs=20, batch_size="full", learning_rate=1e-3)
    fitted = fit_classifier(X, y, estimator=estimator, n_classes=2, holdout=0).estimator[-1]
    assert fitted.n_iter_ == 20


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("ml", {}, "logistic"),
        ("mlp", {"epoch": 3}, "epochs"),
        ("forest", {"hidden": 3}, "class_weight"),
        ("mlp", {"epochs": 0}, "epochs is 0"),
        ("mlp", {"hidden": 2.5}, "hidden is 2.5"),
        ("mlp", {"batch_size": "whole"}, "'full'"),
        ("sgd", {"learning_rate": -1}, "above 0"),
        ("logistic", {"alpha": 0}, "alpha is 0"),
        ("sgd", {"alpha": -1}, "0 or above"),
        ("svm", {"class_weight": "inverse"}, "balanced"),
        ("no_such_package_here:Thing", {}, "PYTHONPATH"),
        ("sklearn.naive_bayes:Thing", {}, "Thing"),
        (":Thing", {}, "PYTHONPATH"),
        ("sklearn.naive_bayes:GaussianNB", {"alpha": 1}, "var_smoothing"),
    ],
)
def test_mistakes_are_one_line_that_names_the_choice(
    name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        make_estimator(name, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_own_estimator_by_import_path() -> None:
    own = make_estimator("sklearn.ensemble:ExtraTreesClassifier", seed=8, n_estimators=3)
    assert type(own).__name__ == "ExtraTreesClassifier"
    assert (own.n_estimators, own.random_state) == (3, 8)
    assert make_estimator("sklearn.linear_model:Perceptron", random_state=2).random_state == 2


def test_own_factory_that_refuses_its_options() -> None:
    with pytest.raises(ParamsError, match="refused its options"):
        make_estimator("fractions:Fraction", numerator="a half")


def test_listing_the_names_imports_neither_sklearn_nor_torch() -> None:
    code = (
        "import sys, pipeline.classifiers as c; assert c.ESTIMATORS;"
        "print([m for m in ('sklearn', 'torch', 'skops') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
