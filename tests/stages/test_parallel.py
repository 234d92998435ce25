"""Extraction in several processes: the bytes of one, whatever engine runs them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import Workers
from pipeline.cli import main
from pipeline.errors import ParamsError, PeerLostError
from pipeline.locks import Lock
from pipeline.stages.parallel import Leash, shown

ROOT = Path(__file__).parents[2]
SECONDS = 180
"""After so long, a run hangs: starting takes seconds, more while other tests run."""
WORDS = (
    *("extract", "--dataset", "data", "--device", "cpu", "--input-size", "native"),
    *("--backbone", "squeezenet1_0", "--weights", "random", "--tap", "fire2", "--tap", "fire5"),
    *("--images-per-shard", "2", "--context", "none", "--pixels-per-class", "2"),
)


@pytest.fixture(autouse=True)
def here(dataset, tmp_path, monkeypatch):
    """Work in the folder of the data set, with relative paths."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def alone(here, capsys):
    """Give what one process writes."""
    assert main([*WORDS, "--out", "alone"]) == 0
    capsys.readouterr()
    return contents("alone")


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def damage(dataset):
    """Cut an image off, and give what mends it."""
    path = dataset.image_path(dataset.image_ids("train")[3])
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    return lambda: path.write_bytes(whole)


@pytest.mark.slow
def test_workers_of_this_machine(dataset, alone, capsys, monkeypatch):
    mend = damage(dataset)
    assert main([*WORDS, "--out", "cache", "--workers", "2"]) == 1
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith("Error: ")
    assert f"{dataset.image_ids('train')[3]}.png" in last
    assert "Traceback" not in said.err
    mend()
    assert main([*WORDS, "--out", "cache", "--workers", "2"]) == 0
    said = capsys.readouterr()
    assert "extracting: " in said.err
    assert said.out.startswith("cache: 7 images, ")
    assert contents("cache") == alone
    # What is complete is known without starting any process.
    monkeypatch.delattr(Workers, "run")
    assert main([*WORDS, "--out", "cache", "--workers", "2"]) == 0
    assert "7 images, 0 computed now" in capsys.readouterr().out
    assert contents("cache") == alone


def processes_of(session):
    """List the processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_run_that_started_them(dataset, tmp_path, number):
    ids = [f"again{i:03}" for i in range(200)]
    first = dataset.image_ids("train")[0]
    for image_id in ids:
        for path, folder in (
            (dataset.image_path(first), "JPEGImages"),
            (dataset.mask_path(first), "SegmentationClass"),
        ):
            (dataset.root / folder / f"{image_id}.png").symlink_to(path)
    dataset.split_path("train").write_text("\n".join(ids))
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *WORDS, "--out", "cache", "--workers", "2"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + SECONDS
    while not list(Path("cache").glob("*-of-?????.h5")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.kill()
    said = process.communicate(timeout=SECONDS)[1].splitlines()  # when the last one has closed it
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert said[-1] == "interrupted; what was finished is kept"
        assert "Traceback" not in "\n".join(said)
    deadline = time.monotonic() + SECONDS
    while processes_of(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 0 < len(list(Path("cache").glob("train-*-of-00100.h5"))) < 100


@pytest.mark.slow
# What these engines warn of is no concern of ours.
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster(dataset, alone, tmp_path, monkeypatch, capsys):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    monkeypatch.chdir(ROOT)  # where its workers are
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        monkeypatch.chdir(tmp_path)
        words = [*WORDS, "--out", "cache", "--backend", "dask"]
        words += ["--address", cluster.scheduler_address]
        mend = damage(dataset)
        assert main(words) == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("Error: ")
        assert f"{dataset.image_ids('train')[3]}.png" in last
        mend()
        # The other worker notices within seconds that its command has ended; until then it is busy.
        for _ in range(SECONDS):
            code = main(words)
            if code == 0 or "is extracting other images" not in capsys.readouterr().err:
                break
            time.sleep(1)
        assert code == 0
    assert capsys.readouterr().out.startswith("cache: 7 images, ")
    assert contents("cache") == alone


RAY = """
import sys
import ray
from pathlib import Path
from pipeline.cli import main

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
words = [*sys.argv[2:], "--backend", "ray", "--workers", "2"]
image = Path(sys.argv[1])
whole = image.read_bytes()
image.write_bytes(whole[:100])
codes = [main(words)]
image.write_bytes(whole)
print(*codes, main(words))
"""


@pytest.mark.slow
def test_a_ray_cluster(dataset, alone):
    pytest.importorskip("ray", reason="ray is not installed")
    image = dataset.image_path(dataset.image_ids("train")[3])
    done = subprocess.run(
        [sys.executable, "-c", RAY, image, *WORDS, "--out", "cache"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.stdout.splitlines()[-1] == "1 0", done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert image.name in line
    assert contents("cache") == alone


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_does_not_answer_is_named(monkeypatch, capsys):
    dask = pytest.importorskip("dask", reason="dask is not installed")
    pytest.importorskip("distributed", reason="dask is not installed")
    words = [*WORDS, "--out", "cache", "--backend", "dask", "--address", "tcp://127.0.0.1:1"]
    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        assert main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("Error: tcp://127.0.0.1:1: no dask cluster with workers answers there")


@pytest.mark.parametrize(("module", "backend"), [("distributed", "dask"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_is_named(monkeypatch, capsys, module, backend):
    monkeypatch.setitem(sys.modules, module, None)
    words = [*WORDS, "--out", "cache", "--backend", backend, "--address", "tcp://127.0.0.1:1"]
    assert main(words) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    remedy = f"run: pip install 'hypercolumn-pipeline[{backend}]'"
    assert last == f"Error: {backend} is not installed; {remedy}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "0"], "give --workers 1 or more"),
        (["--workers", "2", "--address", "tcp://a:1"], "give --backend dask or ray with it"),
        (["--backend", "dask"], "give --address tcp://host:8786"),
    ],
)
def test_what_does_not_fit_is_named(words, said, capsys):
    assert main([*WORDS, "--out", "cache", *words]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not Path("cache").exists()


def test_an_unknown_backend_is_named():
    with pytest.raises(ParamsError, match="no backend 'slurm'; use loky, dask or ray"):
        Workers(2, "slurm")


def test_a_worker_that_nobody_waits_for_ends(tmp_path):
    path = tmp_path / ".workers-0.lock"
    lock = Lock.take(path)
    leash = Leash(path)
    assert list(leash.track(range(3), total=3, unit="images", what="")) == [0, 1, 2]
    lock.release()
    with pytest.raises(PeerLostError, match="has ended"):
        list(Leash(path).track(range(3), total=3, unit="images", what=""))
    assert not path.exists()


def test_weights_that_are_from_no_file_cannot_be_sent(run, backbone, monkeypatch):
    monkeypatch.setattr(backbone, "source", "given")
    with pytest.raises(ParamsError, match="given: no file that workers could read"):
        run(workers=2)


def test_how_far_others_have_come_is_shown(listening):
    seen = []

    class Counting(type(listening)):
        def track(self, items, *, total, unit, what):
            for item in items:
                seen.append((total, what))
                yield item

    with shown(Counting(), lambda: 3, total=3, unit="images", what="extracting"):
        pass
    assert seen == [(3, "extracting")] * 3
    seen.clear()
    with (
        pytest.raises(ValueError, match="other"),
        shown(Counting(), lambda: 1, total=3, unit="images", what="extracting"),
    ):
        raise ValueError("other")
    assert len(seen) <= 2
