"""The innermost steps of compiled loops, in LLVM's instructions: rows of float32, in panels.

Numba compiles a loop well if it is long and its arrays can be told apart. Here rows are short, lie
in one table, and are weighted and added up; or they are factors of small products, whose sums have
to stay in registers. A panel is three vectors of eight values. On a processor with shorter vectors
LLVM divides them, of longer ones it uses half.

A row is given as the address of its first value. Addresses and distances are in bytes, as is the
length of a row, a multiple of a panel's; two rows are the same one or do not overlap. A product and
a sum become one instruction where the processor has it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

PANEL = 24
"""Values in a panel."""

BYTES = 4
"""Of a value."""

_LANES = 8
_VECTORS = [first * BYTES for first in range(0, PANEL, _LANES)]
_FUSED = ("contract",)
_LN2 = 0.693359375, -2.12194440e-4
"""Of the first the product with a whole number is exact."""
_POLYNOMIAL = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3,
    4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
_VALUE = ir.FloatType()
_VECTOR = ir.VectorType(_VALUE, _LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * _LANES)


class _Writer:
    """Writes instructions."""

    def __init__(self, builder: ir.IRBuilder, whole: ir.IntType) -> None:
        self._builder, self._whole = builder, whole

    def moved(self, address: Any, distance: Any, times: int = 1) -> Any:
        """Add a distance, given in bytes or as a value that is known when this runs."""
        if isinstance(distance, int):
            return self._builder.add(address, self._whole(distance * times))
        return self._builder.add(address, self._builder.mul(distance, self._whole(times)))

    def load(self, address: Any) -> Any:
        """Give the vector at an address."""
        found = self._builder.load(self._builder.inttoptr(address, _VECTOR.as_pointer()))
        found.align = BYTES
        return found

    def store(self, vector: Any, address: Any) -> None:
        place = self._builder.inttoptr(address, _VECTOR.as_pointer())
        self._builder.store(vector, place).align = BYTES

    def load_everywhere(self, address: Any) -> Any:
        """Give a vector of one value, that at an address."""
        return self.everywhere(
            self._builder.load(self._builder.inttoptr(address, _VALUE.as_pointer()))
        )

    def everywhere(self, value: Any) -> Any:
        """Give a vector of one value."""
        lane, unknown = ir.IntType(32), ir.Constant(_VECTOR, ir.Undefined)
        first = self._builder.insert_element(unknown, value, lane(0))
        zeros = ir.Constant(ir.VectorType(lane, _LANES), [0] * _LANES)
        return self._builder.shuffle_vector(first, unknown, zeros)

    def product(self, a: Any, b: Any) -> Any:
        return self._builder.fmul(a, b, flags=_FUSED)

    def sum(self, a: Any, b: Any) -> Any:
        return self._builder.fadd(a, b, flags=_FUSED)

    def exponential(self, vector: Any) -> Any:
        """Give e to the power of values of at most 0, to 1e-7 of it; nothing below e^-87.

        ``e^x = 2^n e^r`` for a whole n and an r of at most ln(2) / 2, of which the power is a
        polynomial (Cephes, Moshier 1984 to 1992, ``expf``).
        """
        builder = self._builder

        def same(value: float) -> Any:
            return ir.Constant(_VECTOR, [value] * _LANES)

        # Beyond 2^23 a float32 has no places behind the point: its last bits are n.
        whole = ir.VectorType(ir.IntType(32), _LANES)
        shift = same(1.5 * 2**23)
        shifted = self.sum(self.product(vector, same(1 / math.log(2))), shift)
        n = builder.fsub(shifted, shift)
        rest = vector
        for part in _LN2:
            rest = builder.fsub(rest, self.product(n, same(part)), flags=_FUSED)
        power = same(_POLYNOMIAL[0])
        for coefficient in (*_POLYNOMIAL[1:], 1.0, 1.0):
            power = self.sum(self.product(power, rest), same(coefficient))
        # To multiply by 2^n, add n to the exponent.
        exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * _LANES))
        scaled = builder.bitcast(builder.add(builder.bitcast(power, whole), exponent), _VECTOR)
        small = builder.fcmp_ordered("<", vector, same(-87))
        no_number = builder.fcmp_unordered("uno", vector, vector)
        return builder.select(small, _ZEROS, builder.select(no_number, vector, scaled))

    def rectified(self, vector: Any) -> Any:
        """Give a vector with zero in the place of what is less."""
        negative = self._builder.fcmp_ordered("<", vector, _ZEROS)  # which NaN is not
        return self._builder.select(negative, _ZEROS, vector)

    def either(self, condition: Any, vector: Any, other: Any) -> Any:
        """Give the one vector if a condition holds, else the other one."""
        return self._builder.select(condition, vector, other)

    def weighted(
        self, rows: Any, weights: Any, count: Any, at: Any, begin: Sequence[Any]
    ) -> Sequence[Any]:
        """Add a panel, ``at`` bytes into each of several rows, to the vectors to begin with."""
        address = rows.type.as_pointer()

        def add_row(_j: Any, place: Any, weight: Any, *sums: Any) -> Sequence[Any]:
            row = self.moved(self._builder.load(self._builder.inttoptr(place, address)), at)
            factor = self.load_everywhere(weight)
            added = [
                self.sum(self.product(factor, self.load(self.moved(row, offset))), total)
                for offset, total in zip(_VECTORS, sums, strict=True)
            ]
            return self.moved(place, rows.type.width // 8), self.moved(weight, BYTES), *added

        return self.repeat(count, 1, [rows, weights, *begin], add_row)[2:]

    def repeat(
        self, end: Any, step: int, first: Sequence[Any], body: Callable[..., Sequence[Any]]
    ) -> Sequence[Any]:
        """Turn values into ``body(at, *values)`` for every ``at`` in ``range(0, end, step)``."""
        builder, zero = self._builder, self._whole(0)
        before, inside = builder.block, builder.append_basic_block()
        behind = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", zero, end), inside, behind)

        builder.position_at_end(inside)
        values = [builder.phi(value.type) for value in (zero, *first)]
        at = values[0]
        then = [builder.add(at, self._whole(step)), *body(*values)]
        last_inside = builder.block  # another one, if there are loops in this one
        for value, at_first, next_one in zip(values, (zero, *first), then, strict=True):
            value.add_incoming(at_first, before)
            value.add_incoming(next_one, last_inside)
        builder.cbranch(builder.icmp_signed("<", then[0], end), inside, behind)

        builder.position_at_end(behind)
        results = [builder.phi(value.type) for value in first]
        for result, at_first, last in zip(results, first, then[1:], strict=True):
            result.add_incoming(at_first, before)
            result.add_incoming(last, last_inside)
        return results


def _generator(write: Callable[..., None]) -> Callable[..., Any]:
    """Turn a function of a writer and arguments into what Numba asks of an intrinsic."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        write(_Writer(builder, context.get_value_type(types.intp)), *arguments)
        return context.get_dummy_value()

    return generate


@intrinsic
def blend(_context, a, b, out, of_a, of_b, length):  # type: ignore[no-untyped-def]
    """Compute ``out = of_a * a + of_b * b`` for rows of a length."""

    def write(writer: _Writer, a: Any, b: Any, out: Any, of_a: Any, of_b: Any, length: Any) -> None:
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

    rows, weights = [types.intp] * 3, [types.float32] * 2
    return types.void(*rows, *weights, types.intp), _generator(write)


@intrinsic
def exponentiate(_context, row, length):  # type: ignore[no-untyped-def]
    """Compute ``row = e ** row`` for values of at most 0."""

    def write(writer: _Writer, row: Any, length: Any) -> None:
        def on_panel(at: Any) -> Sequence[Any]:
            for offset in _VECTORS:
                place = writer.moved(writer.moved(row, at), offset)
                writer.store(writer.exponential(writer.load(place)), place)
            return ()

        writer.repeat(length, PANEL * BYTES, (), on_panel)

    return types.void(types.intp, types.intp), _generator(write)


@intrinsic
def weighted_sum(_context, rows, weights, count, out, length, adds, rectifies):  # type: ignore[no-untyped-def]
    """Compute ``out = sum_j weights[j] * rows[j]``.

    ``rows`` is the address of ``count`` addresses, ``weights`` that of as many values. What is in
    ``out`` is added first if ``adds``; in the end zero takes the place of what is less if
    ``rectifies``.
    """

    def write(
        writer: _Writer,
        rows: Any, weights: Any, count: Any, out: Any, length: Any, adds: Any, rectifies: Any,
    ) -> None:  # fmt: skip
        def on_panel(at: Any) -> Sequence[Any]:
            places = [writer.moved(writer.moved(out, at), offset) for offset in _VECTORS]
            begin = [writer.either(adds, writer.load(place), _ZEROS) for place in places]
            sums = writer.weighted(rows, weights, count, at, begin)
            for place, total in zip(places, sums, strict=True):
                writer.store(writer.either(rectifies, writer.rectified(total), total), place)
            return ()

        writer.repeat(length, PANEL * BYTES, (), on_panel)

    return types.void(*[types.intp] * 5, *[types.boolean] * 2), _generator(write)


@intrinsic
def share_weighted_sum(_context, rows, weights, count, a, b, of_a, of_b, length):  # type: ignore[no-untyped-def]
    """Compute ``a += of_a * s`` and ``b += of_b * s``, with s as in :func:`weighted_sum`."""

    def write(
        writer: _Writer,
        rows: Any, weights: Any, count: Any, a: Any, b: Any, of_a: Any, of_b: Any, length: Any,
    ) -> None:  # fmt: skip
        shares = [(a, writer.everywhere(of_a)), (b, writer.everywhere(of_b))]

        def on_panel(at: Any) -> Sequence[Any]:
            sums = writer.weighted(rows, weights, count, at, [_ZEROS] * len(_VECTORS))
            for offset, total in zip(_VECTORS, sums, strict=True):
                for out, share in shares:  # the second after the first, as they may be the same
                    place = writer.moved(writer.moved(out, at), offset)
                    added = writer.sum(writer.product(share, total), writer.load(place))
                    writer.store(added, place)
            return ()

        writer.repeat(length, PANEL * BYTES, (), on_panel)

    sums, targets = [types.intp] * 3, [types.intp] * 2 + [types.float32] * 2
    return types.void(*sums, *targets, types.intp), _generator(write)


def product_tile(rows: int) -> Any:
    """Make the innermost step of a product, for a c of some rows and one panel.

    It computes ``c = a @ b``, with ``adds`` and ``rectifies`` as in :func:`weighted_sum`. The sums
    stay in registers (Goto and van de Geijn, *Anatomy of High-Performance Matrix Multiplication*,
    ACM TOMS 34(3), 2008, section 5). Each is taken in the order of its terms.
    """
    tile = [(row, offset) for row in range(rows) for offset in _VECTORS]

    def write(
        writer: _Writer,
        a: Any, a_row: Any, a_term: Any, b: Any, b_term: Any, c: Any, c_row: Any,
        depth: Any, adds: Any, rectifies: Any,
    ) -> None:  # fmt: skip
        places = [writer.moved(writer.moved(c, c_row, row), offset) for row, offset in tile]

        def add_term(_at: Any, of_a: Any, of_b: Any, *sums: Any) -> Sequence[Any]:
            values = {offset: writer.load(writer.moved(of_b, offset)) for offset in _VECTORS}
            factors = [
                writer.load_everywhere(writer.moved(of_a, a_row, row)) for row in range(rows)
            ]
            added = [
                writer.sum(writer.product(factors[row], values[offset]), total)
                for (row, offset), total in zip(tile, sums, strict=True)
            ]
            return writer.moved(of_a, a_term), writer.moved(of_b, b_term), *added

        begin = [writer.either(adds, writer.load(place), _ZEROS) for place in places]
        _, _, *sums = writer.repeat(depth, 1, [a, b, *begin], add_term)
        for total, place in zip(sums, places, strict=True):
            writer.store(writer.either(rectifies, writer.rectified(total), total), place)

    @intrinsic
    def step(_context, a, a_row, a_term, b, b_term, c, c_row, depth, adds, rectifies):  # type: ignore[no-untyped-def]
        return types.void(*[types.intp] * 8, *[types.boolean] * 2), _generator(write)

    return step
