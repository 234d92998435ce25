"""Dense training in two processes under torchrun, against the same in one."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import h5py
import pytest
import torch

from pipeline import FeatureCache, TrainSettings, fit_dense, load_head
from pipeline.training import Team

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available(), reason="this torch has no torch.distributed"
    ),
]

ROOT = Path(__file__).parents[2]
SECONDS = 180
"""After so long, a run hangs: starting takes seconds, more while other tests run."""
# 10 or 12 training images: the last batch has one image, fewer than there are processes.
SETTINGS = TrainSettings(epochs=6, batch_size=3, learning_rate=1e-3, class_weights="batch")
WORDS = ("--epochs", 6, "--batch-size", 3, "--learning-rate", 0.001, "--class-weights", "batch")


def start(folder, *arguments, processes=2):
    """Start ``pipeline fit-dense`` in several processes, as a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", processes, "-m", "pipeline", "fit-dense", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in (*command, *arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process):
    """Wait for a run; it is not to hang."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"it hangs: {process.communicate()[1]}") from None
    return process.returncode, out, err


def own_errors(err):
    return [line for line in err.splitlines() if line.startswith("Error: ")]


def given(cache, init, out, *more):
    return ("--cache", cache, "--init", init, "--out", out, *more)


def require_same(found, expected):
    assert found["epoch"] == expected["epoch"]
    for name in ("train_loss", "val_loss", "val_pixel_accuracy", "val_mean_iou"):
        for one, other in zip(found[name], expected[name], strict=True):
            assert (one is None) == (other is None), name
            assert one is None or one == pytest.approx(other, rel=1e-4, abs=1e-4), name


@pytest.fixture(scope="module")
def alone(cache, sparse_head, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "dense.safetensors"
    return fit_dense(cache, sparse_head, out, settings=SETTINGS, validate_on="held-out")


def test_two_processes_get_what_one_gets(cache, sparse_head, alone, tmp_path):
    words = given(cache, sparse_head, "dense.safetensors", "--validate-on", "held-out", *WORDS)
    first = start(tmp_path, *words)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "dense.safetensors.checkpoint").exists():
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    both = children_of(first.pid)
    os.killpg(first.pid, signal.SIGINT)  # Ctrl-C
    code, _, err = end(first)
    assert code != 0
    assert "interrupted; what was finished is kept" in err
    assert len(both) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    assert [path.name for path in tmp_path.iterdir()] == ["dense.safetensors.checkpoint"]

    code, out, err = end(start(tmp_path, *words, "--history", "history.csv"))
    assert code == 0, err
    assert out == f"dense.safetensors: epoch {alone.history['best_epoch']} kept\n"
    assert len(re.findall("^going on after epoch [1-5], from ", err, re.MULTILINE)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dense.safetensors", "history.csv"}
    found, expected = load_head(tmp_path / "dense.safetensors"), load_head(alone.head)
    require_same(found.info.metrics["history"], alone.history)
    assert found.info.settings == expected.info.settings
    images = FeatureCache(cache)["val"]
    image_id = images.image_ids[0]
    maps = [torch.from_numpy(m) for m in images.maps(image_id, found.taps)]
    one, other = (head.scores(maps, images.size(image_id)) for head in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-2)


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_an_error_in_one_process_ends_both(cache, sparse_head, tmp_path):
    copy = tmp_path / "cache"
    copy.mkdir()
    for path in cache.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / "train-00001-of-00003.h5"
    with h5py.File(shard) as file:
        start_of_map = next(iter(file.values()))["fire3"].id.get_offset()
    damaged = bytearray(shard.read_bytes())
    damaged[start_of_map + 1000] ^= 1
    shard.write_bytes(damaged)
    code, out, err = end(start(tmp_path, *given("cache", sparse_head, "dense.safetensors")))
    assert code == 1
    assert out == ""
    assert any(f"{shard.name}: " in line and "is damaged" in line for line in own_errors(err))
    others = [line for line in own_errors(err) if "is damaged" not in line]
    assert all("another process of this run has ended" in line for line in others)
    assert not list(tmp_path.glob("*.lock"))


def test_a_team_of_one_is_nothing_special():
    team = Team(torch.device("cpu"))
    values = torch.arange(3)
    module = torch.nn.Linear(2, 1)
    assert team.leads
    assert team.share([1, 2, 3]) == [1, 2, 3]
    assert team.total(values) is values
    assert team.agreed("value") == "value"
    assert team.joined(module) is module


def test_shares_are_all_there_is():
    cpu = torch.device("cpu")
    for count in range(7):
        shares = [Team(cpu, rank, 3).share(list(range(count))) for rank in range(3)]
        assert sorted(chain(*shares)) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
