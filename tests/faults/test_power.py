"""Power lost at any moment: what is in place is on the disk, and what is not whole is found."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from journal import read
from runs import Forks
from worlds import EVALUATE, EXTRACT, PREDICT, REPAIR, Stage, tree

VERIFY = ("cache", "verify", "cache")


@pytest.mark.parametrize(
    "name", ["extract", "extract-divided", "fit-sparse", "fit-dense", "evaluate", "predict"]
)
def test_a_file_is_on_the_disk_before_it_gets_its_name_and_so_is_the_name_at_once(
    forks: Forks, stage: Stage, tmp_path: Path, name: str
) -> None:
    scenario, world = stage.scenario(name), tmp_path / "world"
    shutil.copytree(scenario.start, world)
    journal = tmp_path / "journal"
    ended = forks.run(scenario.arguments, world, journal=str(journal))
    assert ended.code == 0, ended.err

    synced: dict[Path, str | None] = {}
    named: dict[Path, str | None] = {}
    pending: set[Path] = set()
    for what, (path, *target), digest in read(journal):
        if what == "sync":
            synced[path] = digest
            pending.discard(path)
        elif what == "mkdir":
            pending.add(path.parent)
        else:
            if path.suffix == ".partial":
                assert not pending
                assert synced[path] == digest
                pending.add(target[0].parent)
            named[target[0]] = digest
    assert not pending
    for file, digest in scenario.after.items():
        if digest != scenario.before.get(file):
            assert named[world / file] == digest


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def blank(path: Path) -> None:
    """Leave the length and the first block, as file systems do that write data late."""
    content = path.read_bytes()
    kept = min(4096, len(content) // 2)
    path.write_bytes(content[:kept] + bytes(len(content) - kept))


@pytest.mark.parametrize("lose", [empty, blank])
@pytest.mark.parametrize("name", ["train-00001-of-00003.h5", "val-samples.h5", "index.h5"])
def test_a_file_of_the_cache_that_lost_its_content_is_found_and_made_again(
    forks: Forks, stage: Stage, tmp_path: Path, name: str, lose: Callable[[Path], None]
) -> None:
    world = tmp_path / "world"
    shutil.copytree(stage.state("cached"), world)
    sound = tree(world)
    lose(world / "cache" / name)
    verified = forks.run(VERIFY, world)
    assert verified.code == 1
    assert f"cache/{name}: " in verified.out
    repaired = forks.run(REPAIR, world)
    assert repaired.code == 0, repaired.err
    assert repaired.computed in (range(1, 6) if name.startswith("train-0") else (0,))
    assert tree(world) == sound


@pytest.mark.parametrize("lose", [empty, blank])
def test_a_manifest_that_lost_its_content_is_found_and_made_again(
    forks: Forks, stage: Stage, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    world = tmp_path / "world"
    shutil.copytree(stage.state("cached"), world)
    sound = tree(world)
    lose(world / "cache" / "manifest.json")
    verified = forks.run(VERIFY, world)
    assert verified.code == 1
    assert "cache/manifest.json: " in verified.out
    assert forks.run(REPAIR, world).code == 1  # it said where the data set lies
    assert forks.run(EXTRACT, world).code == 0
    assert tree(world) == sound


@pytest.mark.parametrize("lose", [empty, cut])
def test_a_shard_that_lost_its_content_is_done_again_by_the_next_extraction(
    forks: Forks, stage: Stage, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    world = tmp_path / "world"
    shutil.copytree(stage.state("cached"), world)
    sound = tree(world)
    lose(world / "cache" / "train-00001-of-00003.h5")
    ended = forks.run(EXTRACT, world)
    assert (ended.code, ended.computed) == (0, 5)
    assert tree(world) == sound


@pytest.mark.parametrize("lose", [empty, cut, blank])
def test_a_head_that_lost_its_content_is_not_used(
    forks: Forks, stage: Stage, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    world = tmp_path / "world"
    shutil.copytree(stage.state("dense"), world)
    lose(world / "dense.safetensors")
    ended = forks.run(EVALUATE, world)
    assert ended.code == 1
    assert re.fullmatch(r"Error: dense\.safetensors: .*\n", ended.err)


@pytest.mark.parametrize("lose", [empty, cut, blank])
def test_a_mask_that_lost_its_content_is_predicted_again_and_no_other(
    forks: Forks, stage: Stage, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    world = tmp_path / "world"
    scenario = stage.scenario("predict")
    shutil.copytree(scenario.end, world)
    masks = sorted((world / "masks").glob("*[0-9].png"))
    written = {mask: mask.stat().st_mtime_ns for mask in masks}
    lose(masks[3])
    ended = forks.run(PREDICT, world)
    assert ended.code == 0, ended.err
    assert tree(world) == scenario.after
    assert {mask for mask in masks if mask.stat().st_mtime_ns != written[mask]} == {masks[3]}
