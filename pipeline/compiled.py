"""Loops over numbers, compiled to machine code with Numba when they are first called.

For what torch has no fast operation for: a loop that does all that is to be done with a value while
it is in a register, where torch would go through memory once for each step. The compiled functions
let go of the interpreter's lock, so that several threads can be in them at a time; none starts
threads of its own. A product and a sum become one instruction where the processor has it, but sums
are never taken in another order than the one written.

Machine code is kept beside the module, in ``__pycache__``, under the digest of the module's text:
code that was compiled from another text is never taken for it. Where that folder cannot be written,
Numba takes the user's own cache folder; where nothing can be written, or what was kept is damaged,
functions are compiled again in every process.
"""

import pickle
import sys
from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import numba
import xxhash
from numba.extending import typeof_impl

P = ParamSpec("P")
R = TypeVar("R")

_compile: Any = partial(numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy")


class Compiled(Generic[P, R]):
    """A function that is compiled for the dtypes that it is called with; made by decorating it.

    Parameters
    ----------
    function
        Loops over numpy arrays and numbers, in the part of Python that Numba knows. It may call
        compiled functions of its own module; of another one's text no digest is taken.
    """

    def __init__(self, function: Callable[P, R]) -> None:
        self._function = function
        self._compiled = _with_cache(function)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the compiled function."""
        try:
            return self._compiled(*args, **kwargs)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):  # kept, and damaged since
            self._compiled = _compile(self._function)
            return self._compiled(*args, **kwargs)


@typeof_impl.register(Compiled)
def _type_of(function: Compiled[..., Any], context: object) -> Any:
    """Tell Numba what a compiled function is to another one that calls it."""
    return typeof_impl(function._compiled, context)


def _with_cache(function: Callable[P, R]) -> Callable[P, R]:
    source = Path(sys.modules[function.__module__].__file__ or "")
    digest = xxhash.xxh3_128_hexdigest(source.read_bytes())
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(source.parent / "__pycache__" / digest)
    compiled: Callable[P, R]
    try:
        compiled = _compile(cache=True)(function)
    except RuntimeError:  # no folder to keep it in
        compiled = _compile(function)
    finally:
        config.CACHE_DIR = before
    return compiled
