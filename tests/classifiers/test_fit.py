"""Fitting with whole images held out."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin

from pipeline.classifiers import fit_classifier, make_estimator
from pipeline.errors import ClassifierError


class Recorder(ClassifierMixin, BaseEstimator):
    """Keeps what it was fitted on, and predicts the first channel."""

    def fit(self, X: Any, y: Any) -> "Recorder":
        self.X_, self.y_, self.classes_ = X, y, np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return X[:, 0].astype(int)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.integers(0, 6), min_size=4, max_size=40),
    holdout=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_images_are_held_out_whole_and_no_class_is_lost(
    groups: list[int], holdout: float, seed: int
) -> None:
    n = len(groups)
    rng = np.random.default_rng(seed)
    y = np.resize([0, 1, 4], n)
    rng.shuffle(y)
    X = np.stack([rng.integers(0, 5, n), np.arange(n)], axis=1).astype(np.float32)
    fit = fit_classifier(
        X, y, groups=np.array(groups), estimator=Recorder(), n_classes=5, holdout=holdout, seed=seed
    )
    trained = fit.estimator.X_[:, 1].astype(int)
    held = np.setdiff1d(np.arange(n), trained)
    np.testing.assert_array_equal(fit.estimator.y_, y[trained])
    assert set(y[trained]) == {0, 1, 4}
    assert (fit.n_train, fit.n_heldout) == (len(trained), len(held))
    if len(set(groups)) > 1:
        assert not {groups[i] for i in trained} & {groups[i] for i in held}
    if len(held):
        right = [X[i, 0] == y[i] for i in held]
        assert fit.heldout_accuracy == pytest.approx(sum(right) / len(right))
        for c, share in fit.heldout_per_class.items():
            assert share == pytest.approx(np.mean([X[i, 0] == c for i in held if y[i] == c]))
        assert set(fit.heldout_per_class) == set(y[held])
    else:
        assert fit.heldout_accuracy is None
    if holdout == 0:
        assert not len(held)


def test_a_tenth_of_the_images_by_default_and_samples_of_a_single_one() -> None:
    y = np.resize([0, 1], 400)
    X = np.arange(400, dtype=np.float32)[:, None]
    groups = np.repeat(np.arange(40), 10)
    assert fit_classifier(X, y, groups=groups, estimator=Recorder(), n_classes=2).n_heldout == 40
    one = fit_classifier(X, y, groups=np.zeros(400, int), estimator=Recorder(), n_classes=2)
    assert one.n_heldout == 40
    names = np.array([f"2007_{g:06d}" for g in groups])
    assert fit_classifier(X, y, groups=names, estimator=Recorder(), n_classes=2).n_heldout == 40


def test_refit_sees_all_samples_but_reports_the_held_out_ones() -> None:
    y = np.resize([0, 1], 100)
    X = np.stack([y, np.arange(100)], axis=1).astype(np.float32)
    fit = fit_classifier(X, y, estimator=Recorder(), n_classes=2, refit=True)
    assert len(fit.estimator.X_) == 100
    assert (fit.n_train, fit.n_heldout, fit.heldout_accuracy) == (90, 10, 1.0)


def test_the_estimator_given_stays_unfitted() -> None:
    given_estimator = Recorder()
    fit_classifier(
        np.eye(6, dtype=np.float32), np.resize([0, 1], 6), estimator=given_estimator, n_classes=2
    )
    assert not hasattr(given_estimator, "X_")


GOOD_X, GOOD_Y = np.ones((10, 3), np.float32), np.resize([0, 1], 10)
BAD_X = GOOD_X.copy()
BAD_X[4, 1] = np.inf


@pytest.mark.parametrize(
    ("X", "y", "options", "said"),
    [
        (GOOD_X[:0], GOOD_Y[:0], {}, "no pixel samples"),
        (GOOD_X, np.full(10, 3), {}, "of class 3"),
        (GOOD_X, GOOD_Y * 255, {}, "void"),
        (GOOD_X, GOOD_Y - 1, {}, "from -1"),
        (GOOD_X, GOOD_Y * 0.5, {}, "labels reach"),
        (GOOD_X, GOOD_Y[:4], {}, "belong together"),
        (GOOD_X[0], GOOD_Y, {}, "belong together"),
        (GOOD_X, GOOD_Y, {"groups": np.zeros(3)}, "belong together"),
        (BAD_X, GOOD_Y, {}, "1 of 10 pixel samples are not finite, the first is sample 4"),
        (GOOD_X, GOOD_Y, {"holdout": 1.0}, "holdout is 1.0"),
        (GOOD_X, GOOD_Y, {"estimator": object()}, "object lacks fit or predict"),
        (
            GOOD_X,
            GOOD_Y,
            {"estimator": make_estimator("logistic").set_params(logisticregression__tol=-1)},
            "could not be fitted",
        ),
        (GOOD_X, GOOD_Y, {"estimator": make_estimator("mlp", device="abacus")}, "abacus"),
    ],
)
def test_mistakes_are_one_line(X: Any, y: Any, options: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"estimator": Recorder(), "n_classes": 21, **options}
    with pytest.raises(ClassifierError) as caught:
        fit_classifier(X, y, **arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
