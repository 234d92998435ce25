"""What commands load: torch takes seconds to import, and its compiler as long again."""

import shutil
import subprocess
import sys
from pathlib import Path

from pipeline import Preprocessing, VocDataset, extract, load_backbone


def loaded_by(*commands: tuple[object, ...], folder: Path) -> set[str]:
    """Run commands in one new process and give the modules that it has imported after them."""
    lines = [[str(word) for word in command] for command in commands]
    program = f"""
import sys
from pipeline.cli import main
for arguments in {lines!r}:
    assert main(arguments) == 0
print(*sys.modules, file=open("modules", "w"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return set((folder / "modules").read_text().split())


def test_fitting_does_not_load_torchs_compiler(
    cache: Path, scenes: VocDataset, tmp_path: Path
) -> None:
    boxes = ("--dataset", scenes.root, "--grid", 2, "--points", 12, "--epochs", 1)
    small = ("--option", "hidden=4", "--option", "epochs=1")
    loaded = loaded_by(
        ("fit-sparse", "--cache", cache, "--out", "sparse", "--grid", 2, *small),
        ("fit-dense", "--cache", cache, "--init", "sparse", "--out", "dense", "--epochs", 1),
        ("fit-boxes", "--cache", cache, "--out", "boxes", *boxes),
        folder=tmp_path,
    )
    assert "torch" in loaded
    assert "torch._dynamo" not in loaded


def test_looking_into_a_cache_or_a_data_set_does_not_load_torch(
    cache: Path, scenes: VocDataset, tmp_path: Path
) -> None:
    copy = shutil.copytree(cache, tmp_path / "cache")
    computed = tmp_path / "computed"
    extract(
        scenes,
        load_backbone("squeezenet1_0", weights="random"),
        computed,
        splits=("val",),
        preprocessing=Preprocessing(input_size="64"),
        recompute_first=True,
    )
    loaded = loaded_by(
        ("cache", "info", copy),
        ("cache", "verify", copy),
        ("cache", "gc", copy),
        ("cache", "info", computed),
        ("cache", "verify", computed),
        ("data", "check", scenes.root),
        folder=tmp_path,
    )
    assert "h5py" in loaded
    assert not {"torch", "torchvision", "sklearn", "numba"} & loaded
