"""What may take neither long nor much memory."""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from damage import (
    in_child,
)

from pipeline.errors import PipelineError

SECONDS, BYTES = 1.0, 200 << 20
ROOM = 4 << 30
"""Address space on top of what the process has already: enough to see what takes too much."""


def within_limits(steps: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Take steps in a child, and give what each returned, or its error."""

    def task(note: Callable[[str], None]) -> dict[str, Any]:
        limit_address_space()
        said = {}
        for name, step in steps.items():
            note(name)
            start = time.process_time()
            try:
                said[name] = step()
            except PipelineError as error:
                said[name] = error
            assert time.process_time() - start < SECONDS, f"{name} took too long"
        return said

    outcome = in_child(task)
    assert outcome.grown < BYTES
    return outcome.result


def limit_address_space() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return  # not Linux, and no limit to be had
    pages = int(statm.read_text().split()[0])
    size = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def require_one_line(error: Any, name: str) -> None:
    assert name in str(error)
    assert len(str(error)) < 2000
    assert str(error).isprintable()
