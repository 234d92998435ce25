"""Peak memory of every stage, and whether it grows with the number of images.

At full scale it takes about half an hour on two cores, and 1.3 GB of disk for a cache of VGG-11. A
run that is stopped goes on from the last stage it has measured, if it is given the same ``--work``:
to measure a stage again, remove its file in ``memory-*/measured`` there.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ledger import Ledger
from benchmarks.machine import machine
from benchmarks.results import Result, Row, at_most
from benchmarks.settings import Settings
from benchmarks.stage_process import STAGES, Measured, Task, forget, measure
from benchmarks.subjects import crowd, drawn, natural_crowd
from pipeline import VocDataset

TINY_TAPS = ("fire2", "fire5")
GIB_IN_MB = 2**30 / 1e6

Peaks = dict[str, int]


def run(settings: Settings) -> Result:
    """Measure."""
    tiny = settings.pick((100, 1_000, 10_000), (100, 1_000), (6, 12))
    natural: dict[str, tuple[str, tuple[int, ...]]] = {
        "vgg11": ("float16", settings.pick((30, 100), (12, 48), (6, 12))),
        "squeezenet1_0": ("int8", settings.pick((30, 100), (12, 48), (6, 12))),
    }
    result = Result(
        "memory",
        "Peak memory of the stages",
        machine(),
        {"scale": settings.scale, "rounds": 1, "images": tiny[-1], "side": settings.side},
        notes=[
            "Each stage in a process of its own, above what the process held after importing "
            "torch. Scenes of the size of photographs, as the commands run by default, and scenes "
            "of 32x32 pixels with two taps of SqueezeNet and one thread. 'Flat' is taken to be "
            "10 % or less.",
        ],
    )
    with settings.kept_folder(f"memory-{tiny[-1]}") as folder:
        ledger = Ledger(folder / "measured")
        more: dict[str, Any] = {"taps": TINY_TAPS, "input_size": "native", "hidden": 32}
        more |= {"small": True, "threads": 1}
        rows = _ratios(_growth(ledger, folder, tiny, crowd, "squeezenet1_0", more), tiny, "tiny")
        for name in settings.backbones:
            dtype, counts = natural[name]
            more = {"input_size": str(settings.side), "dtype": dtype}
            peaks = _growth(ledger, folder, counts, natural_crowd, name, more)
            for stage in STAGES:
                what = f"{name}, {dtype}, {stage}: above torch's import"
                peak = peaks[-1][stage] / 1e6
                result.rows.append(Row.exact(what, "MB", peak, at_most(2 * GIB_IN_MB)))
            rows += _ratios(peaks, counts, f"{name}, {dtype}")
        result.rows += rows
        result.notes += ledger.notes()
    return result


def _growth(
    ledger: Ledger,
    folder: Path,
    counts: Sequence[int],
    draw: Callable[[Path, int], VocDataset],
    backbone: str,
    more: dict[str, Any],
) -> list[Peaks]:
    """Measure every stage with ever more images; nothing of it stays on the disk."""
    kind, found = draw.__name__, []
    for count in counts:
        made = folder / f"{backbone}-{kind}-{count}"

        def stage_alone(stage: str, made: Path = made, count: int = count) -> Measured:
            data = drawn(made, draw, count)
            task = Task(stage, str(data), str(made), backbone, **more)
            forget(task)
            return measure(task)

        peaks = {}
        for stage in STAGES:
            name = f"{stage}, {backbone}, {kind}, {count}"
            peaks[stage] = ledger.measured(name, lambda s=stage: stage_alone(s)).peak
        found.append(peaks)
        shutil.rmtree(made, ignore_errors=True)
    return found


def _ratios(peaks: Sequence[Peaks], counts: Sequence[int], prefix: str) -> list[Row]:
    rows = []
    for stage in STAGES:
        all_peaks = [found[stage] for found in peaks]
        note = ", ".join(f"{peak / 1e6:.0f}" for peak in all_peaks) + " MB"
        what = f"{prefix}, {stage}: memory with {counts[-1]:,} images / with {counts[0]:,}"
        rows.append(Row.exact(what, "x", all_peaks[-1] / all_peaks[0], at_most(1.1), note))
    return rows
