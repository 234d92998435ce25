"""One target in this process: runs inputs through it and keeps what should not have happened."""

import hashlib
import importlib
import random
import resource
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fuzz.bytes_values import flip
from pipeline.errors import PipelineError

MAX_INPUT = 1 << 16
MAX_MEMORY = 200 << 20
"""Bytes by which one input may raise the peak of the process's memory."""
_MAX_ADDRESSES = 2 << 30
_MAX_SECONDS = 20
_MAX_MESSAGE = 2000


class Finding(AssertionError):
    """Something that must not happen."""


def load_target(name: str, instrument: Callable[..., Any] | None = None) -> ModuleType:
    """Import a target; with ``instrument``, so that its packages report their branches."""
    path = f"fuzz.targets.{name}"
    if instrument is None:
        return importlib.import_module(path)
    # The list of packages is in the module itself: read it from the source, before any import.
    source = Path(__file__).with_name("targets") / f"{name}.py"
    line = next(s for s in source.read_text().splitlines() if s.startswith("PACKAGES = "))
    with instrument(include=line.partition('"')[2].rstrip('"').split()):
        return importlib.import_module(path)


def run_one(target: ModuleType, data: bytes, folder: Path) -> None:
    """Run one input.

    Raises
    ------
    Exception
        Whatever is not an error that the software raises on purpose, with a message of one line.
    Finding
        If one input took too much memory.
    """
    before = _peak()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.check(data, folder)
    except PipelineError as error:
        message = str(error)
        if "\n" in message or "\r" in message or len(message) > _MAX_MESSAGE:
            raise Finding(f"the message is not a line: {message[:300]!r}") from error
    if (grown := _peak() - before) > MAX_MEMORY:
        raise Finding(f"took {grown >> 20} MiB for {len(data)} bytes")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def place_of(error: BaseException) -> str:
    """Say where an error arose, so that each place is reported once."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/pipeline/" in frame.filename] or frames
    last, top = own[-1], frames[-1]
    places = dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in (last, top))
    return f"{type(error).__name__} at {' <- '.join(places)}"


def limit_memory() -> None:
    """Have an allocation fail that is far beyond what any input needs."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    addresses = int(lines["VmSize"].split()[0]) * 1024 + _MAX_ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (addresses, addresses))


def mutate(target: ModuleType, data: bytes, chance: random.Random) -> bytes:
    """Change an input within its structure, where it still has one."""
    if hasattr(target, "mutate") and chance.random() < 0.75:
        try:
            changed: bytes = target.mutate(data, chance)
        except Exception:  # what was changed before may have no structure left
            return flip(data, chance)
        return changed
    return flip(data, chance)


def main(name: str, seconds: int, work: Path, scratch: Path) -> None:
    """Fuzz a target for some seconds; findings go to ``work/findings``, each place once."""
    import atheris

    target = load_target(name, atheris.instrument_imports)
    corpus, findings = work / "corpus" / name, work / "findings" / name
    for place in (corpus, findings):
        place.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    known: set[str] = set()

    def one_input(data: bytes) -> None:
        try:
            run_one(target, data, scratch)
        except Exception as error:
            place = place_of(error)
            if place not in known:
                known.add(place)
                kept = findings / hashlib.sha1(place.encode()).hexdigest()[:10]
                kept.with_suffix(".input").write_bytes(data)
                kept.with_suffix(".txt").write_text(traceback.format_exc())
                print(f"FINDING {place}: {str(error)[:300]!r} ({kept}.input)", flush=True)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.random() < 0.75:
            changed = mutate(target, data, chance)
            if len(changed) <= max_size:
                return changed
        plain: bytes = atheris.Mutate(data, max_size)
        return plain

    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT}",
        f"-timeout={_MAX_SECONDS}",
        f"-artifact_prefix={findings}/",
        "-rss_limit_mb=4096",
        "-report_slow_units=1000",  # only what takes longer than -timeout counts
        "-print_final_stats=1",
    ]
    limit_memory()
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
