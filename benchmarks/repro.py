"""The seconds of ``make repro`` in a fresh clone, with everything installed."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.results import Result, Row, at_most
from benchmarks.settings import ROOT, Settings


def run(settings: Settings) -> Result:
    """Measure once."""
    target = settings.pick("repro", "repro", "help")
    result = Result(
        "repro",
        f"make {target}",
        machine(),
        {"scale": settings.scale, "rounds": 1},
        notes=[
            "A clone of the latest commit, without a cache, in the environment that runs this: "
            "data set, extraction, both fits, evaluation and report, DVC's own work included.",
        ],
    )
    with settings.folder() as folder:
        clone = folder / "clone"
        git = ["git", "clone", "--quiet", "--local", str(ROOT), str(clone)]
        if subprocess.run(git, capture_output=True).returncode:
            reason = "no clone can be made of this folder"
            result.rows.append(Row.unmeasured("make repro", reason, at_most(120)))
            return result
        seconds = _make(clone, target)
    result.rows.append(Row.exact(f"make {target}", "s", seconds, at_most(120)))
    return result


def _make(clone: Path, target: str) -> float:
    """Time a target; the environment is taken to be installed, and is this one."""
    programs = Path(sys.executable).parent
    command = ["make", "--old-file", ".venv/installed", f"BIN={programs}", target]
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
    }
    start = time.perf_counter()
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"make {target} failed: {(done.stdout + done.stderr)[-2000:]}")
    return seconds
