"""The check that stored decision trees are trees.

Scikit-learn follows a tree's child and feature indices without checking them, so an index that a
file made up could read out of bounds, and a cycle would never end.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ClassifierError

_TREE = "sklearn.tree._tree.Tree"
_PREDICTOR = "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"

TREE_TYPES = (_TREE, _PREDICTOR)
"""Full names of the types that hold the nodes of trees."""

_CATEGORY_WORDS = 8  # 256 categories in words of 32 bits


def check_trees(estimator: Any) -> None:
    """Check every tree inside an estimator.

    Children must come after their parent, which makes every walk end, and features must be among
    those of the estimators around the tree.

    Raises
    ------
    ClassifierError
        If an index leads out of bounds.
    """
    seen: set[tuple[int, float]] = set()
    pending: list[tuple[Any, float]] = [(estimator, np.inf)]
    while pending:
        item, n_features = pending.pop()
        if (id(item), n_features) in seen:
            continue
        seen.add((id(item), n_features))
        name = f"{type(item).__module__}.{type(item).__qualname__}"
        if name in TREE_TYPES:
            sound = _tree_is_sound if name == _TREE else _predictor_is_sound
            if not (np.isfinite(n_features) and sound(item, int(n_features))):
                raise ClassifierError(
                    "the stored estimator holds a damaged decision tree; fit it again"
                )
            continue
        own = getattr(item, "__dict__", {}).get("n_features_in_", np.inf)
        pending += [(part, min(n_features, own)) for part in _parts(item)]


def _parts(item: Any) -> Iterator[Any]:
    if isinstance(item, dict):
        yield from item.values()
    elif isinstance(item, list | tuple) or (isinstance(item, np.ndarray) and item.dtype == object):
        yield from np.ravel(item) if isinstance(item, np.ndarray) else item
    elif hasattr(item, "__dict__") and not isinstance(item, type):
        yield from vars(item).values()


def _tree_is_sound(tree: Any, n_features: int) -> bool:
    if not 0 < tree.node_count <= tree.capacity:
        return False
    inner = tree.children_left != -1
    return _indices_are_sound(
        inner, tree.children_left, tree.children_right, tree.feature, n_features
    )


def _predictor_is_sound(predictor: Any, n_features: int) -> bool:
    nodes, bitsets = predictor.nodes, predictor.raw_left_cat_bitsets
    inner = nodes["is_leaf"] == 0
    categorical = inner & (nodes["is_categorical"] != 0)
    return (
        len(nodes) > 0
        and bool((nodes["bitset_idx"][categorical] < len(bitsets)).all())
        and (not categorical.any() or bitsets.shape[1] == _CATEGORY_WORDS)
        and _indices_are_sound(
            inner, nodes["left"], nodes["right"], nodes["feature_idx"], n_features
        )
    )


def _indices_are_sound(
    inner: NDArray[np.bool_],
    left: NDArray[Any],
    right: NDArray[Any],
    feature: NDArray[Any],
    n_features: int,
) -> bool:
    parents = np.flatnonzero(inner)
    children_follow = all(
        ((side[inner] > parents) & (side[inner] < len(inner))).all() for side in (left, right)
    )
    return children_follow and bool(((feature[inner] >= 0) & (feature[inner] < n_features)).all())
