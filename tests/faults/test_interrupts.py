"""Ctrl-C at any point: exit code 130, one line, and nothing finished is lost."""

import shutil
import signal
from pathlib import Path
from random import Random

import pytest
from conditions import finished, held, require_valid
from records import STRIKES, Strike
from runs import Fault, Forks
from worlds import PLOTS, Scenario, Stage, tree

EACH = 1
"""Runs that are interrupted in each scenario, unless there is a soak."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test a number to draw by."""
    if "trial" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=0)
        metafunc.parametrize("trial", range(max(EACH, soak // len(PLOTS) // 4)))


def interrupt(forks: Forks, scenario: Scenario, world: Path, fault: Fault) -> None:
    """Run and interrupt it, and see how it ends and what it leaves."""
    shutil.copytree(scenario.start, world)
    ended = forks.run(scenario.arguments, world, fault)
    assert ended.struck is not None
    assert ended.code == 130, (ended.struck, ended.err)
    assert ended.err.splitlines()[-1] == "interrupted; what was finished is kept"
    assert "Traceback" not in ended.err
    assert "ignored" not in ended.err
    writing = any(world.rglob("*.partial"))
    STRIKES.append(Strike("interrupted", scenario.name, ended.struck["module"], writing))
    require_valid(world, scenario)


@pytest.mark.parametrize("name", PLOTS)
def test_ctrl_c_ends_a_run_with_one_line_and_nothing_is_lost(
    forks: Forks, stage: Stage, tmp_path: Path, name: str, trial: int
) -> None:
    scenario, random = stage.scenario(name), Random(f"Ctrl-C {name} {trial}")
    world = tmp_path / "world"
    interrupt(forks, scenario, world, scenario.course.draw(random, signal.SIGINT))
    kept = finished(world, scenario)
    missing = len(scenario.images - held(world, scenario))
    ended = forks.run(scenario.arguments, world)
    assert ended.code == 0, ended.err
    assert tree(world) == scenario.after
    assert finished(world, scenario).items() >= kept.items()
    assert ended.computed in (None, missing)
    shutil.rmtree(world)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_ctrl_c_is_not_lost_while_hdf5_writes(
    forks: Forks, stage: Stage, tmp_path: Path, share: float
) -> None:
    scenario = stage.scenario("extract")
    written = [i for i, name in enumerate(scenario.course.passed) if name == "wholefile.py"]
    fault = Fault(signal.SIGINT, written[int(share * len(written))])
    interrupt(forks, scenario, tmp_path / "world", fault)
