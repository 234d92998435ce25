"""What processes do that strive for the same lock; any of it ends with an error if one fails."""

import fcntl
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.cache import alone_in, joint_session
from pipeline.errors import BusyError
from pipeline.locks import Lock
from pipeline.wholefile import write_whole


def count_up(counter: str, rounds: int) -> int:
    """Add one to the number in a file, so often, under a lock whose file is removed every time."""
    path = Path(counter)
    for _ in range(rounds):
        while (lock := Lock.take(path.with_suffix(".lock"))) is None:
            time.sleep(0.001)
        with lock:
            number = int(path.read_text())
            path.write_text(str(number + 1))
    return 0


def write(path: str, rounds: int) -> int:
    """Write a file whole, so often."""
    for _ in range(rounds):
        write_whole(Path(path), f"of {os.getpid()}")
    return 0


def hold_sessions(folder: str, seed: int, rounds: int, gaps: bool) -> int:
    """Hold sessions with one of two keys, or be alone, and look who else is there.

    What a first one begins lies there as ``begun`` until a last one has ended it. With gaps, a lock
    is let go for a moment when it is to become another one, as flock may do by its description.
    """
    draw = random.Random(seed)
    if gaps:
        fcntl.flock = _with_gaps(fcntl.flock)
    place = Path(folder)
    begun = place / "begun"

    def inside() -> set[str]:
        return {path.suffix for path in place.glob("*.[ab]")}

    def begin() -> None:
        assert inside() == set()
        begun.touch()

    def end() -> None:
        assert inside() == set()
        begun.unlink(missing_ok=gaps)

    for _ in range(rounds):
        key = draw.choice("ab")
        try:
            if draw.random() < 0.2:
                with alone_in(place):
                    assert inside() == set()
            else:
                with joint_session(place, key, begin=begin, end=end):
                    own = place / f"{os.getpid()}.{key}"
                    own.touch()
                    time.sleep(draw.uniform(0, 0.003))
                    assert inside() == {f".{key}"}
                    assert gaps or begun.exists()
                    own.unlink()
        except BusyError:
            time.sleep(draw.uniform(0, 0.002))
    return 0


def _with_gaps(flock: Callable[[int, int], None]) -> Callable[[int, int], None]:
    def flock_with_gaps(descriptor: int, operation: int) -> None:
        flock(descriptor, fcntl.LOCK_UN)
        time.sleep(0.001)
        flock(descriptor, operation)

    return flock_with_gaps
