"""Products by a matrix in panels, against NumPy's in double precision."""

import numpy as np
import pytest

from pipeline.compiled.panels import ROWS, WIDTH, in_panels, multiply_by_panels, multiply_in_parts

SHAPES = [
    (1, 1, 1), (ROWS, 3, WIDTH), (ROWS + 1, 5, WIDTH + 1), (3, 0, WIDTH),
    (0, 3, WIDTH), (53, 300, 5 * WIDTH - 3),
]  # fmt: skip


def factors(rows, terms, columns):
    random = np.random.default_rng(0)
    shapes = (rows, terms), (terms, columns), (columns,)
    return [random.standard_normal(shape, np.float32) for shape in shapes]


@pytest.mark.parametrize("rectifies", [False, True])
@pytest.mark.parametrize(("rows", "terms", "columns"), SHAPES)
def test_a_product(rows, terms, columns, rectifies):
    """It is put where it belongs, and what lies beside it is not touched."""
    a, b, begin = factors(rows, terms, columns)
    around, c = (
        np.full((rows + 2, terms + 2), np.nan, np.float32),
        np.full((rows + 2, columns + 9), 7.0),
    )
    around[1:-1, 1:-1] = a
    c = c.astype(np.float32)
    multiply_by_panels(
        around[1:-1, 1:-1], in_panels(b), in_panels(begin), rectifies, c[1:-1], 4, columns
    )
    expected = np.full(c.shape, 7.0)
    product = begin + a.astype(float) @ b
    expected[1:-1, 4 : 4 + columns] = np.maximum(product, 0) if rectifies else product
    np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4)


def test_panels():
    matrix = np.arange(2 * 3 * 20, dtype=np.float32).reshape(2, 3, 20)
    found = in_panels(matrix)
    assert found.shape == (2, 2, 3, WIDTH) and found.flags.c_contiguous
    assert np.array_equal(found[0], matrix[..., :WIDTH])
    assert np.array_equal(found[1, ..., :4], matrix[..., WIDTH:])
    assert not found[1, ..., 4:].any()


def test_a_sum_does_not_depend_on_what_is_computed_with_it():
    """Tiles of several rows add up as single rows do, to the last bit."""
    a, b, begin = factors(ROWS + 1, 300, WIDTH)
    panels, first = in_panels(b), in_panels(begin)
    whole, single = np.empty((len(a), WIDTH), np.float32), np.empty((1, WIDTH), np.float32)
    multiply_by_panels(a, panels, first, False, whole, 0, WIDTH)
    for row in range(len(a)):
        multiply_by_panels(a[row : row + 1], panels, first, False, single, 0, WIDTH)
        assert np.array_equal(single[0], whole[row])


def test_nor_on_the_number_of_threads():
    a, b, begin = factors(40, 30, 20)
    given = a, in_panels(b), in_panels(begin), True
    whole, found = np.zeros((40, 20), np.float32), np.zeros((40, 20), np.float32)
    multiply_by_panels(*given, whole, 0, 20)
    for parts in (1, 2, 3, 50):
        found[:] = np.nan
        multiply_in_parts(*given, found, 0, 20, parts)
        assert np.array_equal(found, whole)


def test_what_is_not_a_number_stays_so():
    a, b = np.array([[np.nan], [-np.inf], [np.inf]], np.float32), np.ones((1, WIDTH), np.float32)
    c = np.empty((3, WIDTH), np.float32)
    multiply_by_panels(a, in_panels(b), np.zeros((1, WIDTH), np.float32), True, c, 0, WIDTH)
    assert np.isnan(c[0]).all() and (c[1] == 0).all() and np.isinf(c[2]).all()


@pytest.mark.parametrize(
    ("a", "b", "begin", "c", "first", "columns"),
    [
        ((4, 3), (2, WIDTH), WIDTH, (4, WIDTH), 0, WIDTH),
        ((4, 3), (3, WIDTH), WIDTH, (5, WIDTH), 0, WIDTH),
        ((4, 3), (3, WIDTH), WIDTH, (4, WIDTH), 1, WIDTH),
        ((4, 3), (3, WIDTH), WIDTH, (4, 2 * WIDTH), -1, WIDTH),
        ((4, 3), (3, WIDTH), WIDTH, (4, 2 * WIDTH), 0, WIDTH + 1),
        ((4, 3), (3, 2 * WIDTH), 2 * WIDTH, (4, 2 * WIDTH), 0, WIDTH),
        ((4, 3), (3, 2 * WIDTH), WIDTH, (4, 2 * WIDTH), 0, 2 * WIDTH),
    ],
)
def test_shapes_that_do_not_fit_are_refused(a, b, begin, c, first, columns):
    a, b, begin, c = (np.zeros(shape, np.float32) for shape in (a, b, begin, c))
    given = a, in_panels(b), in_panels(begin), False, c, first, columns
    with pytest.raises(ValueError):
        multiply_by_panels(*given)
    with pytest.raises(ValueError):
        multiply_in_parts(*given, 2)


def test_rows_that_are_not_in_one_piece_are_refused():
    a, b, c = np.zeros((3, 4), np.float32).T, np.zeros((3, WIDTH), np.float32), np.zeros((4, WIDTH))
    with pytest.raises(ValueError, match="in one piece"):
        multiply_by_panels(
            a, in_panels(b), np.zeros((1, WIDTH), np.float32), False, c.astype(np.float32), 0, WIDTH
        )
