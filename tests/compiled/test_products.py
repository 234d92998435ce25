"""Products of matrices for compiled loops, against NumPy's in double precision."""

import numpy as np
import pytest

from pipeline.compiled.products import PANEL, multiply, multiply_narrow, padded, transpose

SHAPES = [(1, 1, 1), (4, 3, PANEL), (7, 5, PANEL), (56, 512, PANEL), (21, 57, 528), (3, 0, PANEL)]


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("rectifies", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "terms", "columns"), SHAPES)
def test_a_product(rows, terms, columns, transposed, adds, rectifies):
    random = np.random.default_rng(0)
    a = random.standard_normal((rows, terms), np.float32)
    b = random.standard_normal((terms, padded(columns)), np.float32)
    c = random.standard_normal((rows, padded(columns)), np.float32)
    expected = a.astype(float) @ b + (c if adds else 0)
    if rectifies:
        expected = np.maximum(expected, 0)
    if not adds:
        c[:] = np.nan
    multiply(np.asfortranarray(a) if transposed else a, b, c, adds, rectifies)
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


def test_parts_of_larger_matrices():
    """What lies beside them is not touched."""
    random = np.random.default_rng(0)
    a, b = random.random((9, 11), np.float32), random.random((12, 3 * PANEL), np.float32)
    c = np.full((10, 4 * PANEL), 7, np.float32)
    multiply(a[1:8, 2:9:2], b[3:7, PANEL:], c[2:9, PANEL : 3 * PANEL])
    expected = np.full((10, 4 * PANEL), 7.0)
    expected[2:9, PANEL : 3 * PANEL] = a[1:8, 2:9:2].astype(float) @ b[3:7, PANEL:]
    np.testing.assert_allclose(c, expected, rtol=1e-5)


def test_a_sum_does_not_depend_on_what_is_computed_with_it():
    """Tiles of several rows add up as single rows do, to the last bit."""
    random = np.random.default_rng(0)
    a, b = random.random((7, 300), np.float32), random.random((300, PANEL), np.float32)
    whole, single = np.empty((7, PANEL), np.float32), np.empty((1, PANEL), np.float32)
    multiply(a, b, whole)
    for row in range(7):
        multiply(a[row : row + 1], b, single)
        assert np.array_equal(single[0], whole[row])


def test_what_is_not_a_number_stays_so():
    a, b = np.array([[np.nan], [-np.inf], [np.inf]], np.float32), np.ones((1, PANEL), np.float32)
    c = np.empty((3, PANEL), np.float32)
    multiply(a, b, c, rectifies=True)
    assert np.isnan(c[0]).all() and (c[1] == 0).all() and np.isinf(c[2]).all()


@pytest.mark.parametrize(
    ("a", "b", "c"),
    [
        ((4, 3), (2, PANEL), (4, PANEL)),
        ((4, 3), (3, PANEL), (5, PANEL)),
        ((4, 3), (3, 2 * PANEL), (4, PANEL)),
        ((4, 3), (3, 21), (4, 21)),
    ],
)
def test_matrices_that_do_not_fit(a, b, c):
    with pytest.raises(ValueError, match="do not fit"):
        multiply(*(np.zeros(shape, np.float32) for shape in (a, b, c)))


def test_rows_that_are_not_in_one_piece():
    a, b = np.zeros((4, 3), np.float32), np.zeros((PANEL, 3), np.float32).T
    with pytest.raises(ValueError, match="not in one piece"):
        multiply(a, b, np.zeros((4, PANEL), np.float32))
    nothing, backwards = np.zeros((0, PANEL), np.float32), np.zeros((4, PANEL), np.float32)[:, ::-1]
    with pytest.raises(ValueError, match="not in one piece"):
        multiply(a[:, :0], nothing, backwards)


def test_values_of_another_size():
    a, b = np.zeros((4, 3)), np.zeros((3, PANEL), np.float32)
    with pytest.raises(ValueError, match="another dtype"):
        multiply(a, b, np.zeros((4, PANEL), np.float32))


@pytest.mark.parametrize("shape", [(4, 2), (5, 1)])
def test_few_columns_that_do_not_fit(shape):
    a, b = np.zeros((3, 5), np.float32), np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        multiply_narrow(a, b, np.zeros(shape, np.float32))


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize(
    ("rows", "terms", "columns"), [(1, 1, 1), (24, 7, 2), (71, 96, 21), (5, 3, 63)]
)
def test_a_product_of_few_columns(rows, terms, columns, adds):
    random = np.random.default_rng(0)
    a, b = random.random((terms, rows), np.float32), random.random((columns, terms), np.float32)
    c = random.random((rows, columns + 3), np.float32)
    expected = c.astype(float)
    expected[:, :columns] = a.T.astype(float) @ b.T + (c[:, :columns] if adds else 0)
    if not adds:
        c[:, :columns] = np.nan
    multiply_narrow(a, b, c, adds)
    np.testing.assert_allclose(c, expected, rtol=1e-5)


def test_a_transposed_array():
    random = np.random.default_rng(0)
    for shape in ((1, 1), (5, 700), (700, 5), (0, 3)):
        a = random.random(shape, np.float32)
        b = np.zeros((shape[1], shape[0] + 2), np.float32)
        transpose(a, b[:, 1:-1])
        assert np.array_equal(b[:, 1:-1], a.T) and not b[:, [0, -1]].any()
