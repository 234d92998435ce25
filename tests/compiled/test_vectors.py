"""The innermost steps of compiled loops, each in a loop of its own."""

import numpy as np

from pipeline.compiled import Compiled
from pipeline.compiled.vectors import PANEL, blend, exponentiate, share_weighted_sum, weighted_sum
from pipeline.compiled.writer import BYTES


@Compiled
def powers(values):
    exponentiate(values.ctypes.data, values.size * BYTES)


@Compiled
def blended(a, b, of_a, of_b, out):
    blend(a.ctypes.data, b.ctypes.data, out.ctypes.data, of_a, of_b, out.size * BYTES)


@Compiled
def weighed(rows, weights, out, adds, rectifies):
    places = np.array([row.ctypes.data for row in rows])
    count, length = len(rows), out.size * BYTES
    weighted_sum(
        places.ctypes.data, weights.ctypes.data, count, out.ctypes.data, length, adds, rectifies
    )


@Compiled
def shared(rows, weights, a, b, of_a, of_b):
    places = np.array([row.ctypes.data for row in rows])
    count, length = len(rows), a.size * BYTES
    share_weighted_sum(
        places.ctypes.data, weights.ctypes.data, count, a.ctypes.data, b.ctypes.data, of_a, of_b,
        length,
    )  # fmt: skip


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def test_powers_of_e():
    values = np.linspace(-87, 0, 1000 * PANEL, dtype=np.float32)
    values[:3] = -87, -1e-30, -0.0
    found = values.copy()
    powers(found)
    exact = np.exp(values.astype(np.float64))
    assert np.abs(found / exact - 1).max() < 2e-7
    assert found[2] == 1


def test_powers_of_what_is_far_below_or_no_number():
    values = np.zeros(PANEL, np.float32)
    values[:4] = -np.inf, -1e30, -87.5, np.nan
    powers(values)
    assert (values[:3] == 0).all() and np.isnan(values[3]) and (values[4:] == 1).all()


def test_a_blend_of_two_rows():
    a, b = numbers(2, 3 * PANEL)
    out = np.empty(3 * PANEL, np.float32)
    blended(a, b, np.float32(0.25), np.float32(3), out)
    np.testing.assert_allclose(out, 0.25 * a + 3 * b, rtol=1e-5, atol=1e-6)


def test_a_weighted_sum_of_rows():
    for count in (0, 1, 5):
        rows, weights, there = numbers(count, 2 * PANEL), numbers(count), numbers(2 * PANEL) * 3
        expected = weights.astype(float) @ rows
        for adds in (False, True):
            for rectifies in (False, True):
                out = there.copy() if adds else np.full_like(there, np.nan)
                weighed(rows, weights, out, adds, rectifies)
                total = expected + there * adds
                total = np.maximum(total, 0) if rectifies else total
                np.testing.assert_allclose(out, total, rtol=1e-5, atol=1e-6)


def test_shares_of_a_weighted_sum():
    """They are given to two rows, or twice to the same."""
    rows, weights = numbers(4, PANEL), numbers(4)
    total = weights.astype(float) @ rows
    a, b = numbers(2, PANEL)
    out = a.copy(), b.copy()
    shared(rows, weights, *out, np.float32(0.75), np.float32(0.25))
    np.testing.assert_allclose(out[0], a + 0.75 * total, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[1], b + 0.25 * total, rtol=1e-5, atol=1e-6)
    both = a.copy()
    shared(rows, weights, both, both, np.float32(0.75), np.float32(0.25))
    np.testing.assert_allclose(both, a + total, rtol=1e-5, atol=1e-6)
