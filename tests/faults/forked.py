"""A process that has imported everything, and forks a run of the command line for each request.

A run costs a fork instead of seconds of imports, and can be told to send itself a signal at a given
point: the runs of one command from one state pass the same points in the same order.

Requests and answers are lines of JSON on stdin and stdout::

    {"start": ARGUMENTS, "folder": F, "log": L, "fault": FAULT or null, "record": PATH or null}
        -> the process id
        also, where asked for: "limits": {NAME: MOST} as resource.setrlimit takes them, "user": UID,
        "locks": false for a file system without locks, "journal": PATH, and
        "call": "MODULE:FUNCTION" in place of the command line
    {"wait": PID, "seconds": S}
        -> the status as os.waitpid gives it, also of a run that is stopped; null if none in time
"""

import errno
import faulthandler
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

from journal import Journal

import pipeline
from pipeline.cache import ImageRecord
from pipeline.cli import main

_PACKAGE = str(Path(pipeline.__file__).parent) + os.sep
_COMPUTED = ImageRecord.stored.__code__
# What stages import when they first need it; no computing here, which would start threads.
_LAZY = ("sklearn.neural_network", "sklearn.pipeline", "torch._dynamo", "PIL.PngImagePlugin")


class Points:
    """Counts the points that a run passes: calls and returns in the modules of the package.

    Between two of them lie those in other libraries; they are counted from the last one on, so that
    a point is found again even where the libraries take another way.
    """

    def __init__(self, fault: dict[str, Any] | None, log: Path) -> None:
        self._fault, self._log = fault, log
        self._modules: dict[CodeType, str | None] = {}
        self.passed: list[str] = []
        self.between: list[int] = []
        self._computed: list[None] = []  # appended to by several threads

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if code not in self._modules:
            self._modules[code] = _module(code)
        module = self._modules[code]
        if module is None:
            if self.between:
                self.between[-1] += 1
        else:
            self.passed.append(module)
            self.between.append(0)
        fault = self._fault
        if fault is None or not self.between:
            return
        here, since = len(self.passed) - 1, self.between[-1]
        if here > fault["point"] or (here == fault["point"] and since >= fault["further"]):
            self._strike(frame, event, argument, signal.Signals(fault["signal"]))

    @property
    def computed(self) -> int:
        """How many images have been computed."""
        return len(self._computed)

    def count(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Count what the threads compute; they pass no points, since each takes its own time."""
        if frame.f_code is _COMPUTED and event == "call":
            self._computed.append(None)

    def _strike(self, frame: FrameType, event: str, argument: Any, number: signal.Signals) -> None:
        sys.setprofile(None)
        self._fault = None
        inner = f"{event} {getattr(argument, '__qualname__', '')}" if "c_" in event else event
        own: FrameType | None = frame
        while own is not None and _module(own.f_code) is None:
            own = own.f_back
        place = {
            "module": self.passed[-1] if own is None else _module(own.f_code),
            "at": "" if own is None else f"{own.f_code.co_qualname}:{own.f_lineno} {inner}",
            "computed": self.computed,
        }
        self._log.with_suffix(".struck").write_text(json.dumps(place))
        if number == signal.SIGINT:
            # Sent a moment later: an exception out of here would fall where no Ctrl-C can.
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
            signal.setitimer(signal.ITIMER_REAL, 1e-6)
        else:
            os.kill(os.getpid(), number)


def _module(code: CodeType) -> str | None:
    name = code.co_filename
    return name.removeprefix(_PACKAGE) if name.startswith(_PACKAGE) else None


def run(request: dict[str, Any]) -> int:
    """Run the command line in a process that has just been forked."""
    os.chdir(request["folder"])
    log = Path(request["log"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    writing = os.O_CREAT | os.O_WRONLY
    out, err = (os.open(f"{log}.{name}", writing, 0o600) for name in ("out", "err"))
    for descriptor, number in ((nothing, 0), (out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    _restrict(request)
    faulthandler.enable()
    points = Points(request["fault"], log)
    if request["fault"] or request["record"]:
        sys.setprofile(points)
        threading.setprofile(points.count)
    try:
        if "call" in request:
            module, name = request["call"].split(":")
            code: int = getattr(importlib.import_module(module), name)(*request["start"])
            return code
        return main(request["start"])
    finally:
        sys.setprofile(None)
        if request["record"]:
            record = {name: getattr(points, name) for name in ("passed", "between", "computed")}
            Path(request["record"]).write_text(json.dumps(record))


def _restrict(request: dict[str, Any]) -> None:
    """Take away from this process what it is to do without."""
    for name, most in request.get("limits", {}).items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))
    if "journal" in request:
        Journal(Path(request["journal"])).install()
    if not request.get("locks", True):
        fcntl.flock = _no_locks
    if "user" in request:
        os.setgid(request["user"])
        os.setuid(request["user"])


def _no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _leave(request: dict[str, Any]) -> NoReturn:
    """Run, and exit at once: to take everything down takes longer than most runs."""
    code = 70
    try:
        code = run(request)
    except Exception:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if found:
            return status
        time.sleep(0.002)
    return None


def serve() -> NoReturn:
    """Answer requests until there are no more."""
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _LAZY:
        importlib.import_module(name)
    gc.freeze()  # or every fork would copy what the collector touches
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer: int | None = os.fork()
            if answer == 0:
                _leave(request)
        else:
            answer = _wait(request["wait"], request["seconds"])
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    serve()
