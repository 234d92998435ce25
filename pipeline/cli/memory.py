"""Memory that is used again instead of being given back and asked for anew."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for what is allocated next.

    By itself it maps every tensor of some size afresh, and the system fills it with zeros page by
    page: a fifth of the time of a training step. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_ARENA_MAX, 1)  # only the first one keeps blocks over 64 MB
