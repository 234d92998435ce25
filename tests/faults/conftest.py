"""Runs that can be killed at any point, and the worlds they run in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import VocDataset

# The tests of this folder share modules that pytest would not find.
sys.path.insert(0, str(Path(__file__).parent))

from damage import damages
from records import summary
from runs import Forks
from worlds import Stage


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the length of the suite be chosen; known only where this folder is named to pytest."""
    parser.addoption(
        "--soak", type=int, default=0, metavar="N", help="how many runs to kill, instead of a few"
    )


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Give what starts runs."""
    started = Forks(tmp_path_factory.mktemp("logs"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def stage(scenes: VocDataset, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Give the scenarios, each built when it is first asked for."""
    return Stage(tmp_path_factory.mktemp("stage"), scenes.root, forks)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what has been tried."""
    if lines := [*summary(), *damages()]:
        terminalreporter.section("faults")
        for line in lines:
            terminalreporter.write_line(line)
