"""Damage to files, and processes in which it is tried what comes of it."""

import mmap
import multiprocessing
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import PipelineError

HANGS_AFTER = 30.0
"""Seconds for one step of a child; the slowest takes less than one."""


def same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        one, other = one.numpy(), other.numpy()
    if isinstance(one, np.ndarray):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@dataclass
class Tally:
    """What came of many damages.

    Attributes
    ----------
    found : int
        Ended in an error of the right kind.
    harmless : int
        Changed nothing that is read.
    wrong : list of str
        The others.
    """

    found: int = 0
    harmless: int = 0
    wrong: list[str] = field(default_factory=list)


TALLIES: dict[str, list[Tally]] = {}


def assault(
    path: Path,
    damages: Iterable[tuple[str, bytes]],
    read: Callable[[], Any],
    errors: tuple[type[PipelineError], ...],
    *,
    reported: Callable[[], Iterable[str]] | None = None,
    every: int = 1,
) -> Tally:
    """Read a file after each of many damages, in a process of its own.

    Parameters
    ----------
    path : Path
        The file, which is sound again in the end.
    damages : iterable of (name, content)
        What the file holds instead.
    read : callable
        Gives everything that the file says.
    errors : tuple of types
        What it may raise; the message has to be one line that names the file.
    reported : callable, optional
        Lists what ``cache verify`` finds; it has to name the file if ``read`` raised, and otherwise
        may name it only for what HDF5 would find in it, which ``read`` does not ask.
    every : int
        For which of the damages that is checked.
    """
    sound = path.read_bytes()

    def task(note: Callable[[str], None]) -> Tally:
        tally, expected = Tally(), read()
        for number, (name, content) in enumerate(damages):
            note(f"{path.name}, {name}")
            replace_content(path, content)
            error = ""
            try:
                if not same(expected, read()):
                    tally.wrong.append(f"{name}: other values")
            except errors as caught:
                error = str(caught)
                if path.name not in error or "\n" in error:
                    tally.wrong.append(f"{name}: {error}")
            except Exception:
                tally.wrong.append(f"{name}: {traceback.format_exc()}")
            named = False
            if reported is not None and number % every == 0:
                lines = [line for line in reported() if path.name in line]
                named = bool(lines)
                for_hdf5 = all("HDF5" in line for line in lines)
                if (error and not named) or (not error and not for_hdf5):
                    tally.wrong.append(f"{name}: reported {lines}, though reading said {error!r}")
            tally.found += bool(error) or named
            tally.harmless += not error and not named
        return tally

    try:
        tally: Tally = in_child(task).result
    finally:
        path.write_bytes(sound)
    TALLIES.setdefault(path.suffix, []).append(tally)
    return tally


def damages() -> Iterator[str]:
    """Put into a few lines what has been damaged in this session."""
    for kind, tallies in sorted(TALLIES.items()):
        found, harmless = (sum(getattr(t, n) for t in tallies) for n in ("found", "harmless"))
        wrong = sum(len(tally.wrong) for tally in tallies)
        yield f"damaged {kind}: {found} found, {harmless} harmless, {wrong} wrong"


def replace_content(path: Path, content: bytes) -> None:
    """Write over a file, which is faster than to write it anew."""
    with path.open("r+b", buffering=0) as file:
        file.write(content)
        if path.stat().st_size != len(content):
            file.truncate(len(content))


@dataclass(frozen=True)
class Outcome:
    """What a child gave, and by how many bytes it had grown."""

    result: Any
    grown: int


def in_child(task: Callable[[Callable[[str], None]], Any]) -> Outcome:
    """Do something in a process of its own; fail, naming its latest step, if it hangs or crashes.

    Parameters
    ----------
    task : callable
        It is given a function to say what it does next.
    """
    context = multiprocessing.get_context("fork")
    noted = mmap.mmap(-1, 512)
    ours, theirs = context.Pipe(duplex=False)

    def note(text: str) -> None:
        noted[:] = text.encode()[:512].ljust(512)

    def child() -> None:
        before = _peak()
        try:
            answer: tuple[Any, str] = (task(note), "")
        except Exception:
            answer = (None, traceback.format_exc())
        theirs.send((*answer, _peak() - before))

    process = context.Process(target=child)
    with warnings.catch_warnings():
        # Forking beside threads may hang; the threads here are idle ones of libraries.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    before = None
    try:
        while not ours.poll(HANGS_AFTER):
            if before == noted[:]:
                pytest.fail(f"hangs: {noted[:].decode(errors='replace').strip()}")
            before = noted[:]
        try:
            result, error, grown = ours.recv()
        except EOFError:
            process.join()
            step = noted[:].decode(errors="replace").strip()
            pytest.fail(f"ended with code {process.exitcode}: {step}")
    finally:
        process.kill()
        process.join()
    if error:
        pytest.fail(error)
    return Outcome(result, grown)


def _peak() -> int:
    """Give the most memory this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def flips(whole: bytes, positions: Iterable[int], seed: int) -> Iterator[tuple[str, bytes]]:
    """Flip a bit, drawn anew each time, of each of some bytes."""
    rng = np.random.default_rng(seed)
    for at in positions:
        bit = int(rng.integers(8))
        yield f"bit {bit} of byte {at}", _replaced(whole, at, bytes([whole[at] ^ 1 << bit]))


def overwritten(whole: bytes, positions: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """Set bytes to zero and to 255."""
    for at in positions:
        for value in {0, 255} - {whole[at]}:
            yield f"byte {at} is {value}", _replaced(whole, at, bytes([value]))


def cut_and_extended(whole: bytes, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Cut a file at many lengths, the last and first bytes among them, and append garbage."""
    rng = np.random.default_rng(seed)
    lengths = {*rng.integers(0, len(whole), count).tolist(), 0, 1, 8, len(whole) - 1}
    for length in sorted(lengths):
        yield f"cut to {length} bytes", whole[:length]
    for length in (1, 512, 4096):
        yield f"{length} bytes more", whole + rng.bytes(length)


def blocks(whole: bytes, size: int, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Empty blocks of a disk, and swap them."""
    rng = np.random.default_rng(seed)
    starts = np.arange(0, len(whole), size)
    for start in rng.permutation(starts)[:count].tolist():
        block = whole[start : start + size]
        if block.strip(b"\0"):
            yield f"zeros from {start} on", _replaced(whole, start, bytes(len(block)))
    if len(full := starts[starts + size <= len(whole)]) > 1:
        for _ in range(count):
            a, b = rng.choice(full, 2, replace=False).tolist()
            one, other = whole[a : a + size], whole[b : b + size]
            if one != other:
                swapped = _replaced(_replaced(whole, a, other), b, one)
                yield f"blocks at {a} and {b} swapped", swapped


def _replaced(whole: bytes, at: int, part: bytes) -> bytes:
    return whole[:at] + part + whole[at + len(part) :]
