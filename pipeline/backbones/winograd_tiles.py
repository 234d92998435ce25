"""The sums around the products of :mod:`pipeline.backbones.winograd`, of one tile or kernel.

Each is for eight channels, which lie side by side in memory; addresses and distances are in bytes.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.compiled.writer import ADDRESS, ADDRESS_BYTES, FLAG, Writer, step


@step(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS)
def tile_to_products(
    writer: Writer, rows: Any, offset: Any, cell: Any, products: Any, distance: Any
) -> None:
    """Compute B^T d B for a tile d of 6x6 inputs.

    Parameters
    ----------
    writer
    rows
        Where the addresses of the six rows of the tile lie.
    offset
        How far into a row the channels of its first cell lie.
    cell
        From one cell to the next.
    products, distance
        Where the first of 36 results is put, and how far from it the second one.
    """
    starts = [
        writer.moved(writer.load_address(writer.moved(rows, ADDRESS_BYTES, i)), offset)
        for i in range(6)
    ]
    columns = [
        _six(writer, [writer.load(writer.moved(start, cell, column)) for start in starts])
        for column in range(6)
    ]
    for row in range(6):
        for column, value in enumerate(_six(writer, [values[row] for values in columns])):
            writer.store(value, writer.moved(products, distance, 6 * row + column))


@step(ADDRESS, ADDRESS, ADDRESS, ADDRESS)
def kernel_to_products(
    writer: Writer, kernel: Any, weight: Any, products: Any, distance: Any
) -> None:
    """Compute G g G^T for a kernel g of 3x3 weights.

    Parameters
    ----------
    writer
    kernel, weight
        Where the first of nine weights lies, and how far from it the second one.
    products, distance
        Where the first of 36 results is put, and how far from it the second one.
    """
    columns = [
        _six_of_three(
            writer,
            [writer.load(writer.moved(kernel, weight, 3 * row + column)) for row in range(3)],
        )
        for column in range(3)
    ]
    for row in range(6):
        for column, value in enumerate(_six_of_three(writer, [values[row] for values in columns])):
            writer.store(value, writer.moved(products, distance, 6 * row + column))


@step(ADDRESS, ADDRESS, ADDRESS, FLAG, ADDRESS, ADDRESS, ADDRESS)
def tile_from_products(
    writer: Writer,
    products: Any, distance: Any, bias: Any, rectifies: Any, out: Any, row: Any, cell: Any,
) -> None:  # fmt: skip
    """Compute A^T m A for the 36 products m of a tile, and add the bias.

    Parameters
    ----------
    writer
    products, distance
        Where the first of them lies, and how far from it the second one.
    bias
        Where it lies.
    rectifies
        Whether zero takes the place of what is less.
    out, row, cell
        Where the first of 4x4 outputs is put, and how far from it the next row and the next cell.
    """
    columns = [
        _four(
            writer,
            [writer.load(writer.moved(products, distance, 6 * row + column)) for row in range(6)],
        )
        for column in range(6)
    ]
    added = writer.load(bias)
    for y in range(4):
        begin = writer.moved(out, row, y)
        for x, value in enumerate(_four(writer, [values[y] for values in columns])):
            total = writer.sum(value, added)
            writer.store(writer.rectified_if(rectifies, total), writer.moved(begin, cell, x))


def _six(writer: Writer, d: Sequence[Any]) -> list[Any]:
    """Compute B^T d (Lavin and Gray, section 4.2)."""

    def times(factor: float, vector: Any) -> Any:
        return writer.product(writer.same(factor), vector)

    even, odd = writer.difference(d[4], times(4, d[2])), writer.difference(d[3], times(4, d[1]))
    outer, inner = writer.difference(d[4], d[2]), times(2, writer.difference(d[3], d[1]))
    return [
        writer.sum(writer.difference(times(4, d[0]), times(5, d[2])), d[4]),
        writer.sum(even, odd),
        writer.difference(even, odd),
        writer.sum(outer, inner),
        writer.difference(outer, inner),
        writer.sum(writer.difference(times(4, d[1]), times(5, d[3])), d[5]),
    ]


def _six_of_three(writer: Writer, g: Sequence[Any]) -> list[Any]:
    """Compute G g."""

    def times(factor: float, vector: Any) -> Any:
        return writer.product(writer.same(factor), vector)

    outer, inner = times(-1 / 6, writer.sum(g[0], g[2])), times(1 / 6, g[1])
    wide, narrow = writer.sum(times(1 / 24, g[0]), times(1 / 6, g[2])), times(1 / 12, g[1])
    return [
        times(1 / 4, g[0]),
        writer.difference(outer, inner),
        writer.sum(outer, inner),
        writer.sum(wide, narrow),
        writer.difference(wide, narrow),
        g[2],
    ]


def _four(writer: Writer, m: Sequence[Any]) -> list[Any]:
    """Compute A^T m."""

    def times(factor: float, vector: Any) -> Any:
        return writer.product(writer.same(factor), vector)

    sum_12, difference_12 = writer.sum(m[1], m[2]), writer.difference(m[1], m[2])
    sum_34, difference_34 = writer.sum(m[3], m[4]), writer.difference(m[3], m[4])
    return [
        writer.sum(m[0], sum_12, sum_34),
        writer.sum(difference_12, times(2, difference_34)),
        writer.sum(sum_12, times(4, sum_34)),
        writer.sum(difference_12, times(8, difference_34), m[5]),
    ]
