"""A hundred thousand images: opening the cache, and what one image costs in every stage.

At full scale it takes about an hour of processor time and 3 GB of disk. A run that is stopped goes
on from the last stage it has measured, if it is given the same ``--work``: to measure a stage
again, remove its file in ``many-*/measured`` there.
"""

from pathlib import Path

from benchmarks.ledger import Ledger
from benchmarks.machine import machine
from benchmarks.memory import TINY_TAPS
from benchmarks.results import Result, Row, at_most
from benchmarks.settings import Settings
from benchmarks.stage_process import STAGES, Measured, Task, forget, measure
from benchmarks.subjects import crowd, drawn
from benchmarks.timing import Spread


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
            f"themselves, each in a process of its own with one thread and without its imports. "
            f"The cost is processor time, the system's included. With {few:,} images every stage "
            f"runs {rounds} times, half of them before and half after its run with {many:,}.",
        ],
    )
    with settings.kept_folder(f"many-{many}") as folder:
        ledger = Ledger(folder / "measured")
        small, large = folder / "few", folder / "many"
        drawn(small, crowd, few)
        drawn(large, crowd, many)

        def measured(where: Path, stage: str, what: str) -> Measured:
            return ledger.measured(f"{stage}, {what}", lambda: _again(where, stage))

        rows = []
        for stage in STAGES:
            before = [measured(small, stage, f"few {n}") for n in range((rounds + 1) // 2)]
            whole = measured(large, stage, "many")
            after = [measured(small, stage, f"few, after {n}") for n in range(rounds // 2)]
            rows.append(_row(stage, whole, many, before + after, few))
        opened = [measured(large, "open", str(n)).seconds for n in range(max(3, rounds))]
        what = f"opening a cache of {many:,} images"
        result.notes += ledger.notes()
        result.rows = [Row(what, "s", Spread.of(opened), at_most(1)), *rows]
    return result


def _row(stage: str, whole: Measured, many: int, singles: list[Measured], few: int) -> Row:
    ratios = [whole.cpu / many / (one.cpu / few) for one in singles]
    cpu = Spread.of([one.cpu / few for one in singles]).median
    clock = Spread.of([one.seconds / few for one in singles]).median
    return Row(
        f"{stage}: cost of an image with {many:,} / with {few:,}",
        "x",
        Spread.of(ratios),
        at_most(1.1),
        f"{1e3 * whole.cpu / many:.3g} ms and {1e3 * cpu:.3g} ms; by the clock "
        f"{1e3 * whole.seconds / many:.3g} ms and {1e3 * clock:.3g} ms; "
        f"peak {whole.peak / 1e6:.0f} MB and {singles[0].peak / 1e6:.0f} MB",
    )


def _task(folder: Path, stage: str) -> Task:
    return Task(
        stage, str(folder / "data"), str(folder), "squeezenet1_0",
        taps=TINY_TAPS, input_size="native", hidden=32, small=True, threads=1,
    )  # fmt: skip


def _again(folder: Path, stage: str) -> Measured:
    task = _task(folder, stage)
    forget(task)
    return measure(task)
