"""Tools in processes of their own, told in turns to segment the same image."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.settings import ROOT
from benchmarks.timing import Took, in_turns


class CannotCompete(Exception):
    """A tool that is not installed, or fails; the text says why."""


class Contestant:
    """A running :mod:`benchmarks.contestant`.

    Parameters
    ----------
    tool : str
    folder : Path
        With what it reads.
    python : str
        The interpreter.

    Raises
    ------
    CannotCompete
        If it does not get ready.
    """

    def __init__(self, tool: str, folder: Path, python: str) -> None:
        threads = str(torch.get_num_threads())
        self._errors = (folder / f"{tool}.stderr").open("w+")
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.contestant", tool, str(folder), threads],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            self._answer()
        except CannotCompete:
            self.leave()
            raise

    def segment(self) -> Took:
        """Have it segment once."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise CannotCompete(self._last_words()) from error
        return Took(float(self._answer()["seconds"]))

    def peak(self) -> int:
        """End it, and give the bytes that segmenting took beyond its imports."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return int(self._answer()["peak"])

    def leave(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None and not stream.closed:
                stream.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise CannotCompete(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        if self._process.poll() == -signal.SIGKILL:
            return "it was killed, most likely because the memory did not suffice"
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "it was killed")
        return words.replace("|", "/")[:200]


@dataclass(frozen=True)
class Duel:
    """What the tools took: seconds per round and bytes, or why they could not compete."""

    seconds: Mapping[str, list[float]]
    peaks: Mapping[str, int]
    absent: Mapping[str, str]


def compete(
    own: Sequence[str], others: Sequence[str], folder: Path, *, rounds: int, opponents_python: str
) -> Duel:
    """Measure tools in turns.

    Parameters
    ----------
    own, others : sequence of str
        Tools to run with this interpreter, and with the opponents'.
    folder : Path
        With what they read.
    rounds : int
    opponents_python : str
    """
    running: dict[str, Contestant] = {}
    absent: dict[str, str] = {}
    try:
        for tool in (*own, *others):
            python = sys.executable if tool in own else opponents_python
            try:
                running[tool] = Contestant(tool, folder, python)
            except CannotCompete as error:
                absent[tool] = str(error)
        seconds = in_turns({tool: one.segment for tool, one in running.items()}, rounds, warm_up=0)
        return Duel(seconds, {tool: one.peak() for tool, one in running.items()}, absent)
    finally:
        for one in running.values():
            one.leave()
