"""The confusion matrix and its numbers, against scikit-learn and against counting by hand."""

import doctest
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    jaccard_score,
)

import pipeline.metrics
from pipeline.errors import DataError, HeadError, ParamsError, PipelineError
from pipeline.metrics import ConfusionMatrix, mean_iou_over

N = 5
NAMES = ["background", "cat", "cow", "dog", "horse"]
sizes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A truth with void pixels and classes that may be absent, and a prediction."""
    shape = draw(sizes)
    classes = draw(st.lists(st.sampled_from(range(N)), min_size=1, unique=True))
    label = st.sampled_from(classes)
    truth = draw(hnp.arrays(np.uint8, shape, elements=label | st.just(255)))
    return truth, draw(hnp.arrays(np.int64, shape, elements=label))


def measured(truth: np.ndarray, prediction: np.ndarray) -> ConfusionMatrix:
    matrix = ConfusionMatrix(N)
    matrix.update(truth, prediction)
    return matrix


@settings(max_examples=60, deadline=None)
@given(label_maps())
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_numbers_equal_those_of_scikit_learn(maps: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = maps
    summary = measured(truth, prediction).summary(NAMES)
    true, predicted = truth[truth != 255], prediction[truth != 255]
    if true.size == 0:
        assert summary["pixel_accuracy"] is summary["mean_iou"] is None
        assert summary["mean_class_accuracy"] is summary["frequency_weighted_iou"] is None
        assert summary["classes_counted"] == 0
        return
    present = sorted(set(true.tolist()) | set(predicted.tolist()))
    expected = confusion_matrix(true, predicted, labels=range(N))
    iou = jaccard_score(true, predicted, labels=present, average=None)
    assert summary["confusion_matrix"] == expected.tolist()
    assert summary["pixel_accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert summary["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert summary["mean_iou"] == pytest.approx(iou.mean())
    assert summary["frequency_weighted_iou"] == pytest.approx(
        jaccard_score(true, predicted, labels=present, average="weighted")
    )
    assert summary["classes_counted"] == len(present)
    for index, name in enumerate(NAMES):
        if index in present:
            assert summary["iou"][name] == pytest.approx(iou[present.index(index)])
        else:
            assert summary["iou"][name] is None
        if index in true:
            hit_rate = np.mean(predicted[true == index] == index)
            assert summary["class_accuracy"][name] == pytest.approx(hit_rate)
        else:
            assert summary["class_accuracy"][name] is None


@settings(max_examples=30, deadline=None)
@given(label_maps(), label_maps())
def test_images_add_up_one_by_one_or_merged(
    one: tuple[np.ndarray, np.ndarray], two: tuple[np.ndarray, np.ndarray]
) -> None:
    by_updates, merged = measured(*one), measured(*one)
    by_updates.update(*two)
    merged += measured(*two)
    assert by_updates.counts.dtype == np.int64
    np.testing.assert_array_equal(by_updates.counts, merged.counts)
    assert by_updates.counts.sum() == np.sum(one[0] != 255) + np.sum(two[0] != 255)


def test_summary_is_plain_json_with_exactly_the_promised_keys() -> None:
    matrix = measured(np.array([[0, 1, 255]], np.uint8), np.array([[0, 2, 3]]))
    summary = matrix.summary(NAMES)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary) == {
        "pixel_accuracy",
        "mean_class_accuracy",
        "mean_iou",
        "frequency_weighted_iou",
        "classes_counted",
        "iou",
        "class_accuracy",
        "confusion_matrix",
    }
    # Predicted but never true: an IoU of zero that counts, and no class accuracy.
    assert summary["iou"] == {"background": 1, "cat": 0, "cow": 0, "dog": None, "horse": None}
    assert summary["class_accuracy"]["cow"] is None
    assert summary["classes_counted"] == 3


def test_nothing_counted_gives_none_and_stays_json() -> None:
    empty = ConfusionMatrix(N).summary(NAMES)
    void = measured(np.full((3, 4), 255, np.uint8), np.zeros((3, 4), np.int64)).summary(NAMES)
    assert empty == void
    assert empty["mean_iou"] is None
    json.dumps(empty, allow_nan=False)


def test_another_void_value() -> None:
    matrix = ConfusionMatrix(3, void=0)
    matrix.update(np.array([[0, 1, 2]], np.uint8), np.array([[1, 1, 1]], np.uint8))
    assert matrix.counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]


@pytest.mark.parametrize("label", [-1, N, 255])
@pytest.mark.parametrize("truth", [0, 255])
def test_prediction_out_of_range_is_refused_under_void_too(label: int, truth: int) -> None:
    matrix = ConfusionMatrix(N)
    with pytest.raises(HeadError, match=r"outside 0\.\.4") as caught:
        matrix.update(np.array([[truth]], np.uint8), np.array([[label]]))
    assert isinstance(caught.value, ValueError)
    assert matrix.counts.sum() == 0


def test_predictions_must_be_indices() -> None:
    with pytest.raises(HeadError, match="float32"):
        measured(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.float32))


def test_truth_out_of_range_and_other_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"found 7\.\.7"):
        measured(np.array([[7]], np.uint8), np.array([[0]]))
    with pytest.raises(DataError, match=r"\(2, 1\).*\(1, 2\)"):
        measured(np.zeros((2, 1), np.uint8), np.zeros((1, 2), np.int64))


def test_matrices_names_and_sizes_must_fit() -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ParamsError, match="2 and 3"):
        matrix += ConfusionMatrix(3)
    with pytest.raises(ParamsError, match="at least one class"):
        ConfusionMatrix(0)
    with pytest.raises(DataError, match="more than once: cat"):
        matrix.summary(["cat", "cat"])
    with pytest.raises(DataError, match="1 class names"):
        matrix.summary(["cat"])


def test_mean_iou_over_some_classes() -> None:
    truth = np.array([[0, 0, 1, 1, 2]], np.uint8)
    summary = measured(truth, np.array([[0, 0, 1, 0, 2]])).summary(NAMES)
    assert mean_iou_over(summary, ["background", "cat"]) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert mean_iou_over(summary, NAMES) == summary["mean_iou"]
    assert mean_iou_over(summary, ["cat", "cat", "dog"]) == 0.5  # named twice, and absent
    assert mean_iou_over(summary, ["dog"]) is None
    with pytest.raises(PipelineError, match=r"no such class: sofa; the classes are background"):
        mean_iou_over(summary, ["cat", "sofa"])


def test_examples_in_the_docstrings() -> None:
    results = doctest.testmod(pipeline.metrics)
    assert results.attempted > 0
    assert results.failed == 0
