"""Steps of compiled loops that write blocks of 8x8 values in another order and another dtype."""

from collections.abc import Sequence
from typing import Any, Literal

from llvmlite import ir

from pipeline.compiled.writer import ADDRESS, BYTES, LANES, Writer, step

_WHOLE, _BYTE = ir.IntType(32), ir.IntType(8)
_MAGNITUDE, _SIGN = 0x7FFF_FFFF, 0x8000_0000
_LEAST_NORMAL_HALF, _TOO_LARGE_FOR_HALF = 113 << 23, 143 << 23
_TO_WHOLE = 1.5 * 2**23
"""A float32 of this size has no places behind the point."""


def conversion(dtype: Literal["float32", "float16", "int8"], transposes: bool) -> Any:
    """Make a step that turns eight rows of eight float32 into a dtype, rounded to the nearest even.

    It takes the addresses and distances of what it reads and writes, in bytes: ``values`` and from
    one row of them to the next, ``scales``, ``largest``, ``out`` and from one row of it to the
    next. If it transposes, the columns of ``values`` are the rows of ``out``. For ``int8`` each row
    of ``out`` has its scale, eight float32, by which its values are divided; they are less than 128
    then. ``largest`` is where eight int32 lie that become no less than the bits of any value
    without its sign: with these, NaN is larger than infinity and that than all numbers.
    """

    @step(*[ADDRESS] * 6)
    def convert(
        writer: Writer,
        values: Any, row: Any, scales: Any, largest: Any, out: Any, out_row: Any,
    ) -> None:  # fmt: skip
        rows = [writer.load(writer.moved(values, row, i)) for i in range(LANES)]
        if dtype == "int8":
            of_columns = writer.load(scales)
            rows = [
                writer.builder.fdiv(
                    vector,
                    of_columns
                    if transposes
                    else writer.load_everywhere(writer.moved(scales, BYTES, i)),
                )
                for i, vector in enumerate(rows)
            ]
        bits = writer.builder.bitcast(writer.load(largest), _wholes(0).type)
        for vector in rows:
            bits = _larger(writer, bits, _magnitude(writer, vector))
        writer.store(writer.builder.bitcast(bits, rows[0].type), largest)
        rows = _transposed(writer, rows) if transposes else rows
        turned = {"float32": lambda _, v: v, "float16": _as_half, "int8": _as_byte}[dtype]
        for i, vector in enumerate(rows):
            writer.store(turned(writer, vector), writer.moved(out, out_row, i))

    return convert


def _wholes(number: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_WHOLE, LANES), [number] * LANES)


def _magnitude(writer: Writer, vector: Any) -> Any:
    """Give the bits of values without their sign."""
    bits = writer.builder.bitcast(vector, _wholes(0).type)
    return writer.builder.and_(bits, _wholes(_MAGNITUDE))


def _larger(writer: Writer, a: Any, b: Any) -> Any:
    return writer.builder.select(writer.builder.icmp_signed(">", a, b), a, b)


def _as_byte(writer: Writer, vector: Any) -> Any:
    """Round to whole numbers: behind a large one that is added they are the last bits."""
    shifted = writer.builder.fadd(vector, writer.same(_TO_WHOLE))
    bits = writer.builder.bitcast(shifted, _wholes(0).type)
    return writer.builder.trunc(bits, ir.VectorType(_BYTE, LANES))


def _as_half(writer: Writer, vector: Any) -> Any:
    """Give the bits of the nearest float16, of an even one of two; in place of NaN infinity.

    Not all processors have an instruction for it.
    """
    builder = writer.builder
    magnitude = _magnitude(writer, vector)
    # What is lost are 13 bits. To these, add half of the last one kept, less one if that is even.
    odd = builder.and_(builder.lshr(magnitude, _wholes(13)), _wholes(1))
    half = builder.add(builder.add(magnitude, odd), _wholes(0xFFF))
    normal = builder.lshr(builder.sub(half, _wholes(112 << 23)), _wholes(13))
    # Below, a float16 is a multiple of 2^-24, which is the last bit of a float32 of 1/2.
    absolute = builder.bitcast(magnitude, vector.type)
    small = builder.bitcast(builder.fadd(absolute, writer.same(0.5)), _wholes(0).type)
    small = builder.sub(small, _wholes(126 << 23))
    tiny = builder.icmp_signed("<", magnitude, _wholes(_LEAST_NORMAL_HALF))
    found = builder.select(tiny, small, normal)
    huge = builder.icmp_signed(">=", magnitude, _wholes(_TOO_LARGE_FOR_HALF))
    found = builder.select(huge, _wholes(0x7C00), found)
    sign = builder.and_(builder.bitcast(vector, _wholes(0).type), _wholes(_SIGN))
    signed = builder.or_(found, builder.lshr(sign, _wholes(16)))
    return builder.trunc(signed, ir.VectorType(ir.IntType(16), LANES))


def _transposed(writer: Writer, rows: Sequence[Any]) -> list[Any]:
    """Transpose eight vectors, by exchanging halves of pairs three times."""
    found = list(rows)
    for width in (1, 2, 4):
        # Of two vectors, blocks of this width: every other one of the first, and of the second.
        first, second = (
            [(lane & ~width) + (LANES if lane & width else 0) + shift for lane in range(LANES)]
            for shift in (0, width)
        )
        exchanged = list(found)
        for i in range(LANES):
            if not i & width:
                pair = found[i], found[i + width]
                exchanged[i] = writer.shuffled(*pair, first)
                exchanged[i + width] = writer.shuffled(*pair, second)
        found = exchanged
    return found
