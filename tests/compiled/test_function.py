"""Compiled loops: what they compute, and that nothing that lies on the disk can change it."""

import os
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

from pipeline.compiled import function, vectors
from pipeline.compiled.function import _sources
from pipeline.hypercolumn import cross_entropy, labels, resample, strip_loops

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
STARTED = "print(parallel._is_initialized)"


def call(folder: Path, program: str = CALL) -> str:
    """Run a program in a new process, in which only what it needs is loaded."""
    env = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{Path(__file__).parents[2]}",
        # Python itself takes a text that is as long and as old for the same.
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(folder / "home"),
    }
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
    return sorted(folder.rglob("*.code"))


def test_machine_code_is_kept_beside_the_module(folder: Path) -> None:
    assert call(folder) == "90.0"
    (code,) = kept(folder)
    assert code.parent == folder / "__pycache__"
    before = code.stat().st_mtime_ns
    assert call(folder) == "90.0"
    assert kept(folder) == [code] and code.stat().st_mtime_ns == before


def test_damaged_machine_code_is_compiled_again(folder: Path) -> None:
    """One bit is enough for the processor to do anything at all."""
    call(folder)
    (path,) = kept(folder)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    damaged = [b"", whole[: len(whole) // 2], random.bytes(len(whole))]
    for at in random.integers(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        assert call(folder) == "90.0"
        assert path.read_bytes() != content


def test_code_for_other_dtypes_is_never_taken(folder: Path) -> None:
    """Not even where one file lies under the name of the other."""
    call(folder)
    (doubles,) = kept(folder)
    call(folder, CALL.replace("arange(10.0)", "arange(10)"))
    (whole_numbers,) = set(kept(folder)) - {doubles}
    doubles.write_bytes(whole_numbers.read_bytes())
    assert call(folder) == "90.0"


def test_several_processes_compile_at_the_same_time(folder: Path) -> None:
    path = f"{folder}{os.pathsep}{Path(__file__).parents[2]}"
    env = {**os.environ, "PYTHONPATH": path}
    kinds = ["arange(10.0)", "arange(10)", "arange(10, dtype='f4')"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CALL.replace("arange(10.0)", kind)],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in kinds
    ]
    assert [process.communicate()[0].strip() for process in running] == ["90.0"] * 3
    assert len(kept(folder)) == 3


def test_code_of_another_text_is_never_taken(folder: Path) -> None:
    source = folder / "loops.py"
    call(folder)
    times = source.stat()
    source.write_text(MODULE.replace("factor *", "factor +"))  # as long, and as old
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert call(folder) == "65.0"
    assert len(kept(folder)) == 1  # the other one is gone


def test_code_that_calls_another_text_is_never_taken(folder: Path) -> None:
    """What is called is part of what was compiled, in whatever module it is."""
    (folder / "loops.py").write_text(
        MODULE.replace("factor *", "weighed(factor) *").replace(
            "from pipeline", "from weighing import weighed\nfrom pipeline"
        )
    )
    (folder / "weighing.py").write_text("""
from pipeline.compiled import Compiled
from scaling import scaled

@Compiled
def weighed(factor):
    return scaled(factor)
""")
    scaling = """
from numba.core import types
from numba.extending import intrinsic

@intrinsic
def scaled(_context, factor):
    return types.float64(types.float64), lambda _c, builder, _s, arguments: builder.fmul(
        arguments[0], arguments[0].type(3)
    )
"""
    (folder / "scaling.py").write_text(scaling)
    assert call(folder) == "270.0"
    assert call(folder) == "270.0"
    (folder / "scaling.py").write_text(scaling.replace("(3)", "(5)"))
    assert call(folder) == "450.0"


def test_what_it_is_compiled_with_is_part_of_what_it_is_compiled_from() -> None:
    """The package, whose flags and numbers are in it, and all modules that are called."""
    package = set(Path(function.__file__).parent.glob("*.py"))
    modules = [resample, cross_entropy, strip_loops]
    assert _sources(strip_loops) == package | {Path(module.__file__ or "") for module in modules}
    assert {Path(function.__file__), Path(vectors.__file__)} <= package < _sources(labels)


@pytest.mark.parametrize(("layer", "expected"), [("default", "2"), ("workqueue", "1")])
def test_threads_to_share(folder: Path, layer: str, expected: str, monkeypatch) -> None:
    """Numba's own would end the process if two threads shared out loops at a time."""
    if find_library("gomp") is None:
        pytest.skip("the system has no OpenMP for Numba")
    monkeypatch.setenv("NUMBA_THREADING_LAYER", layer)
    monkeypatch.setenv("NUMBA_NUM_THREADS", "4")
    program = """
import torch
from pipeline.compiled import threads_to_share

torch.set_num_threads(2)
print(threads_to_share())
"""
    assert call(folder, program) == expected
    alone = program.replace("threads(2)", "threads(1)")
    assert call(folder, f"{alone}\nfrom numba.np.ufunc import parallel\n{STARTED}") == "1\nFalse"


def test_a_forked_process_computes_on_one_thread(folder: Path) -> None:
    """OpenMP's threads are not there."""
    program = """
import multiprocessing, torch
from pipeline.compiled import threads_to_share

torch.set_num_threads(2)
threads_to_share()
process = multiprocessing.get_context("fork").Process(target=lambda: print(threads_to_share()))
process.start()
process.join()
"""
    assert call(folder, program) == "1"


def test_it_works_on_processors_without_long_vectors() -> None:
    """Numba compiles for one that has only what every x86-64 processor has, or any of its kind."""
    program = """
import numpy as np, torch
from pipeline.backbones.winograd import WinogradConv2d
from pipeline.cache.encoding import encode

convolution = WinogradConv2d.of(torch.nn.Conv2d(16, 24, 3, padding=1)).requires_grad_(False)
image = torch.randn(1, 16, 21, 30, generator=torch.Generator().manual_seed(0))
assert convolution.takes(image)
plain = torch.nn.functional.conv2d(image, convolution.weight, convolution.bias, padding=1)
assert (convolution(image) - plain).abs().max() < 1e-5
values = image[0].numpy()
for dtype in ("float16", "float32"):
    stored = encode(values, dtype, image_id="", tap="").values
    assert np.array_equal(stored, values.astype(dtype))
stored = encode(values, "int8", image_id="", tap="")
assert abs(stored.decoded() - values).max() < 0.51 * stored.scale.max()
print("as elsewhere")
"""
    env = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "as elsewhere"), done.stderr


def test_where_the_module_cannot_be_written_it_is_kept_elsewhere(folder: Path) -> None:
    (folder / "__pycache__").write_text("no folder")
    for program, expected in ((MODULE, "90.0"), (MODULE.replace("factor *", "factor +"), "65.0")):
        (folder / "loops.py").write_text(program)
        assert call(folder) == expected
        assert (folder / "home") in kept(folder)[0].parents


def test_it_works_where_nothing_can_be_written(folder: Path) -> None:
    (folder / "__pycache__").write_text("no folder")
    (folder / "home").write_text("no folder")
    program = f"import os; os.environ['HOME'] = '/proc/none'; {CALL}"
    assert call(folder, program) == "90.0"
    assert not kept(folder)


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
