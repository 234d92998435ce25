"""Dense layers against what scikit-learn itself computes."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

from pipeline.classifiers import (
    MISSING_CLASS_LOGIT,
    Layers,
    fit_classifier,
    is_dense,
    make_estimator,
    to_layers,
)
from pipeline.classifiers.torch_mlp import TorchMLPClassifier
from pipeline.errors import ClassifierError

N_CLASSES = 9
LABELS = {
    "every class": tuple(range(N_CLASSES)),
    "missing classes": (0, 3, 7),
    "two classes": (2, 5),
    "first two": (0, 1),
}
SMALL = {"hidden": 11, "epochs": 5}
DENSE: dict[str, Any] = {
    "logistic": lambda: make_estimator("logistic"),
    "svm": lambda: make_estimator("svm"),
    "sgd": lambda: make_estimator("sgd"),
    "mlp": lambda: make_estimator("mlp", **SMALL),
    "bare logistic": lambda: LogisticRegression(max_iter=20),
    "no intercept": lambda: LinearSVC(fit_intercept=False),
    "ridge": RidgeClassifier,
    "perceptron": Perceptron,
    "discriminant": LinearDiscriminantAnalysis,
    "scale only": lambda: make_pipeline(StandardScaler(with_mean=False), Perceptron()),
    "mean only": lambda: make_pipeline(StandardScaler(with_std=False), Perceptron()),
    "identity scaler": lambda: make_pipeline(
        StandardScaler(with_mean=False, with_std=False), Perceptron()
    ),
    "passthrough": lambda: make_pipeline("passthrough", StandardScaler(), None, Perceptron()),
    "three hidden layers": lambda: MLPClassifier((7, 6, 5), max_iter=5),
    **{
        f"mlp {name}": lambda name=name: MLPClassifier((8,), activation=name, max_iter=5)
        for name in ("tanh", "logistic", "identity")
    },
    **{
        f"own mlp {name}": lambda name=name: TorchMLPClassifier(8, activation=name, epochs=5)
        for name in ("tanh", "logistic", "identity")
    },
}


def samples(labels: tuple[int, ...], n: int = 90, d: int = 6) -> tuple[Any, Any]:
    """Clusters of unequal scale, with a constant channel, which a careless scaler divides by 0."""
    rng = np.random.default_rng(7)
    y = np.resize(labels, n)
    X = rng.normal(size=(10, d))[y] + rng.normal(size=(n, d)) + 3
    X = X * np.logspace(-2, 1, d)
    X[:, 1] = 4.5
    return X.astype(np.float32), y.astype(np.uint8)


def fitted(make: Any, X: Any, y: Any) -> Any:
    return fit_classifier(X, y, estimator=make(), n_classes=N_CLASSES, holdout=0).estimator


@pytest.mark.filterwarnings("ignore:Variables are collinear")
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("make", DENSE.values(), ids=DENSE)
def test_logits_are_the_estimators_own_scores(make: Any, labels: tuple[int, ...]) -> None:
    X, y = samples(labels)
    estimator = fitted(make, X, y)
    layers = to_layers(estimator, N_CLASSES)
    logits = layers.logits(X)
    assert logits.shape == (len(X), N_CLASSES)
    seen = logits[:, labels]
    if hasattr(estimator, "decision_function"):
        scores = estimator.decision_function(X)
        ours = seen[:, 1] - seen[:, 0] if len(labels) == 2 else seen
        np.testing.assert_allclose(ours, scores, rtol=1e-5, atol=1e-5 * np.abs(scores).max())
    if "mlp" in str(type(estimator)).lower() or "logistic" in repr(estimator).lower():
        # a softmax over all classes, the missing ones included
        expected = np.zeros((len(X), N_CLASSES))
        expected[:, labels] = estimator.predict_proba(X)
        np.testing.assert_allclose(softmax(logits, axis=1), expected, rtol=1e-5, atol=1e-6)
    scores = np.sort(seen, axis=1)
    clear = scores[:, -1] - scores[:, -2] > 1e-4 * np.abs(scores).max()  # float32 breaks ties
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(logits.argmax(axis=1)[clear], estimator.predict(X)[clear])

    missing = sorted(set(range(N_CLASSES)) - set(labels))
    assert (layers.weights[-1][missing] == 0).all()
    assert (layers.biases[-1][missing] == MISSING_CLASS_LOGIT).all()

    folded = layers.folded()
    assert (folded.input_mean == 0).all() and (folded.input_scale == 1).all()
    size = np.abs(seen).max()
    np.testing.assert_allclose(folded.logits(X)[:, labels], seen, rtol=1e-9, atol=1e-9 * size)
    assert is_dense(estimator)


def test_weights_belong_to_the_standardised_input() -> None:
    X, y = samples((0, 3, 7))
    estimator = fitted(DENSE["mlp"], X, y)
    layers = to_layers(estimator, N_CLASSES)
    np.testing.assert_array_equal(layers.weights[0], estimator[-1].coefs_[0].T)
    np.testing.assert_allclose(layers.input_mean, X.mean(axis=0), rtol=1e-5)
    assert layers.input_scale[1] == 1  # the constant channel
    assert np.isfinite(layers.folded().weights[0]).all()


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    activation=st.sampled_from(["relu", "tanh", "logistic", "identity"]),
    seed=st.integers(0, 2**16),
)
def test_chain_of_any_shape_equals_the_loop_over_samples(
    sizes: list[int], activation: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(sizes))
    layers = Layers(
        tuple(rng.normal(size=(out, into)) for into, out in pairs),
        tuple(rng.normal(size=out) for _, out in pairs),
        rng.normal(size=sizes[0]),
        rng.uniform(0.1, 9, size=sizes[0]),
        activation,
    )
    nonlinear = {
        "relu": lambda v: v if v > 0 else 0.0,
        "tanh": np.tanh,
        "logistic": lambda v: 1 / (1 + np.exp(-v)),
        "identity": lambda v: v,
    }[activation]
    X = rng.normal(size=(3, sizes[0]))
    expected = []
    for x in X:
        h = [(v - m) / s for v, m, s in zip(x, layers.input_mean, layers.input_scale, strict=True)]
        for depth, (w, b) in enumerate(zip(layers.weights, layers.biases, strict=True)):
            z = [sum(w[o, i] * h[i] for i in range(len(h))) + b[o] for o in range(len(b))]
            h = z if depth == len(layers.weights) - 1 else [nonlinear(v) for v in z]
        expected.append(h)
    np.testing.assert_allclose(layers.logits(X), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(layers.folded().logits(X), expected, rtol=1e-7, atol=1e-7)
    assert layers.n_classes == sizes[-1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomForestClassifier(2),
        GaussianNB,
        lambda: make_pipeline(PCA(2), LogisticRegression()),
        lambda: make_pipeline(MinMaxScaler(), LogisticRegression()),
        lambda: make_pipeline(StandardScaler(), StandardScaler(), LogisticRegression()),
        # three pairs of classes have as many rows as three classes, but are no decision function
        lambda: SVC(kernel="linear"),
    ],
)
def test_others_are_refused_in_one_line(make: Any) -> None:
    X, y = samples((0, 1, 2))
    estimator = make().fit(X, y)
    assert not is_dense(estimator)
    with pytest.raises(ClassifierError, match="in blocks but not become a dense head") as caught:
        to_layers(estimator, N_CLASSES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("check", [is_dense, lambda e: to_layers(e, N_CLASSES)])
def test_unfitted_regressors_and_names_as_labels_are_mistakes(check: Any) -> None:
    X, y = samples((0, 1, 2))
    with pytest.raises(ClassifierError, match="fit it first"):
        check(make_estimator("logistic"))
    with pytest.raises(ClassifierError, match="give a classifier"):
        check(MLPRegressor(hidden_layer_sizes=(3,), tol=1e3).fit(X, y))
    with pytest.raises(ClassifierError, match="give class indices"):
        check(RidgeClassifier().fit(X, np.array(["a", "b", "c"])[y]))


def test_a_label_beyond_the_classes_is_a_mistake() -> None:
    X, y = samples((0, 1, 9))
    with pytest.raises(ClassifierError, match=r"\[0, 1, 9\]"):
        to_layers(RidgeClassifier().fit(X, y), 9)
