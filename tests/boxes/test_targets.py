"""What heat maps ought to show."""

import numpy as np
import torch

from pipeline.boxes.targets import NOT_COUNTED, figure_ground, near_keypoint
from pipeline.data import Box, Keypoint


def test_figure_ground_reads_the_pixel_under_each_point() -> None:
    mask = np.random.default_rng(0).choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    box = Box(2.4, 3.7, 30, 20)
    found = figure_ground(mask, 2, box=box, points=9, void=255)
    for i in range(9):
        for j in range(9):
            y, x = box.top + (i + 0.5) / 9 * box.height, box.left + (j + 0.5) / 9 * box.width
            value = mask[int(y), int(x)]
            assert found[i, j] == (NOT_COUNTED if value == 255 else value == 2)


def test_a_box_of_whole_pixels_has_them_as_points() -> None:
    mask = np.random.default_rng(1).integers(0, 3, (12, 12)).astype(np.uint8)
    found = figure_ground(mask, 1, box=Box(1, 2, 11, 12), points=10, void=255)
    np.testing.assert_array_equal(found, mask[2:12, 1:11] == 1)


def test_near_a_keypoint_is_a_disc() -> None:
    box, keypoint = Box(10, 20, 30, 60), Keypoint(14.2, 33.3, True)
    found = near_keypoint(keypoint, box=box, points=25, reach=5)
    for i in range(25):
        for j in range(25):
            y, x = 20 + (i + 0.5) / 25 * 40, 10 + (j + 0.5) / 25 * 20
            assert found[i, j] == (np.hypot(y - 33.3, x - 14.2) <= 5)
    assert 0 < found.sum() < found.numel()


def test_where_a_keypoint_is_hidden_nothing_counts() -> None:
    found = near_keypoint(Keypoint(1, 1, False), box=Box(0, 0, 9, 9), points=4, reach=5)
    assert torch.equal(found, torch.full((4, 4), NOT_COUNTED, dtype=torch.uint8))
