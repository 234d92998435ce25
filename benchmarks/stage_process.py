"""One stage in this process, measured: seconds of the call, and memory above torch's own import.

``python -m benchmarks.stage_process`` reads what to do as JSON from its input and writes what it
found as JSON to its output; :func:`measure` does both for a caller.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peak import Peak
from benchmarks.settings import ROOT

STAGES = ("extract", "fit_sparse", "fit_dense", "evaluate", "predict")
"""In the order in which they need one another's files."""


@dataclass(frozen=True)
class Task:
    """What to run, on what.

    Attributes
    ----------
    stage : str
        One of :data:`STAGES`, or ``"open"``: only open the cache.
    dataset : str
        Folder of the data set; all of split ``train`` is used.
    out : str
        Folder for the cache, heads and masks.
    backbone : str
        Its weights are random.
    taps : tuple of str
        None for the backbone's own.
    input_size : str
    hidden : int
        Units of the hidden layer.
    small : bool
        Fit with one pixel per class and without context.
    """

    stage: str
    dataset: str
    out: str
    backbone: str
    taps: tuple[str, ...] = ()
    input_size: str = "224"
    hidden: int = 512
    small: bool = False


@dataclass(frozen=True)
class Measured:
    """Seconds of a stage's call, and bytes of memory above torch's import."""

    seconds: float
    peak: int


def measure(task: Task) -> Measured:
    """Run a stage in a process of its own.

    Raises
    ------
    RuntimeError
        If it fails; with what it said last.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stage_process"],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode:
        raise RuntimeError(f"{task.stage} failed: {done.stderr.strip()[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _prepared(task: Task) -> Callable[[], object]:
    """Import what a stage needs, and give the call that is to be measured."""
    import pipeline
    from pipeline import stages  # noqa: F401

    out = Path(task.out)
    cache, sparse, dense = out / "cache", out / "sparse.safetensors", out / "dense.safetensors"
    features = pipeline.Features(context=() if task.small else ("global", "3", "5"))
    drawing = pipeline.Drawing(features=features, pixels_per_class=1 if task.small else 3)

    def extract() -> object:
        backbone = pipeline.load_backbone(task.backbone, weights="random", taps=task.taps or None)
        return pipeline.extract(
            pipeline.VocDataset.open(task.dataset),
            backbone,
            cache,
            splits=["train"],
            preprocessing=pipeline.Preprocessing(input_size=task.input_size),
            drawing=drawing,
        )

    def fit_sparse() -> object:
        return pipeline.fit_sparse(cache, sparse, options={"hidden": task.hidden, "epochs": 1})

    def fit_dense() -> object:
        settings = pipeline.TrainSettings(epochs=1)
        return pipeline.fit_dense(cache, sparse, dense, settings=settings, validate_on=None)

    def evaluate() -> object:
        return pipeline.evaluate(cache, dense, split="train")

    def predict() -> object:
        images = Path(task.dataset) / "JPEGImages"
        return pipeline.predict(dense, [images], out / "masks", weights="random")

    def open_cache() -> object:
        return pipeline.FeatureCache(cache)["train"]

    calls = {
        "extract": extract,
        "fit_sparse": fit_sparse,
        "fit_dense": fit_dense,
        "evaluate": evaluate,
        "predict": predict,
        "open": open_cache,
    }
    for name in ("extract", "fit_sparse", "fit_dense", "evaluate", "predict", "FeatureCache"):
        getattr(pipeline, name)
    return calls[task.stage]


def main() -> None:
    """Run the stage that is asked for."""
    content = json.load(sys.stdin)
    task = Task(**{**content, "taps": tuple(content["taps"])})
    import torch  # noqa: F401

    peak = Peak()
    call = _prepared(task)
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    print(json.dumps(asdict(Measured(seconds, peak.bytes))))


if __name__ == "__main__":
    main()
