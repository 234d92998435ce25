"""Peak memory of every stage, and whether it grows with the number of images.

At full scale it takes about an hour on two cores, and 6 GB of disk for caches of VGG-11.
"""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.results import Result, Row, at_most
from benchmarks.settings import Settings
from benchmarks.stage_process import STAGES, Task, measure
from benchmarks.subjects import crowd, natural_crowd
from pipeline import VocDataset

TINY_TAPS = ("fire2", "fire5")
GIB_IN_MB = 2**30 / 1e6

Peaks = dict[str, int]


def run(settings: Settings) -> Result:
    """Measure."""
    natural = settings.pick((100, 400), (12, 48), (6, 12))
    tiny = settings.pick((100, 1_000, 10_000), (100, 1_000), (6, 12))
    result = Result(
        "memory",
        "Peak memory of the stages",
        machine(),
        {"scale": settings.scale, "rounds": 1, "images": natural[-1], "side": settings.side},
        notes=[
            "Each stage in a process of its own, above what the process held after importing "
            "torch. Scenes of the size of photographs, as the commands run by default, and scenes "
            "of 32x32 pixels with two taps of SqueezeNet. 'Flat' is taken to be 10 % or less.",
        ],
    )
    with settings.folder() as folder:
        for name in settings.backbones:
            more = {"input_size": str(settings.side)}
            peaks = _growth(folder, natural, natural_crowd, name, more)
            for stage in STAGES:
                what = f"{name}, {stage}: above torch's import"
                peak = peaks[-1][stage] / 1e6
                result.rows.append(Row.exact(what, "MB", peak, at_most(2 * GIB_IN_MB)))
            result.rows += _ratios(peaks, natural, f"{name}, ")
        more = {"taps": TINY_TAPS, "input_size": "native", "hidden": 32, "small": True}
        result.rows += _ratios(_growth(folder, tiny, crowd, "squeezenet1_0", more), tiny, "")
    return result


def _growth(
    folder: Path,
    counts: Sequence[int],
    draw: Callable[[Path, int], VocDataset],
    backbone: str,
    more: dict[str, object],
) -> list[Peaks]:
    """Measure every stage with ever more images; nothing of it stays on the disk."""
    found = []
    for count in counts:
        out = folder / f"{backbone}-{count}"
        out.mkdir()
        dataset = str(draw(out / "data", count).root)
        tasks = [Task(stage, dataset, str(out), backbone, **more) for stage in STAGES]
        found.append({task.stage: measure(task).peak for task in tasks})
        shutil.rmtree(out)
    return found


def _ratios(peaks: Sequence[Peaks], counts: Sequence[int], prefix: str) -> list[Row]:
    rows = []
    for stage in STAGES:
        all_peaks = [found[stage] for found in peaks]
        note = ", ".join(f"{peak / 1e6:.0f}" for peak in all_peaks) + " MB"
        what = f"{prefix}{stage}: memory with {counts[-1]:,} images / with {counts[0]:,}"
        rows.append(Row.exact(what, "x", all_peaks[-1] / all_peaks[0], at_most(1.1), note))
    return rows
