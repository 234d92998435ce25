"""Compiled loops: what they compute, and that nothing that lies on the disk can change it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MODULE = """
import numpy as np
from pipeline.compiled import Compiled

@Compiled
def summed(values: np.ndarray, factor: float) -> float:
    total = 0.0
    for i in range(len(values)):
        total += factor * values[i]
    return total
"""
CALL = "import numpy as np, loops; print(loops.summed(np.arange(10.0), 2.0))"


def call(folder: Path, program: str = CALL) -> str:
    """Run a program in a new process, in which only what it needs is loaded."""
    path = f"{folder}{os.pathsep}{Path(__file__).parents[1]}"
    env = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loops.py").write_text(MODULE)
    return tmp_path


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".nbi", ".nbc"})


def test_machine_code_is_kept_beside_the_module(folder: Path) -> None:
    assert call(folder) == "90.0"
    index, code = sorted(kept(folder), key=lambda path: path.suffix, reverse=True)
    assert folder / "__pycache__" in index.parents
    before = code.stat().st_mtime_ns
    assert call(folder) == "90.0"
    assert kept(folder) == sorted([index, code]) and code.stat().st_mtime_ns == before


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["empty", "half", "other"])
def test_damaged_machine_code_is_compiled_again(folder: Path, suffix: str, damage: str) -> None:
    call(folder)
    (path,) = (path for path in kept(folder) if path.suffix == suffix)
    data = path.read_bytes()
    noise = np.random.default_rng(0).bytes(len(data))
    path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "other": noise}[damage])
    assert call(folder) == "90.0"


def test_code_of_another_text_is_never_taken(folder: Path) -> None:
    source = folder / "loops.py"
    call(folder)
    times = source.stat()
    source.write_text(MODULE.replace("factor *", "factor +"))  # as long, and as old
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert call(folder) == "65.0"


def test_it_works_where_nothing_can_be_written(folder: Path) -> None:
    (folder / "__pycache__").write_text("no folder")
    (folder / "home").write_text("no folder")
    program = f"import os; os.environ['HOME'] = '/proc/none'; {CALL}"
    assert call(folder, program) == "90.0"
    assert not kept(folder)


def test_numbas_settings_are_left_as_they_were(folder: Path) -> None:
    program = f"import numba; numba.config.CACHE_DIR = 'own'; {CALL}; print(numba.config.CACHE_DIR)"
    assert call(folder, program).split() == ["90.0", "own"]


def test_errors_of_a_function_are_raised(folder: Path) -> None:
    text = "if len(values) == 0:\n        raise ValueError('no values')\n    total = 0.0"
    (folder / "loops.py").write_text(MODULE.replace("total = 0.0", text))
    program = """
import numpy as np, loops
try:
    loops.summed(np.empty(0), 1.0)
except ValueError as error:
    print(error)
"""
    assert call(folder, program) == "no values"


def test_one_function_calls_another(folder: Path) -> None:
    (folder / "loops.py").write_text(
        MODULE.replace("factor * values[i]", "times(factor, values[i])")
        + "\n@Compiled\ndef times(a: float, b: float) -> float:\n    return a * b\n"
    )
    assert call(folder) == "90.0"
    before = {path: path.stat().st_mtime_ns for path in kept(folder)}
    assert call(folder) == "90.0"
    assert before == {path: path.stat().st_mtime_ns for path in kept(folder)}
