"""Writing the innermost steps of compiled loops in LLVM's instructions.

Numba compiles a loop well if it is long and its arrays can be told apart. What is short, or has to
stay in registers, is written here: on vectors of eight float32. On a processor with shorter vectors
LLVM divides them, of longer ones it uses half. A product and a sum become one instruction where the
processor has it.

Addresses and distances are in bytes.
"""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

BYTES, ADDRESS_BYTES = 4, np.dtype(np.intp).itemsize
"""Of a value, and of an address."""

LANES = 8
"""Values in a vector."""

_FUSED = ("contract",)
_LN2 = 0.693359375, -2.12194440e-4
"""Of the first the product with a whole number is exact."""
_POLYNOMIAL = (
    1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3,
    4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1,
)  # fmt: skip
_VALUE = ir.FloatType()
_VECTOR = ir.VectorType(_VALUE, LANES)

ADDRESS, NUMBER, FLAG = types.intp, types.float32, types.boolean
"""What a step takes: an address, a distance or a count; a value; whether to do something."""


class Writer:
    """Writes instructions."""

    def __init__(self, builder: ir.IRBuilder, whole: ir.IntType) -> None:
        self.builder, self.whole = builder, whole

    def moved(self, address: Any, distance: Any, times: int = 1) -> Any:
        """Add a distance, given in bytes or as a value that is known when this runs."""
        if isinstance(distance, int):
            return self.builder.add(address, self.whole(distance * times))
        return self.builder.add(address, self.builder.mul(distance, self.whole(times)))

    def load(self, address: Any) -> Any:
        """Give the vector at an address."""
        found = self.builder.load(self.builder.inttoptr(address, _VECTOR.as_pointer()))
        found.align = BYTES
        return found

    def store(self, vector: Any, address: Any) -> None:
        """Put a vector, of whatever values, at an address."""
        place = self.builder.inttoptr(address, vector.type.as_pointer())
        self.builder.store(vector, place).align = 1

    def load_everywhere(self, address: Any) -> Any:
        """Give a vector of one value, that at an address."""
        return self.everywhere(
            self.builder.load(self.builder.inttoptr(address, _VALUE.as_pointer()))
        )

    def load_address(self, address: Any) -> Any:
        """Give the address that lies at an address."""
        return self.builder.load(self.builder.inttoptr(address, self.whole.as_pointer()))

    def everywhere(self, value: Any) -> Any:
        """Give a vector of one value."""
        unknown = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(unknown, value, ir.IntType(32)(0))
        return self.shuffled(first, unknown, [0] * LANES)

    def same(self, value: float) -> Any:
        """Give a vector of one number, known by now."""
        return ir.Constant(_VECTOR, [value] * LANES)

    def shuffled(self, a: Any, b: Any, lanes: Sequence[int]) -> Any:
        """Give a vector of some values of two vectors; those of the second one follow the first."""
        kind = ir.VectorType(ir.IntType(32), LANES)
        return self.builder.shuffle_vector(a, b, ir.Constant(kind, list(lanes)))

    def product(self, a: Any, b: Any) -> Any:
        """Multiply vectors value by value."""
        return self.builder.fmul(a, b, flags=_FUSED)

    def sum(self, *vectors: Any) -> Any:
        """Add vectors up, in their order."""
        total, *others = vectors
        for vector in others:
            total = self.builder.fadd(total, vector, flags=_FUSED)
        return total

    def difference(self, a: Any, b: Any) -> Any:
        """Subtract the second vector from the first."""
        return self.builder.fsub(a, b, flags=_FUSED)

    def exponential(self, vector: Any) -> Any:
        """Give e to the power of values of at most 0, to 1e-7 of it; nothing below e^-87.

        ``e^x = 2^n e^r`` for a whole n and an r of at most ln(2) / 2, of which the power is a
        polynomial (Cephes, Moshier 1984 to 1992, ``expf``).
        """
        builder, same = self.builder, self.same
        # Beyond 2^23 a float32 has no places behind the point: its last bits are n.
        whole = ir.VectorType(ir.IntType(32), LANES)
        shift = same(1.5 * 2**23)
        shifted = self.sum(self.product(vector, same(1 / math.log(2))), shift)
        n = builder.fsub(shifted, shift)
        rest = vector
        for part in _LN2:
            rest = self.difference(rest, self.product(n, same(part)))
        power = same(_POLYNOMIAL[0])
        for coefficient in (*_POLYNOMIAL[1:], 1.0, 1.0):
            power = self.sum(self.product(power, rest), same(coefficient))
        # To multiply by 2^n, add n to the exponent.
        exponent = builder.shl(builder.bitcast(shifted, whole), ir.Constant(whole, [23] * LANES))
        scaled = builder.bitcast(builder.add(builder.bitcast(power, whole), exponent), _VECTOR)
        small = builder.fcmp_ordered("<", vector, same(-87))
        no_number = builder.fcmp_unordered("uno", vector, vector)
        return builder.select(small, same(0), builder.select(no_number, vector, scaled))

    def rectified_if(self, condition: Any, vector: Any) -> Any:
        """Give a vector with zero in the place of what is less, if a condition holds."""
        less = self.builder.fcmp_ordered("<", vector, self.same(0))  # which NaN is not
        rectified = self.builder.select(less, self.same(0), vector)
        return self.builder.select(condition, rectified, vector)

    def either(self, condition: Any, vector: Any, other: Any) -> Any:
        """Give the one vector if a condition holds, else the other one."""
        return self.builder.select(condition, vector, other)

    def repeat(
        self, end: Any, step: int, first: Sequence[Any], body: Callable[..., Sequence[Any]]
    ) -> Sequence[Any]:
        """Turn values into ``body(at, *values)`` for every ``at`` in ``range(0, end, step)``."""
        builder, zero = self.builder, self.whole(0)
        before, inside = builder.block, builder.append_basic_block()
        behind = builder.append_basic_block()
        builder.cbranch(builder.icmp_signed("<", zero, end), inside, behind)

        builder.position_at_end(inside)
        values = [builder.phi(value.type) for value in (zero, *first)]
        at = values[0]
        then = [builder.add(at, self.whole(step)), *body(*values)]
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


def step(*kinds: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a function that compiled loops can call of one that writes its instructions.

    Parameters
    ----------
    kinds
        Of the arguments that follow the writer: :data:`ADDRESS`, :data:`NUMBER`, :data:`FLAG`.
    """

    def made(write: Callable[..., None]) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            write(Writer(builder, context.get_value_type(types.intp)), *arguments)
            return context.get_dummy_value()

        @wraps(write)
        def define(_context: Any, *_arguments: Any) -> Any:
            return types.void(*kinds), generate

        return intrinsic(define)

    return made
