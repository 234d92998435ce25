"""What a run is writing is left alone by others, and what a dead one left is not."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from conditions import require_valid
from runs import Fault, Forks, Run
from worlds import EXTRACT, FIT_DENSE, GC, Scenario, Stage, tree

SHARD = "*-of-?????.h5"


def paused(forks: Forks, scenario: Scenario, world: Path, what: str) -> tuple[Run, list[Path]]:
    """Start a run and have it stop while it writes a file of that name; give both."""
    passed = scenario.course.passed
    writing = [i for i, name in enumerate(passed) if name in ("wholefile.py", "cache/shards.py")]
    for point in Random(what).sample(writing, len(writing)):
        shutil.copytree(scenario.start, world)
        run = forks.start(scenario.arguments, world, fault=Fault(signal.SIGSTOP, point))
        assert run.end().stopped
        if partial := list(world.rglob(f"{what}.*.partial")):
            return run, partial
        kill(run)
        shutil.rmtree(world)
    raise AssertionError(f"it never wrote {what}")


def kill(run: Run) -> None:
    """Kill a run that was stopped."""
    os.kill(run.pid, signal.SIGKILL)
    assert run.end().killed


def go_on(run: Run) -> None:
    """Let a run that was stopped go on to its end."""
    os.kill(run.pid, signal.SIGCONT)
    ended = run.end()
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("name", "what"),
    [("predict", "scene_*.png"), ("fit-sparse", "*.safetensors"), ("evaluate", "*.json")],
)
def test_two_runs_that_write_the_same_files_do_not_touch_what_the_other_is_writing(
    forks: Forks, stage: Stage, tmp_path: Path, name: str, what: str
) -> None:
    scenario, world = stage.scenario(name), tmp_path / "world"
    first, partial = paused(forks, scenario, world, what)
    second = forks.run(scenario.arguments, world)
    assert second.code == 0, second.err
    assert list(world.rglob("*.partial")) == partial
    go_on(first)
    assert tree(world) == scenario.after


@pytest.mark.parametrize("end", [signal.SIGCONT, signal.SIGKILL])
def test_an_extraction_waits_for_a_live_one_and_takes_over_from_a_dead_one(
    forks: Forks, stage: Stage, tmp_path: Path, end: signal.Signals
) -> None:
    scenario, world = stage.scenario("extract"), tmp_path / "world"
    first, partial = paused(forks, scenario, world, SHARD)
    second = forks.start(scenario.arguments, world)
    while "waiting for other processes" not in second.said:
        assert second.wait(0.05) is None, second.said
    assert list(world.rglob("*.partial")) == partial
    require_valid(world, scenario)
    if end == signal.SIGCONT:
        go_on(first)
    else:
        kill(first)
    ended = second.end()
    assert ended.code == 0, ended.err
    assert tree(world) == scenario.after


@pytest.mark.parametrize(
    ("name", "what", "arguments"),
    [
        ("extract-on", SHARD, GC),
        ("extract-on", SHARD, (*EXTRACT, "--images-per-shard", "2")),
        ("extract-on", SHARD, (*EXTRACT, "--dtype", "int8", "--replace")),
        ("fit-dense", "*.checkpoint", FIT_DENSE),
    ],
    ids=["gc", "another division", "another dtype", "fit-dense"],
)
def test_what_would_be_in_the_way_of_a_live_run_is_refused_and_it_is_not_hurt(
    forks: Forks, stage: Stage, tmp_path: Path, name: str, what: str, arguments: Sequence[str]
) -> None:
    scenario, world = stage.scenario(name), tmp_path / "world"
    first, partial = paused(forks, scenario, world, what)
    before = tree(world)
    second = forks.run(arguments, world)
    assert second.code == 1
    assert second.err.splitlines()[-1].startswith("Error: ")
    assert "until" in second.err
    assert list(world.rglob("*.partial")) == partial
    # In the lock's file, everyone who comes adds a line.
    changed = {name for name, digest in tree(world).items() if digest != before[name]}
    assert changed <= {"cache/.lock"}
    go_on(first)
    assert tree(world) == scenario.after
