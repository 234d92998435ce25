"""Preprocessing against formulas written out pixel by pixel."""

import json

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tvf

from pipeline.backbones import Preprocessing
from pipeline.errors import BackboneError, ParamsError


def random_image(height, width):
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("input_size", "size", "expected"),
    [
        ("224", (375, 500), (224, 224)),
        ("7", (3, 3), (7, 7)),
        ("native", (375, 500), (375, 500)),
        ("short:320", (375, 500), (320, 427)),  # 426.67 is nearer to 427
        ("short:320", (500, 375), (427, 320)),
        ("short:3", (2, 3), (3, 5)),  # 4.5 is rounded up
        ("short:100", (100, 333), (100, 333)),
        ("short:1", (1000, 3), (333, 1)),
    ],
)
def test_target_size(input_size, size, expected):
    assert Preprocessing(input_size=input_size).target_size(*size) == expected


@pytest.mark.parametrize(
    "input_size", ["", "0", "-1", "224.0", "short:0", "short:", "long:3", "Native", " 224", 224]
)
def test_other_input_sizes_are_refused(input_size):
    with pytest.raises(ParamsError, match=r"short:320"):
        Preprocessing(input_size=input_size)


@pytest.mark.parametrize("input_size", ["10001", "short:10001", "9" * 5000, "short:" + "9" * 5000])
def test_input_sizes_without_bounds_are_refused(input_size):
    with pytest.raises(ParamsError, match="is too large; choose 10000 at most") as caught:
        Preprocessing(input_size=input_size)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (2, 2_000_000)])
def test_an_image_that_would_grow_beyond_bounds_is_refused(size):
    preprocessing = Preprocessing(input_size="short:224")
    with pytest.raises(BackboneError, match=r"becomes .*, more than 100 million pixels; cut it"):
        preprocessing.target_size(*size)
    # Before memory is taken for it, which would be 1.5 GB.
    image = np.broadcast_to(np.zeros(3, np.uint8), (*size, 3))
    with pytest.raises(BackboneError):
        preprocessing.resize_image(image)
    with pytest.raises(BackboneError):
        preprocessing.resize_mask(image[..., 0])


def test_the_largest_sizes_are_taken():
    assert Preprocessing(input_size="10000").target_size(3, 5) == (10_000, 10_000)
    assert Preprocessing(input_size="native").target_size(1, 10**8) == (1, 10**8)


def test_other_normalizations_are_refused():
    with pytest.raises(ParamsError, match="'imagenet' or 'raw'"):
        Preprocessing(normalization="none")  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width", "size"), [(5, 9, "4"), (3, 2, "7"), (6, 4, "short:9")])
def test_mask_is_resized_to_the_nearest_pixel_centre(height, width, size):
    preprocessing = Preprocessing(input_size=size)
    mask = np.random.default_rng(1).integers(0, 256, (height, width), dtype=np.uint8)
    resized = preprocessing.resize_mask(mask)
    target_height, target_width = preprocessing.target_size(height, width)
    assert resized.shape == (target_height, target_width)
    assert resized.dtype == np.uint8
    for i in range(target_height):
        for j in range(target_width):
            y = int((i + 0.5) * height / target_height)
            x = int((j + 0.5) * width / target_width)
            assert resized[i, j] == mask[y, x]


def test_image_is_resized_bilinearly_with_antialiasing():
    image = random_image(37, 23)
    for size in ("16", "50"):
        side = int(size)
        tensor = torch.from_numpy(image).permute(2, 0, 1).float()
        expected = tvf.resize(tensor, [side, side], antialias=True).permute(1, 2, 0).numpy()
        resized = Preprocessing(input_size=size).resize_image(image)
        assert resized.dtype == np.uint8
        # Pillow rounds to whole values after each of its two passes.
        np.testing.assert_allclose(resized, expected, atol=1.5)


def test_image_and_mask_are_resized_by_the_same_geometry():
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[7:19, 31:44] = 200
    image = np.repeat(mask[:, :, None], 3, axis=2)
    preprocessing = Preprocessing(input_size="short:97")
    shrunk, label = preprocessing.resize_image(image), preprocessing.resize_mask(mask)
    assert shrunk.shape[:2] == label.shape
    assert np.mean((shrunk[:, :, 0] > 100) != (label > 100)) < 0.005


def test_native_size_changes_no_value():
    image = random_image(5, 7)
    preprocessing = Preprocessing(input_size="native")
    np.testing.assert_array_equal(preprocessing.resize_image(image), image)
    np.testing.assert_array_equal(preprocessing.resize_mask(image[:, :, 0]), image[:, :, 0])


def test_normalize_imagenet_equals_torchvision():
    image = random_image(5, 7)
    expected = tvf.normalize(
        tvf.to_tensor(image), mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    values = Preprocessing().normalize(image)
    assert values.dtype == np.float32
    assert values.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(values, expected.numpy(), rtol=0, atol=1e-6)


def test_normalize_raw_only_changes_layout_and_dtype():
    image = random_image(5, 7)
    values = Preprocessing(normalization="raw").normalize(image)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.moveaxis(image, 2, 0))


def test_dictionary_and_back():
    preprocessing = Preprocessing(normalization="raw", input_size="short:320")
    fields = json.loads(json.dumps(preprocessing.as_dict()))
    assert Preprocessing.from_dict(fields) == preprocessing


@pytest.mark.parametrize("fields", [{}, {"normalization": "raw"}, {"mean": 0, "input_size": "9"}])
def test_dictionary_of_other_fields_is_refused(fields):
    with pytest.raises(ParamsError, match="exactly"):
        Preprocessing.from_dict(fields)
