"""Mean-field inference over superpixels against loops over all pairs of them."""

import numpy as np
import pytest
import torch

from pipeline.refinement import SuperpixelCRF, parse_refinement
from pipeline.refinement.superpixels import Segments

pytest.importorskip("skimage", reason="needs the extra 'superpixels'")


def slowly(p: np.ndarray, segments: np.ndarray, lab: np.ndarray, crf: SuperpixelCRF):
    """The docstring's formulas, term by term."""
    count, reach = segments.max() + 1, 0.15 * max(segments.shape)
    inside = [segments == s for s in range(count)]
    sizes = [i.sum() for i in inside]
    colour = [lab[i].mean(axis=0) for i in inside]
    place = [np.argwhere(i).mean(axis=0) for i in inside]

    def k(s, t):
        return np.exp(
            -((colour[s] - colour[t]) ** 2).sum() / (2 * crf.colour**2)
            - ((place[s] - place[t]) ** 2).sum() / (2 * reach**2)
        )

    share = [[sizes[t] * k(s, t) for t in range(count)] for s in range(count)]

    def message(q, s):
        return sum(share[s][t] * q[t] for t in range(count) if t != s) / sum(share[s])

    own = [p[:, i].mean(axis=1) for i in inside]
    q = own
    for _ in range(10):
        new = [own[s] * np.exp(crf.weight * message(q, s)) for s in range(count)]
        q = [(old + values / values.sum()) / 2 for old, values in zip(q, new, strict=True)]
    refined = np.empty_like(p)
    for s in range(count):
        values = p[:, inside[s]] * np.exp(crf.weight * message(q, s))[:, None]
        refined[:, inside[s]] = values / values.sum(axis=0)
    return refined


@pytest.mark.parametrize("classes", [1, 3])
def test_it_is_mean_field_inference(scenes, classes):
    from skimage.color import rgb2lab
    from skimage.segmentation import slic

    image = scenes.read_image(scenes.image_ids("train")[0])[:60, :90]
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(classes, *image.shape[:2], generator=generator).softmax(dim=0)
    crf = SuperpixelCRF(30, 4.0, 8.0)
    segments = slic(image, n_segments=30, start_label=0)
    assert 10 < segments.max() < 60
    expected = slowly(given.double().numpy(), segments, rgb2lab(image), crf)
    np.testing.assert_allclose(crf(given, image), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("colour", [0.01, 2.0, 5.0])
def test_a_superpixel_that_is_like_no_other_keeps_its_probabilities(colour):
    """Even if one of the others is less unlike it than the rest are."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    first = torch.full((20, 40), 0.9)
    first[:, 20:] = 0.3
    given = torch.stack([first, 1 - first])
    found = SuperpixelCRF(2, 4.0, colour)(given, image)
    torch.testing.assert_close(found, given, rtol=0, atol=1e-6)


def test_what_a_guided_filter_leaves_below_zero_does_not_grow(scenes):
    image = scenes.read_image(scenes.image_ids("train")[0])
    sure = torch.zeros(2, *image.shape[:2])
    sure[0, :, :30] = 1
    sure[1, :, 30:] = 1
    found = parse_refinement("guided:8:0.0001,crf:60:4:5")(sure, image)
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


def test_an_image_of_noise_has_no_superpixel_for_every_pixel():
    """The matrix of all pairs would not fit in memory."""
    noise = np.random.default_rng(0).integers(0, 256, (77, 77, 3), dtype=np.uint8)
    assert len(Segments(noise, 2999).sizes) < 2 * noise[..., 0].size / 16
