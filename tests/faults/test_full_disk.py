"""Full disks, quotas and read-only folders: one line says so, and what is finished is kept."""

import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from runs import Ended, Fault, Forks
from worlds import EVALUATE, EXTRACT, FIT_DENSE, FIT_SPARSE, GC, PREDICT, REPAIR, Stage, tree

from pipeline.stages.inspect import verify_cache

IMAGES, PER_SHARD = 18, 2
FINE = (*EXTRACT, "--images-per-shard", str(PER_SHARD))
REPORT = (
    *("report", "--cache", "cache", "--head", "dense=dense.safetensors", "--images", "1"),
    *("--metrics", "dense=metrics.json", "--out", "report"),
)
SCENES = ("data", "scenes", "--out", "scenes", "--images", "3")
NO_ROOM = re.compile(
    r"Error: ([\w./-]+): no room to write it \((File too large|No space left on device)\); "
    r"make room and run it again, what is finished is kept"
)
LEAST = 800
"""Bytes that a log needs, to which a limit applies as well."""


@dataclass(frozen=True)
class Task:
    """A command with the state it begins in and the files it leads to."""

    arguments: Sequence[str]
    start: Path
    before: Mapping[str, str]
    after: Mapping[str, str]
    largest: int

    def limits(self, count: int) -> list[int]:
        """Choose sizes that at least one of the new files exceeds."""
        draw = random.Random(" ".join(self.arguments))
        low, high = math.log(LEAST), math.log(self.largest)
        return [int(math.exp(draw.uniform(low, high))) for _ in range(count - 1)] + [
            self.largest - 1
        ]


@pytest.fixture(scope="session")
def task(
    stage: Stage, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Task]:
    """Make a task, by doing it once."""

    def make(arguments: Sequence[str], state: str, *lost: str) -> Task:
        folder = tmp_path_factory.mktemp("task")
        start, end = folder / "start", folder / "end"
        shutil.copytree(stage.state(state), start)
        if arguments is REPORT:
            assert forks.run(EVALUATE, start).code == 0
        for pattern in lost:
            for path in start.glob(pattern):
                path.unlink()
        shutil.copytree(start, end)
        ended = forks.run(arguments, end)
        assert ended.code == 0, ended.err
        before, after = tree(start), tree(end)
        new = [end / name for name in after if after[name] != before.get(name)]
        return Task(
            arguments, start, before, after, max((path.stat().st_size for path in new), default=0)
        )

    return make


def require_refusal(ended: Ended, world: Path, task: Task) -> str:
    """One line says what could not be written; nothing half-written is left, nothing lost."""
    assert ended.code == 1, ended.err
    for noise in ("Traceback", "Exception ignored", "Warning"):
        assert noise not in ended.err
    told = NO_ROOM.fullmatch(ended.err.splitlines()[-1])
    assert told, ended.err
    for name, digest in tree(world).items():
        assert not name.endswith((".partial", ".lock")), name
        shard = name.rpartition(".h5.")[0] + ".h5" if name.endswith(".retired") else name
        passing = name.endswith((".checkpoint", "-samples.h5"))
        assert passing or digest in (task.before.get(shard), task.after.get(name)), name
    return told[1]


def require_end(forks: Forks, world: Path, task: Task) -> Ended:
    """With room again, all is done as if nothing had happened."""
    ended = forks.run(task.arguments, world)
    assert ended.code == 0, ended.err
    assert tree(world) == task.after
    return ended


@pytest.mark.parametrize(
    ("arguments", "state", "lost"),
    [
        (FINE, "data", ()),
        (FINE, "cached", ()),
        (EXTRACT, "cached", ("cache/*-samples.h5",)),
        (EXTRACT, "cached", ("cache/index.h5", "cache/manifest.json")),
        ((*EXTRACT, "--pixels-per-class", "1"), "cached", ()),
        (REPAIR, "cached", ("cache/val-00001-of-00002.h5",)),
        (FIT_SPARSE, "cached", ()),
        (FIT_DENSE, "sparse", ()),
        (EVALUATE, "dense", ()),
        (PREDICT, "dense", ()),
        (REPORT, "dense", ()),
        (SCENES, "data", ()),
    ],
    ids=[
        *("extract", "divide", "samples", "lists", "draw", "repair"),
        *("fit-sparse", "fit-dense", "evaluate", "predict", "report", "scenes"),
    ],
)
def test_a_limit_on_the_size_of_files(forks, task, tmp_path, arguments, state, lost):
    given = task(arguments, state, *lost)
    for number, limit in enumerate(given.limits(2)):
        world = tmp_path / str(number)
        shutil.copytree(given.start, world)
        ended = forks.run(arguments, world, limits={"RLIMIT_FSIZE": limit})
        require_refusal(ended, world, given)
        require_end(forks, world, given)


@dataclass(frozen=True)
class Disk:
    """A small file system of its own."""

    path: Path

    def fill(self, leave: int) -> None:
        """Leave so many bytes free."""
        found = os.statvfs(self.path)
        with (self.path / "ballast").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)

    def empty(self) -> None:
        """Give the room back."""
        (self.path / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a file system of 64 MB in memory, or skip."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system of its own may not be mounted here")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


@pytest.fixture(scope="session")
def fresh(task: Callable[..., Task]) -> Task:
    """Give an extraction of nine shards from nothing."""
    return task(FINE, "data")


@pytest.fixture(scope="session")
def halt(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Fault]:
    """Find the point of an extraction at which it has just found room enough, to halt it there."""

    def find(given: Task) -> Fault:
        world = tmp_path_factory.mktemp("course") / "world"
        shutil.copytree(given.start, world)
        passed = forks.course(given.arguments, world).passed
        looking = [point for point, module in enumerate(passed) if module == "stages/room.py"]
        return Fault(signal.SIGSTOP, looking[-1] + 1)

    return find


def test_a_disk_that_fills_up_during_the_extraction(forks, fresh, halt, disk):
    cache = fresh.start.parent / "end" / "cache"
    size = sum(path.stat().st_size for path in cache.iterdir())
    kinds, point = set(), halt(fresh)
    for share in (0, 0.2, 0.97, 1.2):
        world = disk.path / "world"
        shutil.copytree(fresh.start, world)
        running = forks.start(fresh.arguments, world, fault=point)
        assert running.end().stopped
        disk.fill(leave=int(share * size))
        os.kill(running.pid, signal.SIGCONT)
        kinds.add(require_refusal(running.end(), world, fresh).rpartition("-")[2])
        finished = PER_SHARD * len(list(world.glob("cache/*-of-?????.h5")))
        disk.empty()
        assert require_end(forks, world, fresh).computed == IMAGES - finished
        shutil.rmtree(world)
    assert {"cache/.lock", "samples.h5"} < kinds


def test_what_cannot_fit_is_refused_before_anything_is_touched(forks, task, fresh, disk):
    world = disk.path / "world"
    cached = task(EXTRACT, "cached")
    shutil.copytree(cached.start, world)
    before = tree(world)
    disk.fill(leave=1_000_000)
    for options in ((), ("--dtype", "int8", "--out", "other")):
        ended = forks.run((*FINE, *options), world)
        assert ended.code == 1
        last = ended.err.splitlines()[-1]
        assert re.fullmatch(r"Error: \w+: \d\.\d MB to write but only 1\.0 MB free; .*", last), last
    disk.empty()
    assert tree(world) == before
    # Room for one cache is enough to replace one by another.
    disk.fill(leave=1_500_000)
    ended = forks.run((*EXTRACT, "--seed", "1", "--replace"), world)
    assert (ended.code, ended.computed) == (0, IMAGES), ended.err
    assert verify_cache(world / "cache") == []


def test_copies_for_which_there_is_no_room(forks, task, halt, disk):
    world = disk.path / "world"
    divided = task(FINE, "cached")
    shutil.copytree(divided.start, world)
    running = forks.start(FINE, world, fault=halt(divided))
    assert running.end().stopped
    disk.fill(leave=1_500_000)
    os.kill(running.pid, signal.SIGCONT)
    require_refusal(running.end(), world, divided)
    disk.empty()
    assert require_end(forks, world, divided).computed == 0


def test_a_training_goes_on_from_the_checkpoint_before_the_disk_was_full(forks, stage, task, disk):
    world = disk.path / "world"
    training = task(FIT_DENSE, "sparse")
    shutil.copytree(training.start, world)
    course = stage.scenario("fit-dense").course.passed
    saving = [i for i, module in enumerate(course) if module == "wholefile.py"]
    apart = next(j for i, j in pairwise(saving) if j - i > 1000)
    running = forks.start(FIT_DENSE, world, fault=Fault(signal.SIGSTOP, apart - 1))
    assert running.end().stopped
    disk.fill(leave=8192)
    os.kill(running.pid, signal.SIGCONT)
    told = require_refusal(running.end(), world, training)
    assert told == "dense.safetensors.checkpoint"
    disk.empty()
    assert "going on after epoch 1" in require_end(forks, world, training).err


def test_a_process_of_its_own_ends_without_a_sound(fresh, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(fresh.start, world)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", *FINE],
        cwd=world,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert ended.returncode == 1
    *progress, last = ended.stderr.splitlines()
    assert NO_ROOM.fullmatch(last), ended.stderr
    assert all(re.match(r"images: |taps of |to write: ", line) for line in progress), progress


@pytest.fixture
def read_only(stage: Stage, forks: Forks, tmp_path: Path) -> Iterator[Path]:
    """Give a world in which nothing can be written but to the folder ``out``."""
    world = tmp_path / "world"
    shutil.copytree(stage.state("dense"), world)
    assert forks.run(EVALUATE, world).code == 0
    (world / "out").mkdir()
    if os.geteuid() != 0:  # whom rights do not bind
        folders = [world, *(path for path in world.iterdir() if path.name not in ("out", "data"))]
        for folder in folders:
            folder.chmod(0o555 if folder.is_dir() else 0o444)
        yield world
        for folder in folders:
            folder.chmod(0o755)
        return
    made = []
    for options in (("--bind", world), ("-o", "remount,ro,bind"), ("--bind", tmp_path)):
        target = world / "out" if options[1] == tmp_path else world
        command = ["mount", *map(str, options), str(target)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("nothing may be mounted here, and rights do not bind the superuser")
        made.append(target)
    yield world
    for target in dict.fromkeys(reversed(made)):
        subprocess.run(["umount", str(target)], check=True)


def test_a_read_only_cache_can_be_read(forks, read_only):
    for arguments in (
        ("cache", "info", "cache"),
        ("cache", "verify", "cache"),
        (*FIT_SPARSE[:4], "out/sparse.safetensors", *FIT_SPARSE[5:]),
        (*FIT_DENSE, "--out", "out/dense.safetensors", "--history", "out/history.csv"),
        (*EVALUATE, "--out", "out/metrics.json"),
        (*REPORT, "--out", "out/report"),
    ):
        ended = forks.run(arguments, read_only)
        assert ended.code == 0, ended.err


def test_what_would_write_there_is_refused_in_one_line(forks, read_only):
    for arguments, where in (
        (EXTRACT, "cache/.lock"),
        (FINE, "cache/.lock"),
        (REPAIR, "cache/.lock"),
        (GC, "cache/.lock"),
        (FIT_SPARSE, "sparse.safetensors"),
        (FIT_DENSE, "dense.safetensors.lock"),
        (EVALUATE, "metrics.json"),
        (REPORT, "report"),
        (PREDICT, "masks"),
        (SCENES, "scenes"),
    ):
        ended = forks.run(arguments, read_only)
        assert ended.code == 1, arguments
        last = ended.err.splitlines()[-1]
        why = "(Read-only file system|Permission denied)"
        assert re.fullmatch(rf"Error: {where}: cannot be written \({why}\); see to .*", last), last
        assert len(re.findall("Error|Traceback|ignored", ended.err)) == 1, ended.err
