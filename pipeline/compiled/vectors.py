"""The innermost steps of compiled loops over rows of float32.

Rows are short, lie in one table, and are weighted and added up, in panels of three vectors; or they
are factors of small products, whose sums have to stay in registers.

A row is given as the address of its first value. The length of a row is in bytes, a multiple of a
panel's where no width is said; two rows are the same one or do not overlap.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.compiled.writer import (
    ADDRESS,
    ADDRESS_BYTES,
    BYTES,
    FLAG,
    LANES,
    NUMBER,
    Writer,
    step,
)

PANEL = 24
"""Values in a panel."""

_VECTORS = [first * BYTES for first in range(0, PANEL, LANES)]


@step(ADDRESS, ADDRESS, ADDRESS, NUMBER, NUMBER, ADDRESS)
def blend(writer: Writer, a: Any, b: Any, out: Any, of_a: Any, of_b: Any, length: Any) -> None:
    """Compute ``out = of_a * a + of_b * b`` for rows of a length."""
    of_a, of_b = writer.everywhere(of_a), writer.everywhere(of_b)

    def on_panel(at: Any) -> Sequence[Any]:
        for offset in _VECTORS:
            place = writer.moved(at, offset)
            of_row = [writer.load(writer.moved(row, place)) for row in (a, b)]
            other = writer.product(of_b, of_row[1])
            total = writer.sum(writer.product(of_a, of_row[0]), other)
            writer.store(total, writer.moved(out, place))
        return ()

    writer.repeat(length, PANEL * BYTES, (), on_panel)


@step(ADDRESS, ADDRESS)
def exponentiate(writer: Writer, row: Any, length: Any) -> None:
    """Compute ``row = e ** row`` for values of at most 0."""

    def on_panel(at: Any) -> Sequence[Any]:
        for offset in _VECTORS:
            place = writer.moved(writer.moved(row, at), offset)
            writer.store(writer.exponential(writer.load(place)), place)
        return ()

    writer.repeat(length, PANEL * BYTES, (), on_panel)


@step(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, FLAG, FLAG)
def weighted_sum(
    writer: Writer,
    rows: Any, weights: Any, count: Any, out: Any, length: Any, adds: Any, rectifies: Any,
) -> None:  # fmt: skip
    """Compute ``out = sum_j weights[j] * rows[j]``.

    ``rows`` is the address of ``count`` addresses, ``weights`` that of as many values. What is in
    ``out`` is added first if ``adds``; in the end zero takes the place of what is less if
    ``rectifies``.
    """

    def on_panel(at: Any) -> Sequence[Any]:
        places = [writer.moved(writer.moved(out, at), offset) for offset in _VECTORS]
        begin = [writer.either(adds, writer.load(place), writer.same(0)) for place in places]
        sums = _weighted(writer, rows, weights, count, at, begin)
        for place, total in zip(places, sums, strict=True):
            writer.store(writer.rectified_if(rectifies, total), place)
        return ()

    writer.repeat(length, PANEL * BYTES, (), on_panel)


@step(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, NUMBER, NUMBER, ADDRESS)
def share_weighted_sum(
    writer: Writer,
    rows: Any, weights: Any, count: Any, a: Any, b: Any, of_a: Any, of_b: Any, length: Any,
) -> None:  # fmt: skip
    """Compute ``a += of_a * s`` and ``b += of_b * s``, with s as in :func:`weighted_sum`."""
    shares = [(a, writer.everywhere(of_a)), (b, writer.everywhere(of_b))]

    def on_panel(at: Any) -> Sequence[Any]:
        sums = _weighted(writer, rows, weights, count, at, [writer.same(0)] * len(_VECTORS))
        for offset, total in zip(_VECTORS, sums, strict=True):
            for out, share in shares:  # the second after the first, as they may be the same
                place = writer.moved(writer.moved(out, at), offset)
                added = writer.sum(writer.product(share, total), writer.load(place))
                writer.store(added, place)
        return ()

    writer.repeat(length, PANEL * BYTES, (), on_panel)


def _weighted(
    writer: Writer, rows: Any, weights: Any, count: Any, at: Any, begin: Sequence[Any]
) -> Sequence[Any]:
    """Add a panel, ``at`` bytes into each of several rows, to the vectors to begin with."""

    def add_row(_j: Any, place: Any, weight: Any, *sums: Any) -> Sequence[Any]:
        row = writer.moved(writer.load_address(place), at)
        factor = writer.load_everywhere(weight)
        added = [
            writer.sum(writer.product(factor, writer.load(writer.moved(row, offset))), total)
            for offset, total in zip(_VECTORS, sums, strict=True)
        ]
        return writer.moved(place, ADDRESS_BYTES), writer.moved(weight, BYTES), *added

    return writer.repeat(count, 1, [rows, weights, *begin], add_row)[2:]


def product_tile(rows: int, columns: int) -> Any:
    """Make the innermost step of a product, for a c of so many rows and columns.

    It computes ``c = begin + a @ b``, with ``rectifies`` as in :func:`weighted_sum`; ``begin`` may
    be c itself, or with a distance of 0 from one row to the next a single row. The sums stay in
    registers (Goto and van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, ACM TOMS
    34(3), 2008, section 5). Each is taken in the order of its terms.
    """
    vectors = [first * BYTES for first in range(0, columns, LANES)]
    tile = [(row, offset) for row in range(rows) for offset in vectors]

    @step(*[ADDRESS] * 10, FLAG)
    def multiply(
        writer: Writer,
        a: Any, a_row: Any, a_term: Any, b: Any, b_term: Any, begin: Any, begin_row: Any,
        c: Any, c_row: Any, depth: Any, rectifies: Any,
    ) -> None:  # fmt: skip
        def places(start: Any, distance: Any) -> list[Any]:
            rows_of = [writer.moved(start, distance, row) for row in range(rows)]
            return [writer.moved(rows_of[row], offset) for row, offset in tile]

        def add_term(_at: Any, of_a: Any, of_b: Any, *sums: Any) -> Sequence[Any]:
            values = {offset: writer.load(writer.moved(of_b, offset)) for offset in vectors}
            factors = [
                writer.load_everywhere(writer.moved(of_a, a_row, row)) for row in range(rows)
            ]
            added = [
                writer.sum(writer.product(factors[row], values[offset]), total)
                for (row, offset), total in zip(tile, sums, strict=True)
            ]
            return writer.moved(of_a, a_term), writer.moved(of_b, b_term), *added

        first = [writer.load(place) for place in places(begin, begin_row)]
        _, _, *sums = writer.repeat(depth, 1, [a, b, *first], add_term)
        for total, place in zip(sums, places(c, c_row), strict=True):
            writer.store(writer.rectified_if(rectifies, total), place)

    return multiply
