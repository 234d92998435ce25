"""Fitting a classifier on pixel samples, with whole images held out."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.classifiers.rows import Rows, ScaledRows, SomeRows, all_of, in_blocks
from pipeline.errors import ClassifierError, PipelineError

_BYTES_IN_MEMORY = 200_000_000
"""Of hypercolumns, by default. Estimators make up to eight times as much of them (svm does)."""


@dataclass(frozen=True)
class FitResult:
    """A fitted classifier and how it did on samples that it was not fitted on.

    Attributes
    ----------
    estimator
        Fitted.
    heldout_accuracy : float or None
        Share of held-out samples predicted right; None where nothing was held out.
    heldout_per_class : mapping of int to float
        The same among the held-out samples of each class that has any.
    heldout_groups : tuple
        The groups that were held out, all of them whole; empty where single samples were.
    fitted_on : ndarray of int64, shape (n_train,)
        The samples that were fitted on for that accuracy.
    n_heldout, n_unused : int
        Samples held out, and neither held out nor fitted on, as there were too many.
    seconds : float
        All of it took.
    """

    estimator: Any
    heldout_accuracy: float | None
    heldout_per_class: Mapping[int, float]
    heldout_groups: tuple[Any, ...]
    fitted_on: NDArray[np.int64]
    n_heldout: int
    n_unused: int
    seconds: float

    @property
    def n_train(self) -> int:
        """Samples that were fitted on."""
        return len(self.fitted_on)


def fit_classifier(
    X: Rows,
    y: NDArray[np.integer[Any]],
    *,
    estimator: Any,
    n_classes: int,
    groups: NDArray[Any] | None = None,
    holdout: float = 0.1,
    seed: int = 0,
    refit: bool = False,
    max_samples: int | None = None,
) -> FitResult:
    """Fit a copy of an estimator and measure it on held-out images.

    Samples of one image resemble each other, so whole images are held out; with one image only, or
    without groups, single samples are. An image that holds a class's last samples for fitting is
    not held out. The classifier that is returned is the one that was measured, unless ``refit``
    asks for one that saw the held-out samples too.

    The perceptron reads ``X`` batch by batch. Other estimators need it in memory, so of many
    samples they get a random choice, with the classes in the same shares.

    Parameters
    ----------
    X : ndarray or other Rows of float32, shape (n, D)
        Hypercolumns.
    y : ndarray of integers, shape (n,)
        Class indices below ``n_classes``; void is not among them.
    estimator
        Unfitted, with ``fit`` and ``predict``.
    n_classes : int
    groups : ndarray of shape (n,), optional
        Image id of each sample.
    holdout : float
        Share of the images to hold out, from 0 to below 1.
    seed : int
        Of the choice of images.
    refit : bool
        Fit once more, with the held-out samples, after measuring.
    max_samples : int, optional
        Most samples to fit on. By default all for the perceptron, for others as many as take
        200 MB: none of ours needs more than 2 GiB then.

    Returns
    -------
    FitResult

    Raises
    ------
    ClassifierError
        If the samples cannot be fitted on, or the estimator cannot be used or fails.
    """
    _check_samples(X, y, groups, n_classes)
    if not (callable(getattr(estimator, "fit", None)) and hasattr(estimator, "predict")):
        raise ClassifierError(
            f"{type(estimator).__name__} lacks fit or predict; give a scikit-learn classifier"
        )
    if not 0 <= holdout < 1:
        raise ClassifierError(f"holdout is {holdout}; give a share from 0 to below 1")
    start = time.perf_counter()
    most = _most_samples(estimator, X, max_samples)
    held = _held_out(y, groups, holdout, seed)
    train = _thinned(np.flatnonzero(~held), y, most, seed)
    fitted = _fit(estimator, SomeRows(X, train), y[train])
    accuracy, per_class = None, {}
    if held.any():
        truth = y[held]
        right = _predict(fitted, SomeRows(X, np.flatnonzero(held))) == truth
        accuracy = float(right.mean())
        per_class = {int(c): float(right[truth == c].mean()) for c in np.unique(truth)}
        if refit:
            everything = _thinned(np.arange(len(y)), y, most, seed)
            fitted = _fit(estimator, SomeRows(X, everything), y[everything])
    return FitResult(
        estimator=fitted,
        heldout_accuracy=accuracy,
        heldout_per_class=per_class,
        heldout_groups=() if groups is None else _whole_groups(groups, held),
        fitted_on=train,
        n_heldout=int(held.sum()),
        n_unused=len(y) - len(train) - int(held.sum()),
        seconds=time.perf_counter() - start,
    )


def _check_samples(X: Rows, y: NDArray[Any], groups: NDArray[Any] | None, n_classes: int) -> None:
    same_length = len(X) == len(y) and (groups is None or len(groups) == len(y))
    if len(X.shape) != 2 or y.ndim != 1 or not same_length:
        raise ClassifierError(
            f"features of shape {X.shape} and labels of shape {y.shape} (and groups) do not belong"
            " together; draw the samples again"
        )
    if len(y) == 0:
        raise ClassifierError("there are no pixel samples; draw more, or check the labels")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= n_classes:
        raise ClassifierError(
            f"labels reach from {y.min()} to {y.max()}, but there are {n_classes} classes; leave"
            " void out of the samples"
        )
    if y.min() == y.max():
        raise ClassifierError(
            f"all {len(y)} pixel samples are of class {y[0]}; a classifier needs two, draw more"
        )
    finite = np.concatenate([np.isfinite(block).all(axis=1) for _, block in in_blocks(X)])
    if not finite.all():
        raise ClassifierError(
            f"{(~finite).sum()} of {len(y)} pixel samples are not finite, the first is sample"
            f" {int(np.argmin(finite))}; extract again with a wider dtype or scaled input"
        )


def _held_out(
    y: NDArray[Any], groups: NDArray[Any] | None, holdout: float, seed: int
) -> NDArray[np.bool_]:
    """Mark the held-out samples, leaving some of every class to fit on."""
    _, classes = np.unique(y, return_inverse=True)
    ids, members = np.unique(np.arange(len(y)) if groups is None else groups, return_inverse=True)
    if len(ids) == 1:
        ids = members = np.arange(len(y))
    counts = np.zeros((len(ids), classes.max() + 1), np.int64)
    np.add.at(counts, (members, classes), 1)
    left = counts.sum(axis=0)
    wanted = round(holdout * len(ids)) or int(holdout > 0)
    chosen: list[int] = []
    for group in np.random.default_rng(seed).permutation(len(ids)):
        if len(chosen) == wanted:
            break
        if (left > counts[group]).all():
            left = left - counts[group]
            chosen.append(group)
    return np.isin(members, chosen)


def _whole_groups(groups: NDArray[Any], held: NDArray[np.bool_]) -> tuple[Any, ...]:
    """Give the groups none of whose samples was fitted on."""
    return tuple(np.setdiff1d(groups[held], groups[~held]).tolist())


def _most_samples(estimator: Any, X: Rows, max_samples: int | None) -> int:
    if max_samples is not None:
        return max_samples
    return len(X) if _reads_rows(estimator) else max(1, _BYTES_IN_MEMORY // (4 * X.shape[1]))


def _thinned(index: NDArray[np.int64], y: NDArray[Any], most: int, seed: int) -> NDArray[np.int64]:
    """Choose at most so many samples at random, of each class in proportion, but one at least."""
    if len(index) <= most:
        return index
    share = most / len(index)
    generator = np.random.default_rng([seed, 1])  # the images are held out by the seed alone
    chosen = []
    for c in np.unique(y[index]):
        members = index[y[index] == c]
        chosen.append(generator.choice(members, max(1, int(share * len(members))), replace=False))
    return np.sort(np.concatenate(chosen))


def _reads_rows(estimator: Any) -> bool:
    """Tell whether a classifier, and what is before it, can be fitted on a few rows at a time."""
    *before, classifier = _steps(estimator)
    return hasattr(classifier, "fit_rows") and all(hasattr(s, "partial_fit") for s in before)


def _steps(estimator: Any) -> list[Any]:
    """Give the steps of a pipeline; anything else is its own only one."""
    return [step for _, step in getattr(estimator, "steps", [("", estimator)])]


def _fit(estimator: Any, X: Rows, y: NDArray[Any]) -> Any:
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # epochs are a budget here; few or constant features are asked for
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", module=r"sklearn\.feature_selection")
        try:
            fitted = clone(estimator, safe=False)
            if _reads_rows(fitted):
                _fit_rows(fitted, X, y)
            else:
                fitted.fit(all_of(X), y)
        except (ValueError, TypeError) as error:
            if isinstance(error, PipelineError):
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ClassifierError(
                f"{type(estimator).__name__} could not be fitted: {first}; change its options"
            ) from error
    return fitted


def _fit_rows(estimator: Any, X: Rows, y: NDArray[Any]) -> None:
    """Fit a classifier that reads rows, after the scalers before it: each passes over them once."""
    *before, classifier = _steps(estimator)
    for scaler in before:
        for _, block in in_blocks(X):
            # the mean and variance of the blocks so far and of this one (Chan, Golub and LeVeque)
            scaler.partial_fit(block)
        X = ScaledRows(X, scaler)
    classifier.fit_rows(X, y)


def _predict(fitted: Any, X: Rows) -> NDArray[Any]:
    return np.concatenate([np.asarray(fitted.predict(block)) for _, block in in_blocks(X)])
