"""A hundred thousand images: opening the cache, and what one image costs in every stage.

At full scale it takes about two hours on two cores, and 15 GB of disk.
"""

import shutil
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.memory import TINY_TAPS
from benchmarks.results import Result, Row, at_most
from benchmarks.settings import Settings
from benchmarks.stage_process import STAGES, Measured, Task, measure
from benchmarks.subjects import crowd
from benchmarks.timing import Spread

Run = dict[str, list[Measured]]


def run(settings: Settings) -> Result:
    """Measure."""
    few, many = settings.pick(1_000, 1_000, 6), settings.pick(100_000, 10_000, 12)
    rounds = settings.times(3)
    result = Result(
        "many",
        "Very many images",
        machine(),
        {"scale": settings.scale, "rounds": rounds, "images": many, "against": few},
        notes=[
            f"Scenes of 32x32 pixels and two taps of SqueezeNet, made and read by the stages "
            f"themselves, each in a process of its own and without its imports. The cost is "
            f"processor time. With {few:,} images every stage runs {rounds} times, half of them "
            f"before and half after its run with {many:,}.",
        ],
    )
    with settings.folder() as folder:
        small = _prepare(folder / "few", few)
        large = _prepare(folder / "many", many)
        rows = []
        for stage in STAGES:
            before = [_again(small, stage) for _ in range((rounds + 1) // 2)]
            whole = _again(large, stage)
            after = [_again(small, stage) for _ in range(rounds // 2)]
            single = Spread.of([one.cpu / few for one in before + after])
            ratios = [whole.cpu / many / (one.cpu / few) for one in before + after]
            rows += [
                Row(
                    f"{stage}: cost of an image with {many:,} / with {few:,}",
                    "x",
                    Spread.of(ratios),
                    at_most(1.1),
                    f"{1e3 * whole.cpu / many:.3g} ms and {1e3 * single.median:.3g} ms; "
                    f"peak {whole.peak / 1e6:.0f} MB and {before[0].peak / 1e6:.0f} MB",
                ),
            ]
        opened = [measure(_task(large, "open")).seconds for _ in range(max(3, rounds))]
        what = f"opening a cache of {many:,} images"
        result.rows = [Row(what, "s", Spread.of(opened), at_most(1)), *rows]
    return result


def _prepare(folder: Path, images: int) -> Path:
    folder.mkdir()
    crowd(folder / "data", images)
    return folder


def _task(folder: Path, stage: str) -> Task:
    return Task(
        stage, str(folder / "data"), str(folder), "squeezenet1_0",
        taps=TINY_TAPS, input_size="native", hidden=32, small=True,
    )  # fmt: skip


def _again(folder: Path, stage: str) -> Measured:
    """Run a stage from its beginning, whatever it made before."""
    made = {"extract": "cache", "predict": "masks"}
    if stage in made:
        shutil.rmtree(folder / made[stage], ignore_errors=True)
    return measure(_task(folder, stage))
