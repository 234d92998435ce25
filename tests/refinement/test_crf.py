"""Mean-field inference over superpixels against loops over all pairs of them."""

import numpy as np
import pytest
import torch

from pipeline.refinement import SuperpixelField


def slowly(p: np.ndarray, segments: np.ndarray, lab: np.ndarray, field: SuperpixelField):
    """The docstring's formulas, term by term."""
    count, reach = segments.max() + 1, 0.15 * max(segments.shape)
    inside = [segments == s for s in range(count)]
    colour = [lab[i].mean(axis=0) for i in inside]
    place = [np.argwhere(i).mean(axis=0) for i in inside]
    k = np.zeros((count, count))
    for s in range(count):
        for t in range(count):
            if s != t:
                k[s, t] = np.exp(
                    -((colour[s] - colour[t]) ** 2).sum() / (2 * field.colour**2)
                    - ((place[s] - place[t]) ** 2).sum() / (2 * reach**2)
                )

    def message(q, s):
        sizes = np.array([i.sum() for i in inside])
        return sum(sizes[t] * k[s, t] * q[t] for t in range(count)) / (sizes @ k[s])

    own = [p[:, i].mean(axis=1) for i in inside]
    q = own
    for _ in range(8):
        q = [own[s] * np.exp(field.weight * message(q, s)) for s in range(count)]
        q = [values / values.sum() for values in q]
    refined = np.empty_like(p)
    for s in range(count):
        values = p[:, inside[s]] * np.exp(field.weight * message(q, s))[:, None]
        refined[:, inside[s]] = values / values.sum(axis=0)
    return refined


@pytest.mark.parametrize("classes", [1, 3])
def test_it_is_mean_field_inference(scenes, classes):
    pytest.importorskip("skimage", reason="needs the extra 'superpixels'")
    from skimage.color import rgb2lab
    from skimage.segmentation import slic

    image = scenes.read_image(scenes.image_ids("train")[0])[:60, :90]
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(classes, *image.shape[:2], generator=generator).softmax(dim=0)
    field = SuperpixelField(30, 4.0, 8.0)
    segments = slic(image, n_segments=30, start_label=0)
    assert 10 < segments.max() < 60
    expected = slowly(given.double().numpy(), segments, rgb2lab(image), field)
    np.testing.assert_allclose(field(given, image), expected, rtol=1e-4, atol=1e-6)


def test_a_superpixel_that_is_like_no_other_keeps_its_probabilities():
    pytest.importorskip("skimage", reason="needs the extra 'superpixels'")
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    given = torch.tensor([0.6, 0.4])[:, None, None].expand(2, 20, 40)
    found = SuperpixelField(2, 10.0, 0.01)(given, image)
    torch.testing.assert_close(found, given, rtol=0, atol=1e-6)
