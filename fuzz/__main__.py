"""Fuzz every target in turn and print what came of it: ``python -m fuzz --seconds 60``."""

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from fuzz.targets import TARGETS

WORK = Path(__file__).with_name("work")
_MEMORY = Path("/dev/shm")
_STATUS = re.compile(r"^#(\d+)\s.*\bcov: (\d+)", re.MULTILINE)
# Crashes of the process, time and memory beyond the limits; libFuzzer writes the input to a file.
_DEATH = re.compile(r"Test unit written to (\S+)")


@dataclass
class Result:
    """What a target's run came to."""

    inputs: int = 0
    branches: int = 0
    findings: list[str] = field(default_factory=list)


def fuzz(name: str, seconds: int) -> Result:
    """Fuzz a target; a crash of the process is a finding, after which it goes on."""
    result, end = Result(), time.monotonic() + seconds
    while (left := round(end - time.monotonic())) > 0:
        with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as scratch:
            command = [sys.executable, "-m", "fuzz.harness", name, str(left), str(WORK), scratch]
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        status = [(int(n), int(cov)) for n, cov in _STATUS.findall(done.stderr)]
        result.inputs += max((n for n, _ in status), default=0)
        result.branches = max([result.branches, *(cov for _, cov in status)])
        result.findings += [s for s in done.stdout.splitlines() if s.startswith("FINDING ")]
        result.findings += [f"FINDING a crash: {path}" for path in _DEATH.findall(done.stderr)]
        if not status or "Traceback" in done.stderr:
            sys.exit(f"{name} could not be fuzzed:\n{done.stderr[-3000:]}")
    result.findings = list(dict.fromkeys(result.findings))
    return result


def main() -> None:
    """Run the targets that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no target {min(unknown)}; there are {', '.join(TARGETS)}")
    try:
        import atheris  # noqa: F401
    except ImportError:
        sys.exit("atheris is needed: pip install '.[fuzz]' (CPython 3.11 to 3.14, Linux x86-64)")

    found = 0
    print(f"{'target':12} {'inputs tried':>12} {'branches':>9}  findings")
    for name in arguments.targets or TARGETS:
        result = fuzz(name, arguments.seconds)
        found += len(result.findings)
        print(
            f"{name:12} {result.inputs:12} {result.branches:9}  {len(result.findings)}", flush=True
        )
        for line in result.findings:
            print(f"    {line.removeprefix('FINDING ')}", flush=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
