"""Killed at any point: nothing finished is lost, nothing half-written is read, the end is the same.

The points are drawn by a seeded generator, so a failure comes back when its test is run alone.
`make soak` draws more of them.
"""

import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest
from conditions import finished, held, require_readable, require_valid
from records import STRIKES, Strike
from runs import Ended, Forks
from worlds import GC, PLOTS, Scenario, Stage, tree

EACH = 2
"""Trials of each scenario, every other one with two kills, unless ``--soak`` sets the kills."""
SHARD = 5
"""Images in the largest shard of any scenario."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test its scenario and a number to draw by."""
    if "trial" in metafunc.fixturenames:
        soak = metafunc.config.getoption("--soak", default=0)
        each = soak * 2 // 3 // len(PLOTS) + 1 if soak else EACH
        metafunc.parametrize("trial", range(each))


def kill(forks: Forks, scenario: Scenario, world: Path, random: Random, *, clock: bool) -> Ended:
    """Run and kill it, at a point or after some time; it may have ended before."""
    if clock:
        run = forks.start(scenario.arguments, world)
        time.sleep(random.uniform(0, scenario.course.seconds / 2))
        os.kill(run.pid, signal.SIGKILL)
        ended = run.end()
    else:
        ended = forks.run(scenario.arguments, world, scenario.course.draw(random))
    if ended.killed:
        module = "" if ended.struck is None else ended.struck["module"]
        writing = any(world.rglob("*.partial"))
        STRIKES.append(Strike("killed", scenario.name, module, writing))
    else:
        assert ended.code == 0, ended.err
    return ended


@pytest.mark.parametrize("name", PLOTS)
def test_a_killed_run_loses_nothing_and_goes_on_to_the_same_end(
    forks: Forks, stage: Stage, tmp_path: Path, name: str, trial: int
) -> None:
    scenario, random = stage.scenario(name), Random(f"{name} {trial}")
    world = tmp_path / "world"
    shutil.copytree(scenario.start, world)
    computed, kills = 0, 1 + trial % 2
    turn = trial + list(PLOTS).index(name)
    for count in range(kills):
        before = finished(world, scenario)
        ended = kill(forks, scenario, world, random, clock=turn % 5 == 0 and count == 0)
        require_valid(world, scenario)
        require_readable(world, scenario)
        assert finished(world, scenario).items() >= before.items()
        computed += 0 if ended.struck is None else ended.struck["computed"]

    if turn % 3 == 1 and (world / "cache").is_dir():
        here = held(world, scenario)
        forks.run(GC, world)
        assert held(world, scenario) == here

    kept = finished(world, scenario)
    missing = len(scenario.images - held(world, scenario))
    ended = forks.run(scenario.arguments, world)
    assert ended.code == 0, ended.err
    assert tree(world) == scenario.after
    assert finished(world, scenario).items() >= kept.items()
    if ended.computed is not None:
        assert ended.computed == missing
        assert computed + missing <= scenario.course.computed + kills * SHARD
    shutil.rmtree(world)
