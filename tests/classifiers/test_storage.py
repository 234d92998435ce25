"""Estimators as bytes: what comes back, and what is refused."""

import json
from io import BytesIO
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import (
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.naive_bayes import GaussianNB

from pipeline.classifiers import (
    ESTIMATORS,
    dump_estimator,
    fit_classifier,
    load_estimator,
    make_estimator,
)
from pipeline.classifiers.trees import TREE_TYPES, check_trees
from pipeline.errors import ClassifierError


class Majority(ClassifierMixin, BaseEstimator):
    """A user's own estimator."""

    def fit(self, X: Any, y: Any) -> "Majority":
        self.classes_, counts = np.unique(y, return_counts=True)
        self.best_ = self.classes_[counts.argmax()]
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.best_)


class Odd(Majority):
    """One that holds what has no data format."""

    def fit(self, X: Any, y: Any) -> "Odd":
        super().fit(X, y)
        self.lines_ = (line for line in "abc")
        return self


@pytest.fixture(scope="module")
def samples() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    return (rng.normal(size=(4, 6))[y] + rng.normal(size=(200, 6))).astype(np.float32), y


@pytest.mark.parametrize("name", [*ESTIMATORS, "sklearn.naive_bayes:GaussianNB"])
def test_round_trip(name: str, samples: tuple[Any, Any]) -> None:
    X, y = samples
    options = {"epochs": 3} if name not in ("forest", "sklearn.naive_bayes:GaussianNB") else {}
    estimator = make_estimator(name, **options)
    fitted = fit_classifier(X, y, estimator=estimator, n_classes=4).estimator
    again = load_estimator(dump_estimator(fitted))
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    if hasattr(fitted, "predict_proba"):
        np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))


def test_own_types_are_refused_until_named(samples: tuple[Any, Any]) -> None:
    X, y = samples
    fitted = Majority().fit(X, y)
    name = f"{Majority.__module__}.Majority"
    with pytest.raises(ClassifierError, match=f"--trust {name}"):
        dump_estimator(fitted)
    data = dump_estimator(fitted, trusted=[name])
    with pytest.raises(ClassifierError, match=f"--trust {name}") as caught:
        load_estimator(data)
    assert "\n" not in str(caught.value)
    assert load_estimator(data, trusted=[name]).best_ == fitted.best_


def test_what_cannot_be_written_says_so(samples: tuple[Any, Any]) -> None:
    with pytest.raises(ClassifierError, match="Odd cannot be stored"):
        dump_estimator(Odd().fit(*samples))


def test_damaged_bytes_are_one_line(samples: tuple[Any, Any]) -> None:
    data = dump_estimator(make_estimator("logistic").fit(*samples))
    schema = data.index(b"schema.json")
    for broken in (
        b"",
        b"no zip",
        data[: len(data) // 2],
        data.replace(b'"__class__"', b'"__clas__"'),
        data[: schema + 20] + b"\0" * 40 + data[schema + 60 :],
    ):
        with pytest.raises(ClassifierError, match="fit it again") as caught:
            load_estimator(broken)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def parts(samples: tuple[Any, Any]) -> dict[str, bytes]:
    """Give the parts of a stored estimator; packed again as they are they are one."""
    data = dump_estimator(GaussianNB().fit(*samples))
    with ZipFile(BytesIO(data)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    load_estimator(packed(found))
    return found


def packed(parts: dict[str, bytes], compression: int = ZIP_STORED) -> bytes:
    file = BytesIO()
    with ZipFile(file, "w", compression) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def array_named(parts: dict[str, bytes]) -> str:
    return next(name for name in parts if name.endswith(".npy"))


def with_schema(parts: dict[str, bytes], schema: Any) -> dict[str, bytes]:
    return {**parts, "schema.json": json.dumps({"protocol": 2, **schema}).encode()}


def node(content: Any, number: int) -> dict[str, Any]:
    return {
        "__class__": "list",
        "__module__": "builtins",
        "__loader__": "ListNode",
        "__id__": number,
        "content": content,
    }


def test_packed_parts_are_refused(parts: dict[str, bytes]) -> None:
    huge = {**parts, "filling": bytes(10**8)}
    data = packed(huge, ZIP_DEFLATED)
    assert len(data) < 200_000
    with pytest.raises(ClassifierError, match="its parts are packed"):
        load_estimator(data)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"(4,)", b"(9999999999,)", "an array of shape .* is cut short"),
        (b"(4,)", b"(1 << 40,)", "cannot be read"),
        (b"(4,)", b"((((((", "cannot be read"),
        (b"'<i8'", b"'|O'", "cannot be read"),
        (b"\x93NUMPY\x01", b"\x93NUMPY\x03", "cannot be read"),
    ],
)
def test_arrays_whose_header_is_wrong_are_refused(
    parts: dict[str, bytes], old: bytes, new: bytes, reason: str
) -> None:
    changed = {name: content.replace(old, new) for name, content in parts.items()}
    assert changed != parts
    with pytest.raises(ClassifierError, match=reason) as caught:
        load_estimator(packed(changed))
    assert "\n" not in str(caught.value)


def test_archives_in_archives_are_refused(parts: dict[str, bytes]) -> None:
    inner = packed({"data.npy": bytes(10**7)}, ZIP_DEFLATED)
    with pytest.raises(ClassifierError, match="it holds another archive"):
        load_estimator(packed({**parts, array_named(parts): inner}))


def test_nodes_that_stand_for_larger_ones_are_refused(parts: dict[str, bytes]) -> None:
    """Forty lists, each of which names the one before it twice, would be a tree of 2^40 nodes."""
    tree = node([], 1)
    for number in range(2, 42):
        tree = node([tree, {**node([], number - 1)}], number)
    with pytest.raises(ClassifierError, match="a node stands for another"):
        load_estimator(packed(with_schema(parts, tree)))


@pytest.mark.parametrize("numbers", [range(10, 60), [None] * 50], ids=["numbered", "unnumbered"])
def test_a_part_is_read_once(parts: dict[str, bytes], numbers: Any) -> None:
    array = {"__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode"}
    array |= {"type": "numpy", "file": array_named(parts)}
    content = [{**array, "__id__": number} for number in numbers]
    with pytest.raises(ClassifierError, match="several nodes name a part"):
        load_estimator(packed(with_schema(parts, node(content, 1))))


@pytest.mark.parametrize("name", ["a\nb", "a" * 500, "a b", ""])
def test_names_of_types_that_there_cannot_be_are_not_shown(
    parts: dict[str, bytes], name: str
) -> None:
    strange = {**node([], 2), "__module__": name, "__class__": "x y" if name == "" else "x"}
    with pytest.raises(ClassifierError, match="names types that there cannot be") as caught:
        load_estimator(packed(with_schema(parts, node([strange], 1))))
    assert "\n" not in str(caught.value)


def test_of_many_untrusted_types_a_few_are_named(parts: dict[str, bytes]) -> None:
    strange = [{**node([], 2 + n), "__module__": f"m{n:03}"} for n in range(100)]
    with pytest.raises(ClassifierError, match=r"m000\.list, .* and 92 more") as caught:
        load_estimator(packed(with_schema(parts, node(strange, 1))))
    assert len(str(caught.value)) < 1000


def _bend_forest(estimator: Any, field: str, value: int) -> None:
    tree = estimator.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = value
    tree.__setstate__(state)


def _bend_boosting(estimator: Any, field: str, value: int) -> None:
    nodes = estimator._predictors[1][2].nodes
    if field == "bitset_idx":
        nodes["is_categorical"][0] = 1
    nodes[field][0] = value


FOREST = [
    ("left_child", 10**6),
    ("left_child", 0),
    ("right_child", -2),
    ("feature", 6),
    ("feature", -1),
]
BOOSTING = [
    ("left", 10**6),
    ("right", 0),
    ("feature_idx", 6),
    ("feature_idx", -1),
    ("bitset_idx", 5),
]


@pytest.mark.parametrize(
    ("make", "bend", "field", "value"),
    [
        *((RandomForestClassifier, _bend_forest, *case) for case in FOREST),
        *((ExtraTreesClassifier, _bend_forest, *case) for case in FOREST[:1]),
        *((HistGradientBoostingClassifier, _bend_boosting, *case) for case in BOOSTING),
    ],
)
def test_trees_that_lead_out_of_bounds_are_refused(
    make: Any, bend: Any, field: str, value: int, samples: tuple[Any, Any]
) -> None:
    size = "max_iter" if make is HistGradientBoostingClassifier else "n_estimators"
    estimator = make(**{size: 2}, random_state=0).fit(*samples)
    check_trees(estimator)
    bend(estimator, field, value)
    data = skops.io.dumps(estimator)
    with pytest.raises(ClassifierError, match="damaged decision tree"):
        load_estimator(data)
    load_estimator(data, trusted=TREE_TYPES)  # whoever names the type vouches for it


def test_trees_of_more_features_than_the_forest_are_refused(samples: tuple[Any, Any]) -> None:
    X, y = samples
    forest = RandomForestClassifier(2, random_state=0).fit(X, y)
    forest.n_features_in_ = 3
    with pytest.raises(ClassifierError, match="damaged decision tree"):
        check_trees(forest)
