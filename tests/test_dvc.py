"""The stages under DVC: the whole run, and stage two again from the cache alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = (
    *("dvc.yaml", "data/dvc.yaml"),
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"),
)


class Project:
    """A copy of the project's files under git and DVC, with small parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FILES:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        shutil.copytree(
            ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
        )
        params = yaml.safe_load((ROOT / "recipes" / "scenes.yaml").read_text())
        params["data"]["scenes"]["images"] = 12
        params["extract"] |= {"backbone": "squeezenet1_0", "input_size": 64}
        params["fit_sparse"] |= {"options": {"hidden": 16, "epochs": 5}, "holdout": 0.3}
        params["fit_dense"]["epochs"] = 1
        params["report"]["images"] = 1
        self.write(params)
        self.run("git", "init", "-q")

    def write(self, params: dict) -> None:
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))

    def params(self) -> dict:
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def run(self, *command: str, code: int = 0) -> str:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "GIT_CEILING_DIRECTORIES": str(self.folder.parent)}
        for who in ("AUTHOR", "COMMITTER"):
            env |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@example.org"}
        result = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout

    def metrics(self, head: str) -> dict:
        return json.loads((self.folder / f"results/scenes/{head}.json").read_text())


@pytest.mark.slow
def test_reproduction_from_the_cache_alone(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    project.run("dvc", "repro")
    first = {head: project.metrics(head) for head in ("sparse", "dense")}
    assert first["dense"]["mean_iou"] is not None
    assert "mean_iou" in project.run("dvc", "metrics", "show")
    compiled = project.folder / "pipeline" / "cache" / "__pycache__"  # as running it there leaves
    compiled.mkdir()
    (compiled / "reader.pyc").write_bytes(b"code")
    again = project.run("dvc", "repro")
    assert "didn't change" in again and "Running stage" not in again

    # An experiment changes one number and runs what depends on it.
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "base")
    changed = project.run("dvc", "exp", "run", "-S", "fit_dense.epochs=0")
    assert "pipeline fit-sparse" not in changed
    assert project.metrics("dense")["mean_iou"] != first["dense"]["mean_iou"]
    assert "fit_dense" in project.run("dvc", "params", "diff")
    assert "mean_iou" in project.run("dvc", "metrics", "diff")
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "repro")
    assert project.metrics("dense") == first["dense"]

    # Images gone, heads and results gone, and nothing of them left in DVC's own store.
    shutil.rmtree(project.folder / "data/scenes")
    shutil.rmtree(project.folder / "heads")
    shutil.rmtree(project.folder / "results")
    shutil.rmtree(project.folder / ".dvc/cache")
    assert "> pipeline" not in project.run("dvc", "repro", "--allow-missing")
    stage_two = ("--downstream", "fit-sparse", "--force", "--allow-missing")
    printed = project.run("dvc", "repro", *stage_two)
    assert "pipeline extract" not in printed
    assert "pipeline fit-sparse" in printed
    assert {head: project.metrics(head) for head in ("sparse", "dense")} == first
    assert (project.folder / "results/scenes/report/index.html").exists()
    project.run("dvc", "plots", "show", "--out", "plots")


def test_a_recipe_on_voc_begins_with_its_download(tmp_path: Path) -> None:
    project = Project(tmp_path / "project")
    for recipe in ("default", "best", "seed-squeezenet", "seed-vgg11"):
        shutil.copy(ROOT / "recipes" / f"{recipe}.yaml", project.folder / "params.yaml")
        # Nothing is run, so DVC stops where the extraction would want the images.
        planned = project.run("dvc", "repro", "--dry", code=255)
        assert "pipeline data voc2012" in planned
        assert "pipeline data scenes" not in planned
        assert f"cache/{recipe}" in project.run("dvc", "dag", "--outs")
