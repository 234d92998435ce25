"""One stage in this process, measured: time of the call, and memory above torch's own import.

``python -m benchmarks.stage_process`` reads what to do as JSON from its input and writes what it
found as JSON to its output; :func:`measure` does both for a caller.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peak import Peak
from benchmarks.settings import ROOT

STAGES = (
    "data check",
    "extract",
    "cache info",
    "cache verify",
    "cache repair",
    "cache gc",
    "fit-sparse",
    "fit-dense",
    "evaluate",
    "report",
    "predict",
)
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
    dtype : str
        How the cache stores maps.
    hidden : int
        Units of the hidden layer.
    small : bool
        Fit with one pixel per class and without context.
    threads : int or None
        Of torch; as many as there are cores by default. With several, what one thread waits for
        another is processor time, and the more of it the busier the machine is.
    """

    stage: str
    dataset: str
    out: str
    backbone: str
    taps: tuple[str, ...] = ()
    input_size: str = "224"
    dtype: str = "float16"
    hidden: int = 512
    small: bool = False
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """What a stage's call took.

    Attributes
    ----------
    seconds : float
        From its beginning to its end.
    cpu : float
        Seconds of processor time, the system's included, of all threads and all processes that it
        started: what else runs on the machine hardly shows.
    peak : int
        Bytes of memory above torch's import.
    """

    seconds: float
    cpu: float
    peak: int


def forget(task: Task) -> None:
    """Remove what a stage would find done, and would not do again."""
    made = {"extract": "cache", "predict": "masks"}
    if task.stage in made:
        shutil.rmtree(Path(task.out) / made[task.stage], ignore_errors=True)


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
    from pipeline.stages.inspect import inspect_cache, verify_cache
    from pipeline.stages.maintain import collect_garbage, repair_cache

    out = Path(task.out)
    cache, sparse, dense = out / "cache", out / "sparse.safetensors", out / "dense.safetensors"
    metrics = out / "metrics.json"
    features = pipeline.Features(context=() if task.small else ("global", "3", "5"))
    drawing = pipeline.Drawing(features=features, pixels_per_class=1 if task.small else 3)

    def check() -> object:
        return pipeline.check_dataset(pipeline.VocDataset.open(task.dataset))

    def extract() -> object:
        backbone = pipeline.load_backbone(task.backbone, weights="random", taps=task.taps or None)
        return pipeline.extract(
            pipeline.VocDataset.open(task.dataset),
            backbone,
            cache,
            splits=["train"],
            preprocessing=pipeline.Preprocessing(input_size=task.input_size),
            dtype=task.dtype,
            drawing=drawing,
        )

    def fit_sparse() -> object:
        return pipeline.fit_sparse(cache, sparse, options={"hidden": task.hidden, "epochs": 1})

    def fit_dense() -> object:
        settings = pipeline.TrainSettings(epochs=1)
        return pipeline.fit_dense(cache, sparse, dense, settings=settings, validate_on="held-out")

    def evaluate() -> object:
        return pipeline.evaluate(cache, dense, split="train", out=metrics)

    def report() -> object:
        return pipeline.report(
            cache, {"dense": dense}, {"dense": metrics}, out / "report", split="train"
        )

    def predict() -> object:
        images = Path(task.dataset) / "JPEGImages"
        return pipeline.predict(dense, [images], out / "masks", weights="random")

    calls = {
        "data check": check,
        "extract": extract,
        "cache info": lambda: inspect_cache(cache),
        "cache verify": lambda: verify_cache(cache),
        "cache repair": lambda: repair_cache(cache),
        "cache gc": lambda: collect_garbage(cache),
        "fit-sparse": fit_sparse,
        "fit-dense": fit_dense,
        "evaluate": evaluate,
        "report": report,
        "predict": predict,
        "open": lambda: pipeline.FeatureCache(cache)["train"],
    }
    for name in ("check_dataset", "extract", "fit_sparse", "fit_dense", "evaluate", "predict"):
        getattr(pipeline, name)
    return calls[task.stage]


def measured(task: Task, peak: Peak) -> Measured:
    """Run a stage in this process."""
    call = _prepared(task)
    start, cpu_start = time.perf_counter(), _cpu()
    call()
    seconds, cpu = time.perf_counter() - start, _cpu() - cpu_start
    return Measured(seconds, cpu, peak.bytes)


def _cpu() -> float:
    """Give the processor time of this process, and of those that it started and that have ended."""
    return time.process_time() + sum(os.times()[2:4])


def main() -> None:
    """Run the stage that is asked for."""
    content = json.load(sys.stdin)
    task = Task(**{**content, "taps": tuple(content["taps"])})
    import torch

    if task.threads is not None:
        torch.set_num_threads(task.threads)
    from pipeline.cli.memory import keep_freed_memory

    keep_freed_memory()  # as every command does
    print(json.dumps(asdict(measured(task, Peak()))))


if __name__ == "__main__":
    main()
