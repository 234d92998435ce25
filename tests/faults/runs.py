"""Runs of the command line that can be killed, stopped and interrupted at chosen points."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

SECONDS = 120
"""After so long, a run that neither ends nor stops is one that hangs."""

WRITING = re.compile(
    r"wholefile|locks|folders|tensorfile|data/palette|reporting/page"
    r"|cache/(arrays|files|session|inventory|manifest|index|garbage|shard_writer|samples)"
)
"""The modules of the package that change files."""


@dataclass(frozen=True)
class Fault:
    """A signal that a run sends itself.

    Attributes
    ----------
    signal : int
    point : int
        At which of the points that it passes in the package's own modules.
    further : int
        How many points in other libraries further on, if the next own one does not come first.
    """

    signal: int
    point: int
    further: int = 0


@dataclass(frozen=True)
class Course:
    """What an undisturbed run passes.

    Attributes
    ----------
    passed : tuple of str
        Of every point in the package's own modules, the module.
    between : tuple of int
        How many points in other libraries follow it.
    computed : int
        How many images went through a backbone.
    seconds : float
        How long it took, while all that was noted.
    """

    passed: tuple[str, ...]
    between: tuple[int, ...]
    computed: int
    seconds: float

    def draw(self, random: Random, number: int = signal.SIGKILL) -> Fault:
        """Choose a point: half of the time in modules that write, all of these equally often."""
        point = random.randrange(len(self.passed))
        writing = sorted({module for module in self.passed if WRITING.match(module)})
        if writing and random.random() < 0.5:
            module = random.choice(writing)
            point = random.choice([i for i, m in enumerate(self.passed) if m == module])
        further = random.randint(0, self.between[point]) if random.random() < 0.5 else 0
        return Fault(number, point, further)


@dataclass(frozen=True)
class Ended:
    """What became of a run."""

    status: int
    out: str
    err: str
    struck: dict[str, Any] | None

    @property
    def code(self) -> int | None:
        """Exit code, or None if a signal ended or stopped it."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None

    @property
    def killed(self) -> bool:
        return os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def stopped(self) -> bool:
        return os.WIFSTOPPED(self.status)

    @property
    def computed(self) -> int | None:
        """How many images it says it computed."""
        said = re.search(r"(\d+) computed", self.out)
        return None if said is None else int(said[1])


class Run:
    """A run that has been started."""

    def __init__(self, forks: "Forks", pid: int, log: Path) -> None:
        self.pid, self._forks, self._log = pid, forks, log

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        log = Path(f"{self._log}.err")
        return log.read_text() if log.exists() else ""  # it may not have begun yet

    def wait(self, seconds: float = SECONDS) -> Ended | None:
        """Wait until it ends or stops; None if it does neither in time."""
        status = self._forks.ask(wait=self.pid, seconds=seconds)
        if status is None:
            return None
        out, err = Path(f"{self._log}.out").read_text(), self.said
        struck = self._log.with_suffix(".struck")
        place = json.loads(struck.read_text()) if struck.exists() else None
        return Ended(status, out, err, place)

    def end(self) -> Ended:
        """Wait until it ends or stops, as it must."""
        ended = self.wait()
        if ended is None:
            os.kill(self.pid, signal.SIGABRT)  # it then says where it is
            self.wait(5)
            raise AssertionError(f"it hangs: {self.said}")
        return ended


class Forks:
    """Starts runs in processes forked from one that has imported everything.

    Parameters
    ----------
    logs : Path
        A folder for what the runs say.
    """

    def __init__(self, logs: Path) -> None:
        self._logs, self._count = logs, 0
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def ask(self, **request: Any) -> Any:
        """Send a request and read the answer; see :mod:`forked`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        fault: Fault | None = None,
        record: Path | None = None,
        **conditions: Any,
    ) -> Run:
        """Start a run of the command line in a folder; see :mod:`forked` for the conditions."""
        self._count += 1
        log = self._logs / f"run{self._count}"
        pid = self.ask(
            start=list(arguments),
            folder=str(folder),
            log=str(log),
            fault=None if fault is None else vars(fault),
            record=None if record is None else str(record),
            **conditions,
        )
        return Run(self, pid, log)

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        fault: Fault | None = None,
        **conditions: Any,
    ) -> Ended:
        """Start a run and wait until it ends or stops."""
        return self.start(arguments, folder, fault=fault, **conditions).end()

    def course(self, arguments: Sequence[str], folder: Path) -> Course:
        """Run undisturbed, and give the points that were passed."""
        record = self._logs / "course.json"
        start = time.monotonic()
        ended = self.start(arguments, folder, record=record).end()
        assert ended.code == 0, ended.err
        seconds = time.monotonic() - start
        found = json.loads(record.read_text())
        return Course(tuple(found["passed"]), tuple(found["between"]), found["computed"], seconds)

    def close(self) -> None:
        """End the process that forks."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
