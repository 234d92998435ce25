"""The guided filter against one ridge regression after the other."""

import numpy as np
import pytest
import torch

from pipeline.refinement import GuidedFilter, guided


def slowly(p: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Fit each window with least squares, and average each pixel over its windows."""
    guide = image / 255
    height, width = p.shape
    total, count = np.zeros(p.shape), np.zeros(p.shape)
    for y in range(height):
        for x in range(width):
            window = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            colours, values = guide[window].reshape(-1, 3), p[window].ravel()
            # The ridge as further equations: sqrt(n epsilon) a = 0.
            ridge = np.sqrt(len(values) * epsilon) * np.eye(3, 4)
            equations = np.vstack([np.c_[colours, np.ones(len(colours))], ridge])
            *a, b = np.linalg.lstsq(equations, np.r_[values, 0, 0, 0], rcond=None)[0]
            total[window] += guide[window] @ a + b
            count[window] += 1
    return total / count


@pytest.mark.parametrize(
    ("radius", "epsilon"), [(1, 0.01), (2, 1e-4), (3, 1.0), (4, 1e-6), (99, 0.001)]
)
@pytest.mark.parametrize("size", [(9, 12), (1, 8), (1, 1)])
def test_it_is_a_ridge_regression_in_every_window(size, radius, epsilon):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    p = rng.dirichlet(np.ones(3), size).transpose(2, 0, 1).astype(np.float32)
    found = GuidedFilter(radius, epsilon)(torch.from_numpy(p), image).numpy()
    expected = np.stack([slowly(of_class, image, radius, epsilon) for of_class in p])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_small_windows_of_a_large_bright_image_keep_their_digits():
    """Each window is the difference of running sums that are 10,000 times as large."""
    rng = np.random.default_rng(0)
    image = rng.integers(250, 256, (300, 350, 3), dtype=np.uint8)
    p = rng.random((1, 300, 350)).astype(np.float32)
    found = GuidedFilter(1, 1e-6)(torch.from_numpy(p), image).numpy()
    corner = np.s_[290:, 340:]
    expected = slowly(p[0][corner], image[corner], 1, 1e-6)
    np.testing.assert_allclose(found[0][corner][3:, 3:], expected[3:, 3:], rtol=0, atol=1e-6)


def test_a_class_that_is_nowhere_takes_no_time_and_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    p = rng.dirichlet(np.ones(5), (6, 8)).transpose(2, 0, 1).astype(np.float32)
    p[3:] *= 1e-7
    added = []
    add_up = guided._Windows.add_up
    monkeypatch.setattr(
        guided._Windows, "add_up", lambda self, v: (added.append(len(v)), add_up(self, v))[1]
    )
    found = GuidedFilter(2, 0.01)(torch.from_numpy(p), image).numpy()
    assert added.count(4) == 2 * 3
    expected = np.stack([slowly(of_class, image, 2, 0.01) for of_class in p])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
