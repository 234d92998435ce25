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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image
from runs import Ended, Fault, Forks, Run
from worlds import (
    EVALUATE,
    EXTRACT,
    FIT_DENSE,
    FIT_SPARSE,
    GC,
    PREDICT,
    REPAIR,
    Scenario,
    Stage,
    tree,
)

from pipeline import Drawing, Preprocessing, extract
from pipeline.cache import ImageRecord, ShardHeader, plan_shards, written_shard
from pipeline.identity import Identity, TapIdentity
from pipeline.progress import Silent
from pipeline.stages.extract import identity_of
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.inspect import verify_cache
from pipeline.stages.room import bytes_of_samples, bytes_of_shards

IMAGES = 18
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


class Task(Protocol):
    """A command with the state it begins in and the files it leads to, such as a scenario."""

    arguments: tuple[str, ...]
    start: Path
    end: Path
    before: dict[str, str]
    after: dict[str, str]


@dataclass(frozen=True)
class Undisturbed:
    """What a command does that is no scenario."""

    arguments: tuple[str, ...]
    start: Path
    end: Path
    before: dict[str, str]
    after: dict[str, str]


@pytest.fixture(scope="session")
def task(
    stage: Stage, forks: Forks, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Task]:
    """Give a scenario, or one of a few more tasks."""

    def make(name: str) -> Task:
        if name not in ("lists", "report", "scenes"):
            return stage.scenario(name)
        folder = tmp_path_factory.mktemp("task")
        start, end = folder / "start", folder / "end"
        arguments = {"lists": EXTRACT, "report": REPORT, "scenes": SCENES}[name]
        shutil.copytree(stage.scenario("evaluate").end, start)
        if name == "lists":
            (start / "cache" / "index.h5").unlink()
            (start / "cache" / "manifest.json").unlink()
        shutil.copytree(start, end)
        ended = forks.run(arguments, end)
        assert ended.code == 0, ended.err
        return Undisturbed(arguments, start, end, tree(start), tree(end))

    return make


def limits(task: Task, count: int) -> Iterator[int]:
    """Choose sizes, one of which the largest of the new files just exceeds."""
    draw = random.Random(" ".join(task.arguments))
    new = [name for name, digest in task.after.items() if digest != task.before.get(name)]
    largest = max((task.end / name).stat().st_size for name in new)
    for _ in range(count - 1):
        yield int(math.exp(draw.uniform(math.log(LEAST), math.log(largest))))
    yield largest - 1


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
    ("name", "count"),
    [
        *(("extract", 3), ("extract-divided", 2), ("samples", 2), ("lists", 1), ("repair", 1)),
        *(("fit-sparse", 2), ("fit-dense", 1), ("evaluate", 2), ("predict", 1)),
        *(("report", 1), ("scenes", 2)),
    ],
)
def test_a_limit_on_the_size_of_files(forks, task, tmp_path, name, count):
    given = task(name)
    for number, limit in enumerate(limits(given, count)):
        world = tmp_path / str(number)
        shutil.copytree(given.start, world)
        ended = forks.run(given.arguments, world, limits={"RLIMIT_FSIZE": limit})
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


def run_until_it_has_looked(forks: Forks, given: Scenario, world: Path) -> Run:
    """Start an extraction, and have it halt when it has just found room enough."""
    shutil.copytree(given.start, world)
    passed = given.course.passed
    looking = [point for point, module in enumerate(passed) if module == "stages/room.py"]
    running = forks.start(given.arguments, world, fault=Fault(signal.SIGSTOP, looking[-1] + 1))
    assert running.end().stopped
    return running


def test_a_disk_that_fills_up_during_the_extraction(forks, stage, disk):
    given = stage.scenario("extract")
    size = sum(path.stat().st_size for path in (given.end / "cache").iterdir())
    kinds = set()
    for share in (0.001, 0.6, 1.15):
        world = disk.path / "world"
        running = run_until_it_has_looked(forks, given, world)
        disk.fill(leave=int(share * size))
        os.kill(running.pid, signal.SIGCONT)
        kinds.add(require_refusal(running.end(), world, given).rpartition("-")[2])
        shards = [ShardHeader.read(path) for path in world.glob("cache/*-of-?????.h5")]
        disk.empty()
        left = IMAGES - sum(len(shard.details.images) for shard in shards)
        assert require_end(forks, world, given).computed == left
        shutil.rmtree(world)
    assert len(kinds) > 1  # different files were the first to find no room


def test_what_cannot_fit_is_refused_before_anything_is_touched(forks, stage, disk):
    world = disk.path / "world"
    shutil.copytree(stage.state("cached"), world)
    before = tree(world)
    disk.fill(leave=1_000_000)
    for options in (("--images-per-shard", "2"), ("--dtype", "int8", "--out", "other")):
        ended = forks.run((*EXTRACT, *options), world)
        assert ended.code == 1
        last = ended.err.splitlines()[-1]
        assert re.fullmatch(r"Error: \w+: \d\.\d MB to write but only 1\.0 MB free; .*", last), last
    disk.empty()
    assert tree(world) == before
    # The room of a cache is enough to replace it by another.
    disk.fill(leave=1_500_000)
    ended = forks.run((*EXTRACT, "--seed", "1", "--replace"), world)
    assert (ended.code, ended.computed) == (0, IMAGES), ended.err
    assert verify_cache(world / "cache") == []


def test_copies_for_which_there_is_no_room(forks, stage, disk):
    world = disk.path / "world"
    given = stage.scenario("extract-divided")
    running = run_until_it_has_looked(forks, given, world)
    disk.fill(leave=1_500_000)
    os.kill(running.pid, signal.SIGCONT)
    require_refusal(running.end(), world, given)
    disk.empty()
    assert require_end(forks, world, given).computed == 0


def test_a_training_goes_on_from_the_checkpoint_before_the_disk_was_full(forks, stage, disk):
    world = disk.path / "world"
    given = stage.scenario("fit-dense")
    shutil.copytree(given.start, world)
    writing = [point for point, m in enumerate(given.course.passed) if m == "wholefile.py"]
    second = next(late for early, late in pairwise(writing) if late - early > 1000)
    running = forks.start(given.arguments, world, fault=Fault(signal.SIGSTOP, second - 1))
    assert running.end().stopped
    disk.fill(leave=8192)
    os.kill(running.pid, signal.SIGCONT)
    assert require_refusal(running.end(), world, given) == "dense.safetensors.checkpoint"
    disk.empty()
    assert "going on after epoch 1" in require_end(forks, world, given).err


def test_a_process_of_its_own_ends_without_a_sound(stage, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(stage.state("data"), world)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", *EXTRACT],
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
        ((*EXTRACT, "--images-per-shard", "2"), "cache/.lock"),
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


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("input_size", ["native", "40", "short:120"])
def test_what_will_be_written_is_known_before(scenes, backbone, tmp_path, dtype, input_size):
    preprocessing = Preprocessing(input_size=input_size)
    ids = scenes.image_ids("val")
    records = ImageRecords(
        scenes, backbone, preprocessing, batch_size=1, skip=False, progress=Silent()
    )
    plans = plan_shards(tmp_path, "val", records.sources(ids), 4)
    identity = identity_of(scenes, backbone, preprocessing, geometry="half_pixel", dtype=dtype)
    told = bytes_of_shards(plans, records, identity)
    told += bytes_of_samples(ids, records, identity, Drawing())
    extract(
        *(scenes, backbone, tmp_path),
        splits=["val"],
        preprocessing=preprocessing,
        dtype=dtype,
        images_per_shard=4,
    )
    assert told == pytest.approx(sum(p.stat().st_size for p in tmp_path.iterdir()), rel=0.05)


def test_samples_are_estimated_from_some_of_the_masks(scenes, backbone, monkeypatch):
    preprocessing = Preprocessing(input_size="native")
    ids = scenes.image_ids("train")
    identity = identity_of(scenes, backbone, preprocessing, geometry="half_pixel", dtype="float16")
    records = ImageRecords(
        scenes, backbone, preprocessing, batch_size=1, skip=False, progress=Silent()
    )
    exact = bytes_of_samples(ids, records, identity, Drawing())
    monkeypatch.setattr("pipeline.stages.room._MASKS_LOOKED_AT", 5)
    assert bytes_of_samples(ids, records, identity, Drawing()) == pytest.approx(exact, rel=0.3)
    assert bytes_of_samples([], records, identity, Drawing()) == 0


def test_few_files_are_open_however_many_there_are(forks, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is lost here
    identity = Identity(
        backbone="net",
        weights="0",
        taps=(TapIdentity(name="tap", modules=("a",), channels=2, stride=1),),
        preprocessing={},
        geometry="half_pixel",
        dtype="float32",
        classes=("ground",),
        void=255,
    )
    sources = {f"image{n}": {"image_digest": "", "mask_digest": ""} for n in range(600)}
    label = np.zeros((2, 3), np.uint8)
    picture = np.zeros((2, 3, 3), np.uint8)
    for number, plan in enumerate(plan_shards(tmp_path / "cache", "train", sources, 1)):
        ((image_id, files),) = plan.sources.items()
        maps = {"tap": np.full((2, 2, 3), number, np.float32)}
        record = ImageRecord(image_id, maps, label, label, picture, files)
        with written_shard(plan, identity, dataset="many", software={}) as writer:
            writer.add(record.stored(identity))
    ended = forks.run(
        [str(tmp_path / "cache"), 1],
        tmp_path,
        call="reading:read_at_random",
        limits={"RLIMIT_NOFILE": 64},
    )
    assert ended.code == 0, ended.err


def test_few_files_are_open_during_an_extraction(forks, stage, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(stage.state("data"), world)
    few = {"RLIMIT_NOFILE": 32}
    assert forks.run((*EXTRACT, "--images-per-shard", "1"), world, limits=few).code == 0
    ended = forks.run(EXTRACT, world, limits=few)  # out of eighteen files
    assert (ended.code, ended.computed) == (0, 0), ended.err
    assert tree(world) == tree(stage.state("cached"))


def test_memory_does_not_grow_with_the_number_of_images(forks, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    names = [f"image{n}" for n in range(400)]
    for name in names:
        for folder, shape, most in (
            ("JPEGImages", (24, 32, 3), 256),
            ("SegmentationClass", (24, 32), 3),
        ):
            pixels = rng.integers(0, most, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{name}.png")
    for split, count in (("few", 40), ("many", 400)):
        listing = tmp_path / "data" / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.write_text("\n".join(names[:count]))
    peaks = []
    for split in ("few", "many"):
        arguments = (*EXTRACT, "--images-per-shard", "16", "--split", split, "--out", split)
        ended = forks.run(arguments, tmp_path, call="reading:tell_peak")
        assert ended.code == 0, ended.err
        peaks.append(int(ended.out.split()[-1]))
    assert peaks[1] - peaks[0] < 15_000, peaks
