"""Stored maps: what comes back, how far it is off, and what is refused."""

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.cache.encoding import BYTES_PER_VALUE, StoredArray, encode
from pipeline.errors import CacheOverflowError, PipelineError

DTYPES = tuple(BYTES_PER_VALUE)
LARGEST = float(np.finfo(np.float32).max)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


def maps(limit: float):
    bound = float(np.float32(limit))
    return arrays(np.float32, SHAPES, elements=st.floats(-bound, bound, width=32))


def stored(values, dtype):
    return encode(values, dtype, image_id="i", tap="t")


@settings(max_examples=60, deadline=None)
@given(maps(LARGEST))
def test_float32_comes_back_as_it_was(values):
    np.testing.assert_array_equal(stored(values, "float32").decoded(), values)


@settings(max_examples=60, deadline=None)
@given(maps(65504))
def test_float16_is_off_by_half_a_step_at_most(values):
    back = stored(values, "float16").decoded()
    # Ten bits behind the leading one; below 2**-14 the steps stay 2**-24.
    bound = np.maximum(np.abs(values).astype(np.float64) * 2.0**-11, 2.0**-25)
    assert (np.abs(back.astype(np.float64) - values) <= bound).all()


@settings(max_examples=150, deadline=None)
@given(maps(3e38))
def test_int8_is_off_by_half_a_step_of_its_channel_at_most(values):
    found = stored(values, "int8")
    scale = found.scale
    assert found.values.dtype == np.int8
    assert scale.shape == (len(values),)
    off = np.abs(found.decoded().astype(np.float64) - values)
    assert (off <= scale.astype(np.float64)[:, None, None] * (0.5 + 1e-4)).all()
    peak = np.abs(values).max(axis=(1, 2))
    normal = peak > 1e-30
    np.testing.assert_allclose(scale[normal], peak[normal] / 127, rtol=1e-6)


def test_int8_uses_its_whole_range_in_every_channel():
    values = np.array([[[-2.0, 1.0]], [[1e-3, -1e-3]], [[0.0, 0.0]]], np.float32)
    found = stored(values, "int8")
    expected = [[[-127, 64]], [[127, -127]], [[0, 0]]]  # 63.5 goes to the even one
    assert found.values.tolist() == expected
    assert (found.decoded()[2] == 0).all()


@pytest.mark.parametrize("units", [1, 100, 190, 10**6])
def test_int8_of_values_below_the_normal_numbers(units):
    values = np.array([[[units, -units]]], np.float32) * np.float32(2.0**-149)
    assert (np.abs(stored(values, "int8").decoded() - values) <= np.abs(values)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_of_zeros(dtype):
    values = np.zeros((3, 2, 2), np.float32)
    back = stored(values, dtype).decoded()
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_per_value(dtype):
    found = stored(np.ones((1, 2, 3), np.float32), dtype)
    assert found.values.nbytes == 6 * BYTES_PER_VALUE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(dtype, value):
    values = np.ones((2, 3, 3), np.float32)
    values[1, 2, 0] = value
    with pytest.raises(CacheOverflowError, match=r"image cat_1, tap fire9: .*not finite"):
        encode(values, dtype, image_id="cat_1", tap="fire9")


@pytest.mark.parametrize("sign", [1, -1])
def test_overflow_names_image_tap_and_remedy(sign):
    values = np.ones((2, 3, 3), np.float32)
    values[0, 0, 1] = sign * 70000
    with pytest.raises(CacheOverflowError) as caught:
        encode(values, "float16", image_id="cat_1", tap="fire9")
    message = str(caught.value)
    assert "\n" not in message
    for part in ("cat_1", "fire9", "70000", "float16", "--dtype float32", "--input imagenet"):
        assert part in message
    assert isinstance(caught.value, PipelineError)
    assert isinstance(caught.value, OverflowError)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 5, 7), (7, 1, 1), (3, 2, 2), (64, 13, 9), (96, 109, 101), (700, 30, 41)],
)
def test_what_is_stored_does_not_depend_on_memory_order(dtype, shape):
    """Maps come with channels last from the CPU, and may be some channels of a larger one."""
    values = np.random.default_rng(0).normal(0, 9, shape).astype(np.float32)
    channels_last = np.ascontiguousarray(values.transpose(1, 2, 0)).transpose(2, 0, 1)
    larger = np.full((*shape[1:], shape[0] + 9), np.nan, np.float32)
    larger[..., 5:-4] = values.transpose(1, 2, 0)
    plain = stored(values, dtype)
    orders = channels_last, larger[..., 5:-4].transpose(2, 0, 1), values[:, ::-1][:, ::-1]
    for order in (*orders, np.asfortranarray(values)):
        found = stored(order, dtype)
        assert found.values.flags.c_contiguous
        assert found.digest == plain.digest
    if dtype != "int8":
        np.testing.assert_array_equal(found.values, values.astype(dtype))
    else:
        expected = np.round(values / plain.scale[:, None, None]).astype(np.int8)
        np.testing.assert_array_equal(found.values, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("other", ["float16", "float64", ">f4"])
def test_values_of_another_dtype(dtype, other):
    values = np.random.default_rng(0).normal(0, 9, (9, 4, 5)).astype(other)
    assert stored(values, dtype).digest == stored(values.astype(np.float32), dtype).digest


def test_float16_is_rounded_as_numpy_rounds():
    """All float16, what is halfway between two, and what is beside that; and any bits."""
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (half[:-1] + half[1:]) / 2
    bits = np.random.default_rng(0).integers(0, 1 << 31, 200_000).astype(np.uint32)
    any_values = bits.view(np.float32)
    beside = [np.nextafter(between, np.float32(to)) for to in (-1, 1e9)]
    values = np.concatenate([half, between, *beside, any_values[any_values < 65520]])
    values = np.concatenate([values, -values])
    for order in ("C", "F"):
        found = stored(
            np.asarray(values[: len(values) // 16 * 16].reshape(16, -1, 1), order=order), "float16"
        )
        expected = values[: found.values.size].astype(np.float16)
        assert np.array_equal(found.values.reshape(-1).view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("value", [65520, 1e38, -65520])
def test_the_least_that_does_not_fit_float16(value):
    values = np.full((3, 9, 7), np.float32(65519.996), np.float32)
    assert np.isfinite(stored(values, "float16").values).all()
    values[1, 8, 6] = value
    with pytest.raises(CacheOverflowError, match="does not fit float16"):
        stored(values, "float16")


def test_the_largest_float16_is_no_overflow():
    values = np.full((1, 1, 1), 65504, np.float32)
    np.testing.assert_array_equal(stored(values, "float16").decoded(), values)


def test_digest_is_xxh3_of_dtype_shape_scale_and_bytes():
    array = np.arange(12, dtype=np.int8).reshape(3, 2, 2)
    scale = np.array([1.0, 0.5, 2.0], np.float32)
    content = b"|i1(3, 2, 2)" + scale.tobytes() + array.tobytes()
    assert StoredArray(array, scale).digest == xxhash.xxh3_128_hexdigest(content)
    variants = [
        (array, scale),
        (array, None),
        (array, scale[::-1]),
        (array.reshape(3, 4), scale),
        (array.view(np.uint8), scale),
        (array[::-1], scale),
    ]
    assert len({StoredArray(*variant).digest for variant in variants}) == 6


def test_digest_does_not_depend_on_memory_order():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    assert StoredArray(np.asfortranarray(array)).digest == StoredArray(array).digest


def test_float16_is_what_numpy_makes_of_it():
    """All values there are, and values around the borders of rounding and of the range."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(1, 1, -1)
    np.testing.assert_array_equal(StoredArray(finite).decoded(), finite.astype(np.float32))
    borders = np.unique(finite).astype(np.float32)
    middles = (borders[1:] + borders[:-1]) / 2
    values = np.concatenate([borders, middles, np.nextafter(middles, np.float32(0))])
    found = stored(values.reshape(1, 1, -1), "float16").values
    np.testing.assert_array_equal(found.ravel(), values.astype(np.float16))
