"""What every refinement keeps to, whatever it does in between."""

import numpy as np
import pytest
import torch

from pipeline.errors import ParamsError
from pipeline.refinement import choose_refinement, parse_refinement

SMOOTHING = [
    *("guided:2:0.001", "guided:50:1e-08", "superpixels:12", "superpixels:80"),
    "guided:3:0.01,superpixels:40",
]


FIELD = "crf:40:4:5"


@pytest.fixture(
    params=[*SMOOTHING, FIELD, "crf:5:50:0.001", "prior:1", "prior:5:0", "prior:2,guided:2:0.001"]
)
def refine(request):
    return chosen(request.param)


@pytest.fixture(params=SMOOTHING)
def smooth(request):
    return chosen(request.param)


def chosen(text: str):
    if "superpixels" in text or "crf" in text:
        pytest.importorskip("skimage", reason="needs the extra 'superpixels'")
    return choose_refinement(text, 7)


def an_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Give an image of two colours with some noise; their border runs aslant."""
    rows, columns = np.mgrid[:height, :width]
    dark = (rows + 2 * columns < (height + 2 * width) / 2)[..., None]
    noise = np.random.default_rng(seed).integers(-9, 10, (height, width, 3))
    return (np.where(dark, [60, 90, 40], [200, 120, 170]) + noise).astype(np.uint8)


def probabilities_of(classes: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(classes, height, width, generator=generator).softmax(dim=0)


@pytest.mark.parametrize("size", [(23, 31), (1, 1), (1, 9), (40, 2)])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_probabilities_sum_to_one_and_keep_their_shape(refine, size, classes):
    given = probabilities_of(classes, *size)
    before = given.clone()
    found = refine(given, an_image(*size))
    assert (found.shape, found.dtype, found.device) == (given.shape, torch.float32, given.device)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(size), rtol=0, atol=1e-5)
    assert torch.equal(given, before)


@pytest.mark.parametrize("size", [(23, 31), (1, 1)])
def test_what_is_the_same_everywhere_stays(smooth, size):
    given = torch.tensor([0.7, 0.3, 0.0])[:, None, None].expand(3, *size)
    torch.testing.assert_close(smooth(given, an_image(*size)), given, rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_without_edges(refine, value):
    """Of gray alone, the covariance of the colours has no inverse but for the ridge."""
    gray = np.full((9, 14, 3), value, np.uint8)
    gray[4] = 7
    found = refine(probabilities_of(3, 9, 14), gray)
    assert found.isfinite().all()
    assert -0.5 < found.min() <= found.max() < 1.5


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels(refine, size):
    found = refine(torch.empty(3, *size), np.empty((*size, 3), np.uint8))
    assert found.shape == (3, *size)


@pytest.mark.parametrize("text", [*SMOOTHING, FIELD])
def test_it_smooths_within_regions_and_keeps_their_border(text):
    smooth = chosen(text)
    image = an_image(40, 50)
    region = torch.from_numpy(image[..., 0] > 130)
    truth = torch.stack([~region, region]).float()
    generator = torch.Generator().manual_seed(2)
    noisy = (truth + 0.9 * torch.randn(2, 40, 50, generator=generator)).softmax(dim=0)
    found = smooth(noisy, image)
    wrong = [(p.argmax(0) != region.long()).float().mean() for p in (noisy, found)]
    assert wrong[0] > 0.15
    assert wrong[1] < 0.8 * wrong[0]


def test_the_same_bits_again_and_from_any_layout(refine):
    image, given = an_image(17, 20), probabilities_of(3, 17, 20)
    once = refine(given, image)
    strided = given.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    image = np.asfortranarray(image)
    image.flags.writeable = False  # as the pixels of an image that Pillow has read
    assert torch.equal(once, refine(strided, image))


def test_an_image_of_another_size_is_refused(refine):
    with pytest.raises(ValueError, match=r"\(4, 5, 3\) for probabilities of \(2, 5, 4\)"):
        refine(torch.zeros(2, 5, 4), np.zeros((4, 5, 3), np.uint8))


def test_its_text_reads_as_itself(refine):
    assert parse_refinement(str(refine)) == refine


def test_none():
    assert choose_refinement(None, 2) is None
    assert choose_refinement("none", 2) is None


@pytest.mark.parametrize("text", ["prior:4:3", "prior:4:3,guided:2:0.1", "guided:2:0.1,prior:4:3"])
def test_a_class_that_is_none_is_refused_before_there_is_an_image(text):
    assert str(choose_refinement(text, 4)) == text
    with pytest.raises(ParamsError, match=r"^prior:4:3: there is no class 3, they are 0 to 2"):
        choose_refinement(text, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prior:4:0,none", "'none' in 'prior:4:0,none' is no step; leave it out"),
        ("none,none", "'none' in 'none,none' is no step; leave it out"),
        ("prior:4:0,guided:8", "'guided:8' in 'prior:4:0,guided:8' is not a refinement: give "),
        ("guided:8:0.1,", "'' in 'guided:8:0.1,' is not a refinement: give "),
        ("prior:4,guided:8:2,prior:1", "'guided:8:2' in 'prior:4,guided:8:2,prior:1' is not a r"),
        ("prior:4," * 30 + "prior:4", "'prior:4,.* is too long: several refinements take 200 ch"),
    ],
)
def test_what_is_wrong_with_one_of_several_is_named(text, said):
    with pytest.raises(ParamsError, match=f"^{said}") as caught:
        parse_refinement(text)
    assert len(str(caught.value)) < 350


@pytest.mark.parametrize(
    "text",
    [
        *("", "guided", "guided:8", "guided:0:0.1", "guided:-3:0.1", "guided:8:0", "guided:8:-1"),
        *("guided:8:nan", "guided:8:inf", "guided:8:1e-400", "guided:8:2"),
        *("guided:8:e", "guided: 8:0.1", "guided:1234567:0.1", "superpixels:0", "superpixels:1.5"),
        *(
            "superpixels:",
            "superpixels:300\n",
            *("crf:3", "crf:0:4:5", "crf:9999:4:5", "crf:9:0:5", "crf:9:51:5", "crf:9:4:1e-4"),
            "prior:0",
            "prior:3:",
            "prior:3:0:1",
            "x" * 10_000,
        ),
    ],
)
def test_what_is_no_refinement(text):
    with pytest.raises(ParamsError, match=r"not a refinement: give none, guided:RADIUS") as caught:
        parse_refinement(text)
    assert len(str(caught.value)) < 350
