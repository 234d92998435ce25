"""Fitted estimators as bytes, through skops: data only, no pickle."""

import re
from collections.abc import Sequence
from typing import Any

from pipeline.classifiers.archive import check_archive
from pipeline.classifiers.trees import TREE_TYPES, check_trees
from pipeline.errors import ClassifierError

# What skops asks about although it is arrays and numbers, or a formula. The types of trees hold
# indices that scikit-learn follows unchecked, so check_trees looks at them before any prediction.
_TRUSTED = (
    "pipeline.classifiers.torch_mlp.TorchMLPClassifier",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    *TREE_TYPES,
)
_TYPE_NAME = re.compile(r"[\w.<>]{1,200}")
_MOST_NAMED = 8


def dump_estimator(estimator: Any, *, trusted: Sequence[str] = ()) -> bytes:
    """Serialise a fitted estimator.

    Parameters
    ----------
    estimator
        Of scikit-learn, of this software, or of types in ``trusted``.
    trusted : sequence of str
        Full names of further types.

    Returns
    -------
    bytes
        In the format of ``skops.io``.

    Raises
    ------
    ClassifierError
        If it holds something that skops cannot write, or types that :func:`load_estimator` would
        refuse: they are named now rather than when the estimator is needed.
    """
    import skops.io

    try:
        data: bytes = skops.io.dumps(estimator)
    except Exception as error:  # whatever a foreign object raises while it is taken apart
        raise ClassifierError(
            f"{type(estimator).__name__} cannot be stored ({_first_line(error)}); keep only arrays,"
            " numbers and estimators in its attributes"
        ) from error
    _refuse_untrusted(skops.io.get_untrusted_types(data=data), trusted)
    return data


def load_estimator(data: bytes, *, trusted: Sequence[str] = ()) -> Any:
    """Rebuild what :func:`dump_estimator` wrote.

    Parameters
    ----------
    data : bytes
    trusted : sequence of str
        Full names of types outside scikit-learn that may be built. Naming one of
        :data:`~pipeline.classifiers.trees.TREE_TYPES` also skips the check of trees.

    Returns
    -------
    estimator

    Raises
    ------
    ClassifierError
        If the data holds types that are not trusted, is damaged, or holds trees whose indices
        lead out of bounds.
    """
    import skops.io

    try:
        check_archive(data)
        unknown = skops.io.get_untrusted_types(data=data)
    # what skops and the constructors it calls raise on bytes that are no estimator, or one of
    # another version
    except Exception as error:
        raise _damaged(error) from error
    _refuse_untrusted(unknown, trusted)
    try:
        estimator = skops.io.loads(data, trusted=[*_TRUSTED, *trusted])
        if not set(TREE_TYPES) & set(trusted):
            check_trees(estimator)
    except ClassifierError:
        raise
    except Exception as error:
        raise _damaged(error) from error
    return estimator


def _refuse_untrusted(found: Sequence[str], trusted: Sequence[str]) -> None:
    unknown = sorted(set(found) - set(_TRUSTED) - set(trusted))
    if not unknown:
        return
    if any(not _TYPE_NAME.fullmatch(name) for name in unknown):
        raise _damaged(ValueError("it names types that there cannot be"))
    named, more = unknown[:_MOST_NAMED], len(unknown) - _MOST_NAMED
    remedy = " ".join(f"--trust {name}" for name in named)
    raise ClassifierError(
        f"the estimator is made of types that are not trusted: {', '.join(named)}"
        f"{f' and {more} more' if more > 0 else ''}; if you know where they come from, say {remedy}"
    )


def _damaged(error: Exception) -> ClassifierError:
    return ClassifierError(
        f"the stored estimator cannot be read ({_first_line(error)}); fit it again, with the"
        " scikit-learn and skops installed here"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
