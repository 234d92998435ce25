"""Ctrl-C while HDF5 works.

HDF5 calls back into Python to write to a file. An exception cannot get from there through HDF5 to
whom it concerns, and what HDF5 makes of it is another one.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block has ended; blocks are to be short."""
    handler = signal.getsignal(signal.SIGINT)
    # Python runs handlers in the main thread alone, and another one may not set them.
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _, frame: held.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            handler(signal.SIGINT, held[0])
