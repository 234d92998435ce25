"""Fitting a classifier on pixel samples, with whole images held out."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ClassifierError


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
    n_train, n_heldout : int
        Samples fitted on for that accuracy, and held out.
    seconds : float
        All of it took.
    """

    estimator: Any
    heldout_accuracy: float | None
    heldout_per_class: Mapping[int, float]
    heldout_groups: tuple[Any, ...]
    n_train: int
    n_heldout: int
    seconds: float


def fit_classifier(
    X: NDArray[np.float32],
    y: NDArray[np.integer[Any]],
    *,
    estimator: Any,
    n_classes: int,
    groups: NDArray[Any] | None = None,
    holdout: float = 0.1,
    seed: int = 0,
    refit: bool = False,
) -> FitResult:
    """Fit a copy of an estimator and measure it on held-out images.

    Samples of one image resemble each other, so whole images are held out; with one image only, or
    without groups, single samples are. An image that holds a class's last samples for fitting is
    not held out. The classifier that is returned is the one that was measured, unless ``refit``
    asks for one that saw the held-out samples too.

    Parameters
    ----------
    X : ndarray of float32, shape (n, D)
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
        Fit once more, on all samples, after measuring.

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
    held = _held_out(y, groups, holdout, seed)
    fitted = _fit(estimator, X[~held], y[~held])
    accuracy, per_class = None, {}
    if held.any():
        right = np.asarray(fitted.predict(X[held])) == y[held]
        accuracy = float(right.mean())
        per_class = {int(c): float(right[y[held] == c].mean()) for c in np.unique(y[held])}
        if refit:
            fitted = _fit(estimator, X, y)
    return FitResult(
        estimator=fitted,
        heldout_accuracy=accuracy,
        heldout_per_class=per_class,
        heldout_groups=() if groups is None else _whole_groups(groups, held),
        n_train=int((~held).sum()),
        n_heldout=int(held.sum()),
        seconds=time.perf_counter() - start,
    )


def _check_samples(
    X: NDArray[Any], y: NDArray[Any], groups: NDArray[Any] | None, n_classes: int
) -> None:
    same_length = len(X) == len(y) and (groups is None or len(groups) == len(y))
    if X.ndim != 2 or y.ndim != 1 or not same_length:
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
    finite = np.isfinite(X).all(axis=1)
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


def _fit(estimator: Any, X: NDArray[Any], y: NDArray[Any]) -> Any:
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # epochs are a budget here; "full" batches and few or constant features are asked for
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Got `batch_size` less than 1 or larger", UserWarning)
        warnings.filterwarnings("ignore", module=r"sklearn\.feature_selection")
        try:
            fitted = clone(estimator, safe=False)
            fitted.fit(X, y)
        except (ValueError, TypeError) as error:
            if isinstance(error, ClassifierError):
                raise
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise ClassifierError(
                f"{type(estimator).__name__} could not be fitted: {first}; change its options"
            ) from error
    return fitted
