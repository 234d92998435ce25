"""Unfitted pixel classifiers by name.

The defaults are for 3,000 to 20,000 pixel samples of about 3,000 channels on two cores.
Scikit-learn is imported by the function that needs it, so that listing the names costs nothing.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from pipeline.errors import ParamsError

ESTIMATORS: Mapping[str, str] = MappingProxyType(
    {
        "logistic": "multinomial logistic regression",
        "svm": "linear support vector machine, one class against the rest",
        "sgd": "logistic regression by stochastic gradient descent, one class against the rest",
        "mlp": "two-layer perceptron, 512 hidden units; reads any number of samples, in batches",
        "forest": "random forest; predicts in blocks, cannot become a dense head",
        "boosting": "histogram gradient boosting; predicts in blocks, cannot become a dense head",
    }
)
"""The names that :func:`make_estimator` knows, each with a line for help texts."""

# more samples than there are
_WHOLE_SET = 2**31 - 1


def make_estimator(name: str, *, seed: int = 0, **options: Any) -> Any:
    """Build an unfitted classifier with scikit-learn's interface.

    Linear classifiers and perceptrons come as a pipeline with a ``StandardScaler`` before them.

    Parameters
    ----------
    name : str
        One of :data:`ESTIMATORS`, or ``package.module:Class`` for an estimator of one's own.
    seed : int
        Becomes the estimator's ``random_state``, if it has one.
    **options
        Those that the estimator knows; ``None`` stands for its default.

        - ``hidden``: hidden units (mlp).
        - ``epochs``: passes over the samples, iterations of the solver, or boosting rounds. A
          perceptron whose epochs are given runs for exactly so many, otherwise it may stop early.
        - ``batch_size``: samples per step, or ``"full"`` for all of them (mlp).
        - ``learning_rate``: of Adam (mlp), the first one of a schedule (sgd), or the
          shrinkage (boosting).
        - ``alpha``: strength of the L2 penalty; ``1 / C`` for logistic and svm.
        - ``class_weight``: ``"balanced"`` weights classes by their inverse frequency.
        - ``device``: ``"auto"`` or a torch device (mlp).

        An estimator of one's own gets its options as they are.

    Returns
    -------
    estimator
        Unfitted.

    Raises
    ------
    ParamsError
        If there is no such estimator, it does not know an option, or a value is out of range.
    """
    given = {option: value for option, value in options.items() if value is not None}
    if ":" in name:
        return _make_own(name, seed, given)
    if name not in _BUILDERS:
        known = ", ".join(ESTIMATORS)
        raise ParamsError(f"no estimator {name!r}; choose {known}, or give package.module:Class")
    build = _BUILDERS[name]
    _check_names(name, given, [p for p in inspect.signature(build).parameters if p != "seed"])
    for option, value in given.items():
        _check_value(name, option, value)
    return build(seed, **given)


def _logistic(
    seed: int, *, epochs: int = 100, alpha: float = 100.0, class_weight: Any = None
) -> Any:
    from sklearn.linear_model import LogisticRegression

    return _scaled(
        LogisticRegression(
            C=1 / alpha, max_iter=epochs, class_weight=class_weight, random_state=seed
        )
    )


def _svm(seed: int, *, epochs: int = 5, alpha: float = 1000.0, class_weight: Any = None) -> Any:
    from sklearn.svm import LinearSVC

    # the dual solver: the primal one takes ten times as long for the same accuracy at this width
    return _scaled(
        LinearSVC(
            C=1 / alpha,
            dual=True,
            tol=1e-2,
            max_iter=epochs,
            class_weight=class_weight,
            random_state=seed,
        )
    )


def _sgd(
    seed: int,
    *,
    epochs: int = 10,
    learning_rate: float | None = None,
    alpha: float = 1e-3,
    class_weight: Any = None,
) -> Any:
    from sklearn.linear_model import SGDClassifier

    schedule: dict[str, Any] = {"learning_rate": "optimal"}
    if learning_rate is not None:
        schedule = {"learning_rate": "adaptive", "eta0": learning_rate}
    return _scaled(
        SGDClassifier(
            loss="log_loss",
            alpha=alpha,
            max_iter=epochs,
            class_weight=class_weight,
            random_state=seed,
            n_jobs=-1,
            **schedule,
        )
    )


def _mlp(
    seed: int,
    *,
    hidden: int = 512,
    members: int = 1,
    epochs: int | None = None,
    batch_size: int | str = 200,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    alpha: float = 1e-4,
    dropout: float = 0.0,
    class_weight: Any = None,
    device: str = "auto",
) -> Any:
    from pipeline.classifiers.torch_mlp import TorchMLPClassifier

    return _scaled(
        TorchMLPClassifier(
            hidden=hidden,
            members=members,
            epochs=20 if epochs is None else epochs,
            patience=3 if epochs is None and schedule == "constant" else None,
            batch_size=_samples_per_step(batch_size),
            learning_rate=learning_rate,
            schedule=schedule,
            alpha=alpha,
            dropout=dropout,
            class_weight=class_weight,
            device=device,
            random_state=seed,
        )
    )


def _forest(seed: int, *, class_weight: Any = None) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    # one job: with several, probabilities are added up in the order in which threads finish
    return RandomForestClassifier(
        n_estimators=100,
        min_samples_leaf=5,
        max_samples=0.5,
        class_weight=class_weight,
        random_state=seed,
    )


def _boosting(
    seed: int,
    *,
    epochs: int = 30,
    learning_rate: float = 0.1,
    alpha: float = 0.0,
    class_weight: Any = None,
) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.feature_selection import SelectKBest
    from sklearn.pipeline import make_pipeline

    # histograms over thousands of channels, once per class and round, would take minutes
    return make_pipeline(
        SelectKBest(k=256),
        HistGradientBoostingClassifier(
            learning_rate=learning_rate,
            max_iter=epochs,
            max_leaf_nodes=15,
            max_features=0.25,
            l2_regularization=alpha,
            early_stopping=False,
            class_weight=class_weight,
            random_state=seed,
        ),
    )


_BUILDERS: Mapping[str, Callable[..., Any]] = {
    "logistic": _logistic,
    "svm": _svm,
    "sgd": _sgd,
    "mlp": _mlp,
    "forest": _forest,
    "boosting": _boosting,
}


def _scaled(classifier: Any) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), classifier)


def _samples_per_step(batch_size: int | str) -> int:
    return _WHOLE_SET if batch_size == "full" else int(batch_size)


def _make_own(path: str, seed: int, options: dict[str, Any]) -> Any:
    module_name, _, attribute = path.partition(":")
    try:
        module = import_module(module_name)
    except (ImportError, ValueError, TypeError) as error:
        raise ParamsError(
            f"estimator {path!r}: cannot import {module_name!r} ({error}); is it on PYTHONPATH?"
        ) from error
    make = getattr(module, attribute, None)
    if not callable(make):
        raise ParamsError(f"estimator {path!r}: {module_name} has no {attribute!r}; correct it")
    parameters = inspect.signature(make).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        _check_names(path, options, list(parameters))
    if "random_state" in parameters:
        options = {"random_state": seed, **options}
    try:
        return make(**options)
    except (TypeError, ValueError) as error:
        raise ParamsError(f"estimator {path!r} refused its options: {error}") from error


def _check_names(estimator: str, options: Mapping[str, Any], allowed: list[str]) -> None:
    for option in options:
        if option not in allowed:
            known = ", ".join(allowed) or "none"
            raise ParamsError(f"estimator {estimator!r} has no option {option!r}; it has: {known}")


def _check_value(estimator: str, option: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int) and value >= 1
    rules: dict[str, tuple[bool, str]] = {
        "hidden": (whole, "a whole number from 1"),
        "members": (whole, "a whole number from 1"),
        "epochs": (whole, "a whole number from 1"),
        "batch_size": (whole or value == "full", "a whole number from 1, or 'full'"),
        "learning_rate": (number and value > 0, "above 0"),
        "schedule": (value in ("constant", "cosine"), "'constant' or 'cosine'"),
        "dropout": (number and 0 <= value < 1, "0 or above, and below 1"),
        "class_weight": (value == "balanced" or isinstance(value, dict), "'balanced'"),
    }
    if estimator in ("logistic", "svm"):
        rules["alpha"] = (number and value > 0, "above 0")
    else:
        rules["alpha"] = (number and value >= 0, "0 or above")
    valid, expected = rules.get(option, (True, ""))
    if not valid:
        raise ParamsError(f"estimator {estimator!r}: {option} is {value!r}, but must be {expected}")
