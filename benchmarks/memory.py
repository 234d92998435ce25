"""Peak memory of every stage, and whether it grows with the number of images."""

import shutil
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.results import Result, Row, at_most
from benchmarks.settings import Settings
from benchmarks.stage_process import STAGES, Task, measure
from benchmarks.subjects import crowd, natural_scenes

TINY_TAPS = ("fire2", "fire5")
GIB_IN_MB = 2**30 / 1e6


def run(settings: Settings) -> Result:
    """Measure."""
    images = settings.pick(32, 6, 3)
    few, many = settings.pick(100, 100, 6), settings.pick(10_000, 1_000, 12)
    result = Result(
        "memory",
        "Peak memory of the stages",
        machine(),
        {"scale": settings.scale, "rounds": 1, "images": images, "side": settings.side},
        notes=[
            "Each stage in a process of its own, above what the process held after importing "
            "torch. Scenes of natural size, as the commands run by default; for the growth, scenes "
            "of 32x32 pixels and two taps of SqueezeNet. 'Flat' is taken to be 10 % or less.",
        ],
    )
    with settings.folder() as folder:
        dataset = natural_scenes(folder / "scenes", images).root
        for name in settings.backbones:
            out = folder / name
            out.mkdir()
            size = str(settings.side)
            for stage, peak in _peaks(dataset, out, name, input_size=size).items():
                what = f"{name}, {stage}: above torch's import"
                result.rows.append(Row.exact(what, "MB", peak / 1e6, at_most(2 * GIB_IN_MB)))
            shutil.rmtree(out)
        peaks = {n: _crowd_peaks(folder / f"crowd-{n}", n) for n in (few, many)}
        for stage in STAGES:
            low, high = peaks[few][stage], peaks[many][stage]
            note = f"{low / 1e6:.0f} MB and {high / 1e6:.0f} MB"
            what = f"{stage}: memory with {many:,} images / with {few:,}"
            result.rows.append(Row.exact(what, "x", high / low, at_most(1.1), note))
    return result


def _peaks(dataset: Path, out: Path, backbone: str, **more: object) -> dict[str, int]:
    return {
        stage: measure(Task(stage, str(dataset), str(out), backbone, **more)).peak
        for stage in STAGES
    }


def _crowd_peaks(folder: Path, images: int) -> dict[str, int]:
    folder.mkdir()
    dataset = crowd(folder / "data", images).root
    peaks = _peaks(
        dataset, folder, "squeezenet1_0",
        taps=TINY_TAPS, input_size="native", hidden=32, small=True,
    )  # fmt: skip
    shutil.rmtree(folder)
    return peaks
