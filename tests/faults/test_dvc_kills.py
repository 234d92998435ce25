"""`dvc repro` killed with all it has started, again and again: it goes on to the same end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from runs import Forks
from worlds import tree

ROOT = Path(__file__).parents[2]
DENSE = "heads/scenes/dense.safetensors"
STAGES = (
    ("data", "scenes"),
    ("extract", "--out", "cache/scenes", "--replace"),
    ("fit-sparse", "--cache", "cache/scenes", "--out", "heads/scenes/sparse.safetensors"),
    (
        *("fit-dense", "--cache", "cache/scenes", "--init", "heads/scenes/sparse.safetensors"),
        *("--out", DENSE, "--history", "results/scenes/history.csv"),
    ),
    ("evaluate", "--cache", "cache/scenes", "--head", DENSE, "--out", "results/scenes/dense.json"),
)
"""What DVC runs."""
OUTPUTS = ("data/scenes", "cache", "heads", "results")


class Project:
    """The project's files under DVC, with small parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dvc.yaml", "data/dvc.yaml", ".dvcignore"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        shutil.copytree(
            ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
        )
        params = yaml.safe_load((ROOT / "recipes" / "scenes.yaml").read_text())
        params["data"]["scenes"]["images"] = 18
        params["extract"] |= {"backbone": "squeezenet1_0", "input_size": 64, "images_per_shard": 1}
        params["fit_sparse"] |= {"options": {"hidden": 16, "epochs": 5}, "holdout": 0.3}
        params["fit_dense"]["epochs"] = 6
        (folder / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command, in a session of its own."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str) -> str:
        """Run a command to its end, and give what it says."""
        process = self.start(*command)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return said

    def reproduce_until(self, pattern: str) -> None:
        """Start to reproduce, and kill it with all it has started once a file is there."""
        process = self.start("dvc", "repro", "evaluate@dense")
        while not list(self.folder.glob(pattern)):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def outputs(self) -> Mapping[str, str]:
        """Give everything that the stages have written, with digests."""
        return {n: d for n, d in tree(self.folder).items() if n.startswith(OUTPUTS)}


@pytest.mark.slow
def test_reproduction_killed_in_both_long_stages_goes_on_to_the_same_end(
    forks: Forks, tmp_path: Path
) -> None:
    direct = Project(tmp_path / "direct")
    for arguments in STAGES:
        ended = forks.run(arguments, direct.folder)
        assert ended.code == 0, ended.err

    project = Project(tmp_path / "project")
    project.run("dvc", "init", "-q", "--no-scm")
    project.reproduce_until("cache/scenes/train-00003-of-*.h5")
    shards = list((project.folder / "cache/scenes").glob("*-of-?????.h5"))
    written = {shard: shard.stat().st_mtime_ns for shard in shards}
    assert 4 <= len(shards) < 18

    project.reproduce_until(f"{DENSE}.checkpoint")
    assert {shard: shard.stat().st_mtime_ns for shard in shards} == written

    said = project.run("dvc", "repro", "evaluate@dense")
    assert "going on after epoch" in said
    made = {name for name in direct.outputs() if not name.endswith(".gitignore")}
    assert {n: d for n, d in project.outputs().items() if n in made} == direct.outputs()
    stray = project.outputs().keys() - made
    assert all(name.endswith((".gitignore", "dvc.lock", "dvc.yaml")) for name in stray), stray
