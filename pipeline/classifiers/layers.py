"""Fitted classifiers as dense layers: the step from pixel samples to whole images.

A linear classifier or a perceptron is a chain of affine layers, which at every pixel is a chain of
1x1 convolutions with the same weights. A scaler before it folds into the first layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import ClassifierError

Array = NDArray[np.float64]

MISSING_CLASS_LOGIT = -1e4
"""Bias of a class without samples: never predicted, yet finite in half precision."""


def _relu(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(x, 0))


def _logistic(x: NDArray[Any]) -> NDArray[Any]:
    return 0.5 * (1 + np.tanh(0.5 * x))  # no overflow, unlike 1 / (1 + exp(-x))


def _identity(x: NDArray[Any]) -> NDArray[Any]:
    return x


ACTIVATIONS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = MappingProxyType(
    {"relu": _relu, "tanh": np.tanh, "logistic": _logistic, "identity": _identity}
)
"""Nonlinearities between layers, by scikit-learn's names."""


@dataclass(frozen=True, eq=False)
class Layers:
    """A chain of affine layers on a standardised input, in float64.

    Attributes
    ----------
    weights : tuple of ndarrays of shape (out, in)
        Those of the first layer apply to ``(x - input_mean) / input_scale``.
    biases : tuple of ndarrays of shape (out,)
    input_mean, input_scale : ndarrays of shape (D,)
    activation : str
        Of :data:`ACTIVATIONS`; between layers, not after the last.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    input_mean: Array
    input_scale: Array
    activation: str

    @property
    def n_classes(self) -> int:
        """Rows of the last layer."""
        return len(self.biases[-1])

    def logits(self, X: ArrayLike) -> Array:
        """Score hypercolumns.

        Parameters
        ----------
        X : array-like of shape (n, D)

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
        """
        return np.asarray(self.last_inputs(X) @ self.weights[-1].T + self.biases[-1])

    def last_inputs(self, X: ArrayLike) -> Array:
        """Give what the last layer is applied to, (n, in), for hypercolumns (n, D)."""
        x = (np.asarray(X, np.float64) - self.input_mean) / self.input_scale
        activate = ACTIVATIONS[self.activation]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = activate(x @ weight.T + bias)
        return x

    def folded(self) -> "Layers":
        """Give the same function on the raw input: ``W / sigma`` and ``b - W mu / sigma``."""
        weight = self.weights[0] / self.input_scale
        bias = self.biases[0] - weight @ self.input_mean
        return replace(
            self,
            weights=(weight, *self.weights[1:]),
            biases=(bias, *self.biases[1:]),
            input_mean=np.zeros_like(self.input_mean),
            input_scale=np.ones_like(self.input_scale),
        )


def to_layers(estimator: Any, n_classes: int) -> Layers:
    """Turn a fitted linear classifier or perceptron into dense layers.

    The layers' logits are the classifier's scores: their softmax is its ``predict_proba`` where
    that is a softmax, and a one-against-the-rest classifier's logits are its decision function. A
    problem of two classes has the logits (0, z). A class that was not seen when fitting has zero
    weights and the bias :data:`MISSING_CLASS_LOGIT`.

    Parameters
    ----------
    estimator
        Fitted on integer labels; bare, or in a pipeline after one ``StandardScaler``.
    n_classes : int
        Rows of the last layer; row c belongs to label c.

    Returns
    -------
    Layers

    Raises
    ------
    ClassifierError
        If the estimator is not fitted, its labels are not class indices, or it is not a chain of
        affine layers.
    """
    scaler, classifier = _split(estimator)
    classes = _seen_classes(classifier)
    if classes.max() >= n_classes:
        raise ClassifierError(
            f"{type(classifier).__name__} was fitted on labels {classes.tolist()}; give at least"
            f" {classes.max() + 1} classes, not {n_classes}"
        )
    weights, biases, activation = _affine_chain(classifier, len(classes))
    weights[-1], biases[-1] = _one_row_per_class(weights[-1], biases[-1], classes, n_classes)
    mean, scale = np.zeros(weights[0].shape[1]), np.ones(weights[0].shape[1])
    if scaler is not None:
        # mean_ is there even where with_mean says that it is not to be subtracted
        mean = _float64(scaler.mean_) if scaler.with_mean else mean
        scale = _float64(scaler.scale_) if scaler.with_std else scale
    layers = Layers(tuple(weights), tuple(biases), mean, scale, activation)
    _check_equal(estimator, layers, classes)
    return layers


def is_dense(estimator: Any) -> bool:
    """Say whether :func:`to_layers` can turn a fitted estimator into layers.

    Raises
    ------
    ClassifierError
        If the estimator is not fitted, or its labels are not class indices.
    """
    n_classes = int(_seen_classes(_last_step(estimator)).max()) + 1
    try:
        to_layers(estimator, n_classes)
    except ClassifierError:
        return False
    return True


def _last_step(estimator: Any) -> Any:
    from sklearn.pipeline import Pipeline

    return estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator


def _split(estimator: Any) -> tuple[Any, Any]:
    """Give the scaler (or None) and the classifier."""
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if not isinstance(estimator, Pipeline):
        return None, estimator
    before = [s for _, s in estimator.steps[:-1] if s is not None and s != "passthrough"]
    if not before:
        return None, _last_step(estimator)
    if len(before) > 1 or not isinstance(before[0], StandardScaler):
        names = ", ".join(type(step).__name__ for step in before)
        raise _not_dense(estimator, f"only one StandardScaler may come before it, not {names}")
    return before[0], _last_step(estimator)


def _seen_classes(classifier: Any) -> NDArray[np.int64]:
    classes = getattr(classifier, "classes_", None)
    name = type(classifier).__name__
    if classes is None:
        raise ClassifierError(f"{name} has no classes_: fit it first, and give a classifier")
    classes = np.asarray(classes)
    indices = classes.ndim == 1 and np.issubdtype(classes.dtype, np.integer)
    if not indices or classes.min() < 0:
        raise ClassifierError(f"{name} was fitted on labels {classes.tolist()}; give class indices")
    return classes.astype(np.int64)


def _affine_chain(classifier: Any, n_seen: int) -> tuple[list[Array], list[Array], str]:
    """Read weights (out, in) and biases (out,) off a perceptron or a linear classifier."""
    if hasattr(classifier, "coefs_") and hasattr(classifier, "intercepts_"):
        weights = [_float64(coef).T for coef in classifier.coefs_]
        biases = [_float64(bias) for bias in classifier.intercepts_]
        activation = classifier.activation
    elif hasattr(classifier, "coef_") and hasattr(classifier, "intercept_"):
        weights = [np.atleast_2d(_float64(classifier.coef_))]
        # without fit_intercept it may be the number 0
        biases = [np.broadcast_to(_float64(classifier.intercept_), len(weights[0])).copy()]
        activation = "identity"
    else:
        raise _not_dense(classifier, "it is neither linear nor a perceptron")
    rows = len(weights[-1])
    if activation not in ACTIVATIONS or not (rows == n_seen or (rows == 1 and n_seen == 2)):
        raise _not_dense(classifier, f"{rows} outputs, {n_seen} classes, {activation}")
    return weights, biases, activation


def _one_row_per_class(
    weight: Array, bias: Array, classes: NDArray[np.int64], n_classes: int
) -> tuple[Array, Array]:
    rows = classes if len(weight) == len(classes) else classes[1:]  # one output scores the second
    full_weight = np.zeros((n_classes, weight.shape[1]))
    full_bias = np.full(n_classes, MISSING_CLASS_LOGIT)
    full_bias[classes] = 0.0
    full_weight[rows], full_bias[rows] = weight, bias
    return full_weight, full_bias


def _check_equal(estimator: Any, layers: Layers, classes: NDArray[np.int64]) -> None:
    """Compare on a few points: attributes of these names may mean something else elsewhere."""
    noise = np.random.default_rng(0).standard_normal((16, len(layers.input_mean)))
    points = (layers.input_mean + layers.input_scale * noise).astype(np.float32)
    ours = layers.logits(points)[:, classes]
    if hasattr(estimator, "decision_function"):
        theirs = np.asarray(estimator.decision_function(points))
        ours = ours[:, 1] - ours[:, 0] if theirs.ndim == 1 else ours
    elif hasattr(estimator, "predict_proba"):
        theirs = np.asarray(estimator.predict_proba(points))
        odds = np.exp(ours - ours.max(axis=1, keepdims=True))
        ours = odds / odds.sum(axis=1, keepdims=True)
    else:
        raise _not_dense(estimator, "it has neither decision_function nor predict_proba")
    size = max(1.0, float(np.abs(theirs).max()))
    if ours.shape != theirs.shape or np.abs(ours - theirs).max() > 1e-3 * size:
        raise _not_dense(estimator, "its scores are not those of its coefficients")


def _not_dense(estimator: Any, why: str) -> ClassifierError:
    return ClassifierError(
        f"{type(estimator).__name__} can predict in blocks but not become a dense head: {why}"
    )


def _float64(values: Any) -> Array:
    return np.asarray(values, np.float64)
