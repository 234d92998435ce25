"""Loops over numbers, compiled to machine code with Numba when they are first called.

For what torch has no fast operation for: a loop that does all that is to be done with a value while
it is in a register, where torch would go through memory once for each step. The compiled functions
let go of the interpreter's lock, so that several threads can be in them at a time. A product and a
sum become one instruction where the processor has it, but sums are never taken in another order
than the one written.

Machine code is kept beside the module, in ``__pycache__``, or where that cannot be written in the
user's own cache folder. Each piece of it is a file of its own, written whole, with a digest of its
contents and of what it was compiled from and for: what was damaged, or belongs to another text of
the module or of one whose functions it calls, to another processor or another version of Numba, is
compiled again.
"""

import os
import pickle
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial, update_wrapper
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

import numba
import xxhash
from numba.core.caching import FunctionCache
from numba.core.extending import _Intrinsic
from numba.core.serialize import dumps
from numba.extending import typeof_impl

P = ParamSpec("P")
R = TypeVar("R")

_compile: Any = partial(
    numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy", no_cfunc_wrapper=True
)


class Compiled(Generic[P, R]):
    """A function that is compiled for the dtypes that it is called with; made by decorating it.

    Parameters
    ----------
    function
        Loops over numpy arrays and numbers, in the part of Python that Numba knows. Indices are not
        checked. It may call compiled functions and intrinsics, of other modules too: those are part
        of what it is compiled from.
    """

    _options: ClassVar[Mapping[str, bool]] = {}

    def __init__(self, function: Callable[P, R]) -> None:
        self._compiled = _compile(function, **self._options)
        with suppress(RuntimeError):  # there is no folder to keep anything in
            self._compiled._cache = _KeptCode(function)
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the compiled function."""
        result: R = self._compiled(*args, **kwargs)
        return result


_PROCESS = os.getpid()
"""The one that imported this, of which another one may have been forked."""


class SharedOut(Compiled[P, R]):
    """A compiled function whose loops over ``prange`` are shared out among several threads."""

    _options: ClassVar = {"parallel": True}


def threads_to_share() -> int:
    """Give the number of threads for loops that are shared out: as many as torch has.

    They are OpenMP's, and the very ones in which torch computes where that is GNU's. Others would
    wait for a core, as torch's keep theirs busy for some 4 ms after all that they do; and Numba's
    own end the process if two threads use them at a time. Without OpenMP it is one: Numba needs
    the system's library, ``libgomp1``. It is one in a process that was forked, too, where OpenMP's
    threads are not there.
    """
    import torch  # before OpenMP is loaded, which is torch's then

    threads: int = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)
    if threads == 1 or os.getpid() != _PROCESS:
        return 1
    numba.set_num_threads(threads)
    return threads if numba.threading_layer() == "omp" else 1


def _type_of(function: Compiled[..., Any], context: object) -> Any:
    """Tell Numba what a compiled function is to another one that calls it."""
    return typeof_impl(function._compiled, context)


typeof_impl.register(Compiled)(_type_of)


class _KeptCode(FunctionCache):
    """Where Numba looks for code before it compiles a function, and puts it behind that."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)  # finds a folder that can be written
        module = sys.modules[function.__module__]
        texts = b"".join(path.read_bytes() for path in sorted(_sources(module)))
        name = f"{Path(module.__file__ or '').stem}.{function.__name__}"
        digest = xxhash.xxh3_128_hexdigest(texts)
        self._cache_file = _Files(Path(self.cache_path), name, digest)


def _sources(module: ModuleType) -> set[Path]:
    """Give a module's text, those of all whose compiled functions it knows, and of this package."""
    found, waiting = set(Path(__file__).parent.glob("*.py")), [module]
    while waiting:
        module = waiting.pop()
        path = Path(module.__file__ or "")
        if path not in found:
            found.add(path)
            values = list(vars(module).values())
            known = [value._compiled.py_func for value in values if isinstance(value, Compiled)]
            known += [value._defn for value in values if isinstance(value, _Intrinsic)]
            waiting += [sys.modules[function.__module__] for function in known]
    return found


class _Files:
    """A file for each combination of dtypes, processor and version; in place of Numba's index.

    Numba keeps an index, and data in files that it names; processes that write them at the same
    time can leave an index that names another one's data.
    """

    def __init__(self, folder: Path, name: str, source: str) -> None:
        self._folder, self._name, self._source = folder, name, source
        self._prefix = f"{name}.{source[:8]}"

    def load(self, key: object) -> Any:
        """Give what was saved, or None."""
        path, made_from = self._place(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, code = content[:16], content[16:]
        if digest != xxhash.xxh3_128_digest(made_from + code):
            return None
        # It is code, trusted as Python's own in this folder is; the digest is against accidents.
        return pickle.loads(code)

    def save(self, key: object, data: object) -> None:
        """Write it, whole or not at all, and remove what belongs to other texts."""
        path, made_from = self._place(key)
        code = dumps(data)
        own = path.with_suffix(f".{os.getpid()}.tmp")
        with suppress(OSError):  # a full disk, say: it is compiled again then
            try:
                own.write_bytes(xxhash.xxh3_128_digest(made_from + code) + code)
                own.replace(path)
            finally:
                own.unlink(missing_ok=True)
            for other in self._folder.glob(f"{self._name}.*.code"):
                if not other.name.startswith(self._prefix):
                    other.unlink(missing_ok=True)

    def _place(self, key: object) -> tuple[Path, bytes]:
        made_from = repr((numba.__version__, self._source, key)).encode()
        digest = xxhash.xxh3_128_hexdigest(made_from)
        return self._folder / f"{self._prefix}.{digest}.code", made_from
