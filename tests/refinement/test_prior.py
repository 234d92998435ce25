"""An image's own frequencies of classes, against the formula pixel by pixel."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.refinement import ImagePrior

IMAGE = np.zeros((5, 7, 3), np.uint8)


def slowly(p: np.ndarray, steps: int, classes: list[int]) -> np.ndarray:
    """Take the steps of Saerens et al. among some classes, with loops."""
    q = p.copy()
    for _ in range(steps):
        frequency = {c: np.mean([q[c, y, x] for y in range(5) for x in range(7)]) for c in classes}
        for y in range(5):
            for x in range(7):
                total = sum(p[c, y, x] for c in classes)
                weighted = sum(frequency[c] * p[c, y, x] for c in classes)
                for c in classes:
                    q[c, y, x] = total * frequency[c] * p[c, y, x] / weighted
    return q


@pytest.mark.parametrize(
    ("background", "classes"), [(None, [0, 1, 2, 3]), (0, [1, 2, 3]), (2, [0, 1, 3])]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_it_is_expectation_maximisation(background, classes, steps):
    p = np.random.default_rng(0).dirichlet(np.ones(4), (5, 7)).transpose(2, 0, 1)
    found = ImagePrior(steps, background)(torch.from_numpy(p).float(), IMAGE).numpy()
    np.testing.assert_allclose(found, slowly(p, steps, classes), rtol=0, atol=1e-6)


def test_the_likelihood_of_the_frequencies_grows():
    """What expectation maximisation promises: of the image as a mixture of the classes."""
    p = torch.from_numpy(np.random.default_rng(1).dirichlet(np.ones(4), (5, 7))).permute(2, 0, 1)
    likelihoods = []
    for steps in range(1, 12):
        m = ImagePrior(steps)(p, IMAGE).flatten(1).mean(dim=1)
        likelihoods.append(float((m @ p.flatten(1)).log().sum()))
    assert all(later >= earlier for earlier, later in pairwise(likelihoods))
    assert likelihoods[-1] > likelihoods[0]


def test_a_doubtful_pixel_goes_to_the_class_that_the_image_shows():
    """But one that is sure of another class stays with it, and so does the background."""
    p = torch.empty(3, 5, 7)
    p[:] = torch.tensor([0.1, 0.8, 0.1])[:, None, None]
    p[:, 0, 0] = torch.tensor([0.1, 0.44, 0.46])
    p[:, 0, 1] = torch.tensor([0.0, 0.01, 0.99])
    p[:, 0, 2] = torch.tensor([0.9, 0.04, 0.06])
    found = ImagePrior(1, 0)(p, IMAGE)
    assert found[:, 0, :4].argmax(dim=0).tolist() == [1, 2, 0, 1]
    assert torch.equal(found[0], p[0])


def test_votes_of_zero_and_one_stay():
    p = torch.eye(3)[torch.arange(35) % 3].T.reshape(3, 5, 7)
    assert torch.equal(ImagePrior(3, 0)(p, IMAGE), p)


def test_a_background_that_is_no_class():
    with pytest.raises(ParamsError, match=r"prior:2:3: there is no class 3, they are 0 to 2"):
        ImagePrior(2, 3)(torch.full((3, 5, 7), 1 / 3), IMAGE)
