"""Labels at another size against resampling every score."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.hypercolumn import labels_of


def plainly(scores: Tensor, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Resample every score; give the labels, and where the first lies clearly before the second."""
    whole = interpolate(scores[None].double(), size=size, mode="bilinear")[0]
    best = whole.topk(2, dim=0).values
    return whole.argmax(0).numpy(), (best[0] - best[1] > 1e-5).numpy()


@pytest.mark.parametrize("size", [(31, 44), (12, 17), (5, 40), (9, 13), (1, 1), (24, 34)])
@pytest.mark.parametrize("of", ["noise", "regions", "one class"])
def test_labels_are_those_of_the_resampled_scores(size, of):
    torch.manual_seed(0)
    scores = torch.randn(5, 12, 17)
    if of == "regions":
        scores = interpolate(torch.randn(1, 5, 3, 3), size=(12, 17), mode="bilinear")[0]
    if of == "one class":
        scores[2] += 100
    expected, clear = plainly(scores, size)
    found = labels_of(scores, size)
    assert found.dtype == np.uint8
    assert clear.mean() > 0.99
    assert np.array_equal(found[clear], expected[clear])


def test_of_equal_scores_the_first_counts():
    scores = torch.zeros(256, 4, 4)
    scores[[3, 255]] = 1
    assert (labels_of(scores) == 3).all()
    assert (labels_of(scores, (9, 7)) == 3).all()
    scores[3] = 0
    assert (labels_of(scores, (9, 7)) == 255).all()


def test_a_score_that_is_no_number_counts_as_the_highest():
    """So that a head whose training went astray is not taken for one that sees background."""
    scores = torch.randn(3, 6, 7)
    scores[1] += 100
    scores[2, 2] = torch.nan
    scores[0, 4] = torch.nan
    expected = scores.max(dim=0).indices.numpy()
    assert {2, 0} <= set(np.unique(expected))
    assert np.array_equal(labels_of(scores), expected)
    assert (
        labels_of(torch.full((3, 4, 4), torch.nan).index_fill(0, torch.tensor([0]), 1.0)) == 1
    ).all()
    resampled = labels_of(scores, (12, 14))
    assert (resampled[4:6] == 2).all() and (resampled[8:10] == 0).all()


@pytest.mark.parametrize("size", [None, (9, 11)])
def test_scores_of_other_dtypes_and_with_gradients(size):
    scores = torch.randn(5, 12, 17).bfloat16()
    expected = labels_of(scores.float(), size)
    assert np.array_equal(labels_of(scores, size), expected)
    assert np.array_equal(labels_of(scores.float().requires_grad_(), size), expected)
