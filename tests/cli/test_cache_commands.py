"""``pipeline cache``: what it prints, and what it exits with."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from pipeline import FeatureCache, VocDataset
from pipeline.cli import main
from pipeline.stages.inspect import inspect_cache

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command of ``pipeline cache``; give its exit code and what it prints."""

    def run_command(*words: object) -> tuple[int, str, str]:
        code = main(["cache", *map(str, words)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run_command


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    """Give a copy of the cache, to be damaged."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


@pytest.fixture
def damaged(copy: Path, scenes: VocDataset) -> str:
    """Damage an image of the copy; give its id."""
    image_id = scenes.image_ids("train")[6]
    (shard,) = copy.glob("train-00001-of-*.h5")
    with h5py.File(shard) as file:
        position = file[f"{image_id}/fire3"].id.get_offset()
    content = bytearray(shard.read_bytes())
    content[position + 99] ^= 1
    shard.write_bytes(content)
    return image_id


def test_info_says_what_is_there_how_complete_how_large_and_from_what(
    run: Run, cache: Path, scenes: VocDataset
) -> None:
    code, out, err = run("info", cache)
    assert (code, err) == (0, "")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines())
    found = inspect_cache(cache)
    assert rows == {
        "cache": f"{cache}, complete",
        "fingerprint": found["fingerprint"],
        "backbone": f"squeezenet1_0, weights {found['identity']['weights']}",
        "taps": "conv1 (96), fire3 (128), fire5 (256); 480 channels",
        "preprocessing": "normalization imagenet, input_size native, half_pixel",
        "stored as": "float16",
        "classes": f"{', '.join(scenes.classes)}; void 255",
        "size": f"{found['bytes'] / 1e6:.1f} MB",
        "made from": f"dataset {scenes.root}, weights random, seed 0",
    } | {
        f"split {split}": f"{len(scenes.image_ids(split))} images, {shards} of {shards} shards "
        f"({found['splits'][split]['bytes'] / 1e6:.1f} MB), "
        f"{found['splits'][split]['samples']} samples"
        for split, shards in (("train", 3), ("val", 2))
    }


def test_info_for_programs_is_the_same(run: Run, cache: Path) -> None:
    code, out, _ = run("info", cache, "--json")
    assert code == 0
    assert json.loads(out) == inspect_cache(cache)


def test_info_names_what_is_missing_and_what_cannot_be_read(run: Run, copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "val-samples.h5").unlink()
    (shard,) = copy.glob("train-00001-of-*.h5")
    shard.write_bytes(shard.read_bytes()[:3000])
    code, out, err = run("info", copy)
    assert (code, err) == (0, "")
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines()[:-2])
    assert rows["cache"] == f"{copy}, NOT complete"
    assert rows["split train"].startswith("7 images, 2 of 3 shards")
    assert rows["split val"].endswith(", no samples")
    assert "made from" not in rows
    problems = out.splitlines()[-2:]
    assert problems[0].startswith(f"{shard}: its header is damaged; run 'pipeline cache repair'")
    assert problems[1].startswith(f"{copy / 'manifest.json'}: no such file")
    assert json.loads(run("info", copy, "--json")[1])["problems"] == problems


def test_verify_exits_with_1_and_names_each_problem(run: Run, copy: Path, damaged: str) -> None:
    (copy / "index.h5").write_bytes(b"")
    code, out, _ = run("verify", copy)
    assert code == 1
    shard, index, last = out.splitlines()
    assert re.search(
        rf"train-00001-of-00003\.h5: {damaged}/fire3 is damaged; run '.* repair'", shard
    )
    assert index.startswith(f"{copy / 'index.h5'}: not a readable HDF5 file")
    assert last == f"{copy}: 2 problems"


def test_repair_says_how_much_it_computed_and_verify_is_content(
    run: Run, copy: Path, cache: Path, damaged: str
) -> None:
    code, out, err = run("repair", copy)
    assert (code, out) == (0, f"{copy}: 18 images, 1 computed again\n")
    assert f"{damaged}/fire3 is damaged" in err
    assert run("verify", copy)[:2] == (0, f"{copy}: sound\n")
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in cache.iterdir()
    }


def test_repair_from_another_place(
    run: Run, copy: Path, damaged: str, scenes: VocDataset, tmp_path: Path
) -> None:
    moved = shutil.copytree(scenes.root, tmp_path / "moved" / "scenes")
    (copy / "manifest.json").unlink()
    code, _, err = run("repair", copy)
    assert (code, err) == (1, f"Error: {copy}: its manifest cannot be read; give --dataset\n")
    code, _, err = run("repair", copy, "--dataset", moved, "--weights", "random", "--seed", 4)
    assert code == 1
    assert re.fullmatch(rf"Error: {copy}: made with squeezenet1_0 weights .*\n", err)
    code, out, _ = run("repair", copy, "--dataset", moved, "--weights", "random", "--seed", 0)
    assert (code, out) == (0, f"{copy}: 18 images, 1 computed again\n")


def test_gc_names_what_it_removes_and_why(run: Run, copy: Path) -> None:
    fingerprint = FeatureCache(copy).identity.fingerprint
    leftover = copy / "train-00000-of-00003.h5.0a1b2c3d.partial"
    leftover.write_bytes(b"half" * 100_000)
    line = f"{leftover}: half-written by a run that died, 0.4 MB\n"
    assert run("gc", copy, "--dry-run") == (
        0,
        f"{line}{copy}: 1 files could be removed, 0.4 MB\n",
        "",
    )
    assert leftover.exists()
    assert run("gc", copy, "--keep", fingerprint) == (
        0,
        f"{line}{copy}: 1 files removed, 0.4 MB\n",
        "",
    )
    assert not leftover.exists()
    assert run("gc", copy) == (0, f"{copy}: 0 files removed, 0.0 MB\n", "")
    code, _, err = run("gc", copy, "--keep", "0" * 32)
    assert code == 1
    assert re.fullmatch(rf"Error: {copy}: holds {fingerprint}; name the fingerprint .*\n", err)
