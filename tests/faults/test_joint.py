"""Several processes at once: they divide the work or are told to wait, and hurt nothing."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from reading import Items, contents, digests_of
from runs import Course, Ended, Fault, Forks, Run
from torch.utils.data import DataLoader
from worlds import EXTRACT, FIT_DENSE, FIT_SPARSE, GC, REPAIR, Stage, tree

from pipeline import FeatureCache, VocDataset, extract
from pipeline.cache import alone_in, joint_session, read_manifest
from pipeline.errors import CacheError, CacheMismatchError, CacheNotFoundError, DataError
from pipeline.stages.inspect import verify_cache

IMAGES, PER_SHARD = 18, 2
FINE = (*EXTRACT, "--images-per-shard", str(PER_SHARD))


@dataclass(frozen=True)
class Alone:
    """A world whose cache one undisturbed process made, in shards of two images, and its course."""

    world: Path
    course: Course

    def point(self, module: str, share: float) -> int:
        """Give a point in a module, after a share of those that the run passed in it."""
        points = [i for i, passed in enumerate(self.course.passed) if passed == module]
        return points[int(share * len(points))]


@pytest.fixture(scope="session")
def alone(stage: Stage, forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Give what one process makes that nothing disturbs."""
    world = tmp_path_factory.mktemp("alone") / "world"
    shutil.copytree(stage.state("data"), world)
    return Alone(world, forks.course(FINE, world))


@pytest.fixture
def world(stage: Stage, tmp_path: Path) -> Path:
    """Give a world without a cache."""
    shutil.copytree(stage.state("data"), tmp_path / "world")
    return tmp_path / "world"


def start_all(
    forks: Forks, commands: Sequence[Sequence[str]], world: Path, apart: float = 0
) -> list[Run]:
    """Start runs, some seconds apart."""
    started = []
    for number, command in enumerate(commands):
        if number:
            time.sleep(apart)
        started.append(forks.start(command, world))
    return started


def require_all_well(ended: Sequence[Ended]) -> None:
    for one in ended:
        assert one.code == 0, one.err


def require_same(world: Path, undisturbed: Path) -> None:
    """Every file is there, byte for byte, and no other: no lock, no half-written file."""
    found = tree(world)
    expected = tree(undisturbed)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == set()
    assert verify_cache(world / "cache") == []


@pytest.mark.parametrize(("count", "apart"), [(2, 0), (3, 0.15), (8, 0.02)])
def test_processes_divide_the_images_among_them(forks, world, alone, count, apart):
    ended = [run.end() for run in start_all(forks, [FINE] * count, world, apart)]
    require_all_well(ended)
    computed = [one.computed for one in ended]
    assert sum(computed) == IMAGES, computed
    assert sum(map(bool, computed)) > 1
    require_same(world, alone.world)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("seed", range(2))
def test_the_others_take_over_from_one_that_dies(forks, world, alone, number, seed):
    draw = random.Random(f"{number} {seed}")
    point = draw.randrange(len(alone.course.passed) * 2 // 3)
    one = forks.start(FINE, world, fault=Fault(signal.SIGSTOP, point))
    assert one.end().stopped
    left = IMAGES - PER_SHARD * len(list((world / "cache").glob("*-of-?????.h5")))
    others = start_all(forks, [FINE] * 2, world)
    time.sleep(draw.uniform(0, 0.5))
    os.kill(one.pid, number)
    os.kill(one.pid, signal.SIGCONT)
    ended = [run.end() for run in others]
    require_all_well(ended)
    died = one.end()
    assert died.killed if number == signal.SIGKILL else died.code == 130
    assert sum(other.computed for other in ended) == left
    require_same(world, alone.world)


def test_when_all_have_died_the_next_one_does_what_is_left(forks, world, alone):
    draw = random.Random(0)
    points = [draw.randrange(len(alone.course.passed) // 4) for _ in range(3)]
    started = [forks.start(FINE, world, fault=Fault(signal.SIGKILL, point)) for point in points]
    dead = [run.end() for run in started]
    assert all(one.killed for one in dead)
    finished = PER_SHARD * len(list((world / "cache").glob("*-of-?????.h5")))
    last = forks.run(FINE, world)
    require_all_well([last])
    assert last.computed == IMAGES - finished
    require_same(world, alone.world)


OTHER_SETTINGS = (
    ("--dtype", "float32"),
    ("--dtype", "float32", "--replace"),
    ("--tap", "fire3"),
    ("--images-per-shard", "3"),
    ("--pixels-per-class", "1"),
)


def test_whoever_would_do_something_else_is_told_who_is_there(forks, world, alone):
    first = forks.start(
        FINE, world, fault=Fault(signal.SIGSTOP, alone.point("cache/shard_writer.py", 0.5))
    )
    assert first.end().stopped
    commands = [(*FINE, *options) for options in OTHER_SETTINGS]
    commands += [(*REPAIR, "--dataset", "data", "--weights", "random"), GC]
    ended = [forks.run(command, world) for command in commands]
    os.kill(first.pid, signal.SIGCONT)
    require_all_well([first.end()])
    for command, one in zip(commands, ended, strict=True):
        assert one.code == 1, command
        last = one.err.splitlines()[-1]
        who = "an extraction" if command is GC else f"process {first.pid} on "
        assert re.fullmatch(rf"Error: cache: {who}.*; wait until .*", last), (command, last)
    require_same(world, alone.world)


def test_a_lock_whose_file_comes_and_goes_keeps_all_others_out(forks, tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    started = [
        forks.start([str(counter), 50], tmp_path, call="strivers:count_up") for _ in range(4)
    ]
    require_all_well([run.end() for run in started])
    assert counter.read_text() == "200"
    assert not counter.with_suffix(".lock").exists()


@pytest.mark.parametrize("gaps", [False, True])
def test_sessions_begin_and_end_alone_and_never_mix(forks, tmp_path, gaps):
    started = [
        forks.start([str(tmp_path), seed, 40, gaps], tmp_path, call="strivers:hold_sessions")
        for seed in range(5)
    ]
    require_all_well([run.end() for run in started])
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= ({"begun"} if gaps else set())


def test_waiting_can_be_interrupted(forks, world, alone):
    first = forks.start(
        FINE, world, fault=Fault(signal.SIGSTOP, alone.course.passed.index("cache/inventory.py"))
    )
    assert first.end().stopped
    second = forks.start(FINE, world)
    assert second.wait(seconds=1) is None
    os.kill(second.pid, signal.SIGINT)
    assert second.end().code == 130
    os.kill(first.pid, signal.SIGCONT)
    require_all_well([first.end()])
    require_same(world, alone.world)


def test_locks_of_the_dead_are_removed(forks, world, alone):
    fault = Fault(signal.SIGKILL, alone.point("cache/shard_writer.py", 0.5))
    assert forks.start(FINE, world, fault=fault).end().killed
    assert len(list(world.glob("cache/*.lock"))) == 4  # of the cache, its splits, and a shard
    assert forks.run(GC, world).code == 0
    assert list(world.glob("cache/*.lock")) == []
    assert list(world.glob("cache/*.partial")) == []


def test_splits_can_be_extracted_beside_one_another(forks, world, alone):
    train, val = ([*FINE, "--split", split] for split in ("train", "val"))
    ended = [run.end() for run in start_all(forks, [train, val, FINE], world)]
    require_all_well(ended)
    assert sum(one.computed for one in ended) == IMAGES
    require_same(world, alone.world)


def test_a_finished_split_can_be_used_while_another_is_extracted(forks, stage, alone, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(stage.state("data"), world)
    first = forks.start(
        FINE, world, fault=Fault(signal.SIGSTOP, alone.point("cache/shard_writer.py", 0.9))
    )
    assert first.end().stopped
    fitted = forks.run(FIT_SPARSE, world)
    refused = forks.run((*FIT_SPARSE, "--split", "val"), world)
    checked = forks.run(("cache", "verify", "cache"), world)
    os.kill(first.pid, signal.SIGCONT)
    require_all_well([first.end(), fitted])
    assert refused.code == 1
    assert "split 'val' is not complete" in refused.err
    assert checked.code == 1
    assert all("split val is missing" in line for line in checked.out.splitlines()[:-1])
    (world / "sparse.safetensors").unlink()
    require_same(world, alone.world)


@pytest.mark.parametrize(
    "options",
    [("--images-per-shard", "3"), ("--seed", "1", "--replace")],
    ids=["copied", "replaced"],
)
def test_whoever_reads_meanwhile_gets_right_values_or_is_told(forks, alone, tmp_path, options):
    cache = tmp_path / "world" / "cache"
    shutil.copytree(alone.world, cache.parent)
    opened = FeatureCache(cache)
    before = contents(cache)
    running = forks.start((*EXTRACT, *options), cache.parent)
    seen: dict[str, set[str]] = {image_id: set() for image_id in before}
    told: list[CacheError] = []
    while (ended := running.wait(seconds=0.01)) is None:
        for each in (opened, cache):
            try:
                each = FeatureCache(each) if isinstance(each, Path) else each
                for split in each.splits.values():
                    for image_id in split.image_ids:
                        value = digests_of(split, image_id)
                        if each is opened:
                            assert value == before[image_id]
                        seen[image_id].add(value)
            except CacheError as error:
                told.append(error)
    require_all_well([ended])
    after = contents(cache)
    assert verify_cache(cache) == []
    assert (before == after) == ("--replace" not in options)
    for image_id, values in seen.items():
        assert values <= {before[image_id], after[image_id]}
    for error in told:
        assert isinstance(error, CacheNotFoundError | CacheMismatchError), error


def test_a_shard_that_was_written_anew_is_not_taken_for_the_old_one(forks, alone, tmp_path):
    shutil.copytree(alone.world, tmp_path / "world")
    split = FeatureCache(tmp_path / "world" / "cache")["train"]
    known = digests_of(split, split.image_ids[0])
    require_all_well([forks.run((*FINE, "--seed", "1", "--replace"), tmp_path / "world")])
    assert digests_of(split, split.image_ids[0]) == known  # its file is held open
    with pytest.raises(CacheMismatchError, match=r"00005-of-00006\.h5: was written anew"):
        split.stored(split.image_ids[-1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loaders_read_in_processes_of_their_own_from_a_cache_in_use(alone, method):
    split = FeatureCache(alone.world / "cache")["train"]
    expected = {image_id: digests_of(split, image_id) for image_id in split.image_ids}
    loader = DataLoader(
        Items(split),
        num_workers=2 if method == "fork" else 1,  # which has to import everything first
        multiprocessing_context=method,
        collate_fn=list,
        shuffle=True,
    )
    for _ in range(2 if method == "fork" else 1):
        found = iter(loader)
        for image_id in split.image_ids:  # this process goes on reading beside its workers
            assert digests_of(split, image_id) == expected[image_id]
        assert dict(item for batch in found for item in batch) == expected


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_threads_share_a_cache_and_processes_are_forked_meanwhile(alone):
    cache = FeatureCache(alone.world / "cache")
    expected = contents(cache.path)
    splits = {i: split for split in cache.splits.values() for i in split.image_ids}
    assert len(list(cache.path.glob("*-of-?????.h5"))) > 8  # more than are held open

    def read(seed: int) -> bool:
        order = random.Random(seed).sample(sorted(splits), len(splits))
        return all(digests_of(splits[i], i) == expected[i] for i in order)

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(read, seed) for seed in range(8)]
        children = []
        for seed in range(5):
            time.sleep(0.01)
            if (child := os.fork()) == 0:
                signal.alarm(30)  # rather than wait for a lock of a thread that is not here
                os._exit(0 if read(seed) else 1)
            children.append(child)
        assert all(result.result() for result in results)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 5


def test_of_two_that_train_one_head_the_second_is_told_to_wait(forks, stage, tmp_path):
    scenario = stage.scenario("fit-dense")
    world = tmp_path / "world"
    shutil.copytree(scenario.start, world)
    point = scenario.course.passed.index("training/trainer.py") + 1000
    first = forks.start(FIT_DENSE, world, fault=Fault(signal.SIGSTOP, point))
    assert first.end().stopped
    second = forks.run(FIT_DENSE, world)
    elsewhere = forks.run((*FIT_DENSE, "--out", "other.safetensors"), world)
    os.kill(first.pid, signal.SIGCONT)
    require_all_well([first.end(), elsewhere])
    assert second.code == 1
    last = "Error: dense.safetensors: another run is writing it; wait until it is done"
    assert second.err.splitlines()[-1] == last
    (world / "other.safetensors").unlink()
    assert tree(world) == scenario.after


@pytest.mark.parametrize("name", ["fit-sparse", "predict", "evaluate"])
def test_two_that_do_the_same_write_the_same(forks, stage, tmp_path, name):
    scenario = stage.scenario(name)
    world = tmp_path / "world"
    shutil.copytree(scenario.start, world)
    require_all_well([run.end() for run in start_all(forks, [scenario.arguments] * 2, world)])
    assert tree(world) == scenario.after


@pytest.mark.parametrize("command", [FINE, (*FIT_SPARSE, "--out", "new/head.safetensors")])
def test_a_file_system_without_locks_is_named(forks, stage, tmp_path, command):
    world = tmp_path / "world"
    shutil.copytree(stage.state("cached"), world)
    before = tree(world)
    ended = forks.run(command, world, locks=False)
    assert ended.code == 1
    where = r"(cache/\.lock|new/head\.safetensors\.\w+\.partial)"
    assert re.fullmatch(
        rf"Error: {where}: this file system has no file locks .*; write to another one",
        ended.err.splitlines()[-1],
    )
    assert tree(world).keys() <= before.keys() | {"cache/.lock"}


def test_a_lock_that_is_a_link_to_a_file_of_the_user_s_is_not_followed(forks, stage, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(stage.state("cached"), world)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (world / "cache" / ".lock").symlink_to(precious)
    for command in (FINE, GC):
        ended = forks.run(command, world)
        assert ended.code == 1
        assert ended.err.splitlines()[-1].startswith("Error: cache/.lock: cannot be written (")
    assert precious.read_text() == "mine"


def test_the_lock_file_of_a_dead_run_says_nothing(tmp_path):
    (tmp_path / ".lock").write_text("a key\nprocess 1 on nowhere\n")
    begun = []
    with joint_session(tmp_path, "another key", begin=lambda: begun.append(1)):
        pass
    assert begun == [1]
    (tmp_path / ".lock").write_text("a key\n")
    with alone_in(tmp_path):
        # Nobody may join by the dead one's note if this one dies as well.
        assert (tmp_path / ".lock").read_text() == ""


def test_an_error_that_is_kept_keeps_no_lock(stage, backbone, tmp_path):
    shutil.copytree(stage.state("data"), tmp_path / "world")
    dataset = VocDataset.open(tmp_path / "world" / "data")
    path = dataset.image_path(dataset.image_ids("train")[3])
    content = path.read_bytes()
    path.write_bytes(content[:100])
    out = tmp_path / "cache"
    with pytest.raises(DataError) as kept:
        extract(dataset, backbone, out, images_per_shard=PER_SHARD, splits=["train"])
    assert [file for file in out.iterdir() if file.suffix in (".lock", ".partial")] == []
    path.write_bytes(content)
    result = extract(dataset, backbone, out, images_per_shard=PER_SHARD, splits=["train"])
    assert result.computed == 12 - PER_SHARD
    assert kept.tb is not None


def test_many_write_one_file_at_the_same_time(forks, tmp_path):
    started = [
        forks.start([str(tmp_path / "one"), 60], tmp_path, call="strivers:write") for _ in range(6)
    ]
    require_all_well([run.end() for run in started])
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_was_left_out_of_one_split_stays_listed_when_another_is_extracted(
    stage, backbone, tmp_path
):
    shutil.copytree(stage.state("data"), tmp_path / "world")
    dataset = VocDataset.open(tmp_path / "world" / "data")
    ids = dataset.image_ids("val")
    for split, lines in (("train", [ids[0], "../evil"]), ("val", [ids[1]])):
        dataset.split_path(split).write_text("\n".join(lines))
        result = extract(dataset, backbone, tmp_path / "cache", splits=[split], on_error="skip")
        assert len(result.skipped) == (split == "train")
    found = read_manifest(tmp_path / "cache").splits
    assert list(found["train"].bad_lines) == ["train.txt line 2"]
    assert found["val"].bad_lines == {}
