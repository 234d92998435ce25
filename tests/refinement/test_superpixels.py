"""Pooling over superpixels against a loop over them, and what is said without scikit-image."""

import sys

import numpy as np
import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.refinement import Superpixels, choose_refinement, parse_refinement


def test_every_pixel_gets_the_mean_over_its_superpixel(scenes):
    segmentation = pytest.importorskip(
        "skimage.segmentation", reason="needs the extra 'superpixels'"
    )
    image = scenes.read_image(scenes.image_ids("train")[0])
    given = torch.rand(4, *image.shape[:2], generator=torch.Generator().manual_seed(0))
    found = Superpixels(40)(given, image)
    segments = segmentation.slic(image, n_segments=40, start_label=0)
    assert 10 < segments.max() < 80
    for segment in range(segments.max() + 1):
        inside = torch.from_numpy(segments == segment)
        expected = given[:, inside].mean(dim=1, keepdim=True).expand(-1, int(inside.sum()))
        torch.testing.assert_close(found[:, inside], expected, rtol=1e-5, atol=1e-6)


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    refine = parse_refinement("superpixels:9")  # a params file can be read all the same
    remedy = r"run: pip install 'hypercolumn-pipeline\[superpixels\]'"
    with pytest.raises(ParamsError, match=remedy):
        choose_refinement("superpixels:9", 1)
    with pytest.raises(ParamsError, match=remedy):
        refine(torch.ones(1, 2, 2), np.zeros((2, 2, 3), np.uint8))
