"""What several tests need: a small data set, its cache, and the real data where they are."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# The suite's tensors are small: threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Shells start what runs in the background with SIGINT ignored, and so would be the runs of tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from pipeline import (
    Drawing,
    Features,
    Preprocessing,
    VocDataset,
    extract,
    fit_sparse,
    load_backbone,
    write_scenes,
)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_root() -> Path:
    """Give the folder of real images and weights, or skip: it is not part of the project."""
    if not (SHARED / "voc2012-animals").is_dir():
        pytest.skip("the real images and weights do not lie beside the project")
    return SHARED


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> VocDataset:
    """Give a few embedded scenes: 12 for training, 6 for validation."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    return VocDataset.open(write_scenes(root, images=18, seed=3, size=(64, 96)))


@pytest.fixture(scope="session")
def backbone():
    """Give a SqueezeNet of random weights with three of its taps."""
    return load_backbone("squeezenet1_0", weights="random", taps=["conv1", "fire3", "fire5"])


DRAWING = Drawing(features=Features(context=("global", "3")), pixels_per_class=6)


@pytest.fixture(scope="session")
def cache(scenes: VocDataset, backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the scenes' cache, in several shards. Tests must not change it: copy it first."""
    out = tmp_path_factory.mktemp("cache") / "scenes"
    preprocessing = Preprocessing(input_size="native")
    extract(scenes, backbone, out, preprocessing=preprocessing, images_per_shard=5, drawing=DRAWING)
    return out


@pytest.fixture(scope="session")
def sparse_head(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small perceptron fitted on the cache's samples."""
    out = tmp_path_factory.mktemp("heads") / "sparse.safetensors"
    fit_sparse(cache, out, options={"hidden": 24, "epochs": 15}, holdout=0.2)
    return out


@pytest.fixture
def run_pipeline(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, in an empty folder."""

    def run(*arguments: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)

    return run
