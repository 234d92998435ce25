"""The README's examples, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXECUTED = re.compile(r"<!-- executed by tests/test_readme.py -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [code for found, code in EXECUTED.findall(text) if found == language]


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    (script,) = blocks("bash")
    printed = run(["bash", "-euo", "pipefail", "-c", script], tmp_path)
    assert "no problems" in printed
    assert "at original resolution: mean IoU" in printed
    assert (tmp_path / "report" / "index.html").stat().st_size > 100_000
    assert len(list((tmp_path / "masks").glob("*-overlay.png"))) == 9


@pytest.mark.slow
def test_the_python_examples(tmp_path: Path) -> None:
    first, second = blocks("python")
    checks = "assert labels.shape == dataset.read_image('scene_0002').shape[:2]\n"
    more = "assert columns.shape == (2, 1504)\n"
    printed = run([sys.executable, "-c", first + checks + second + more], tmp_path)
    mean_iou, snake = map(float, printed.split())
    assert 0 < mean_iou < 1
    assert 0 <= snake < 1


def test_every_recipe_and_link_in_it_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"RECIPE=([\w-]+)", text):
        assert (ROOT / "recipes" / f"{name}.yaml").exists()
