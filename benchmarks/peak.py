"""The most memory that this process has held, without what it inherited or imported.

``ru_maxrss`` of a process that was just started is that of its parent on Linux, so the kernel's own
account of the process, ``VmHWM``, is read where there is one, and set back after the imports.
"""

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


class Peak:
    """The peak of a process's memory since this was made, above what it held then."""

    def __init__(self) -> None:
        self._before = _status("VmRSS") or _of_rusage()
        self.reset()

    def reset(self) -> None:
        """Forget the peak so far; what was held at the beginning stays the same."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return  # elsewhere the peak is that of the whole process

    @property
    def bytes(self) -> int:
        """The peak in bytes."""
        return max(0, (_status("VmHWM") or _of_rusage()) - self._before)


def _status(key: str) -> int | None:
    if not _STATUS.is_file():
        return None
    lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
    return int(lines[key].split()[0]) * 1024 if key in lines else None


def _of_rusage() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
