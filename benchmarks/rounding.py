"""How far the backbones' maps on the CPU are off by rounding, beside those of torch's layers."""

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.opponents import PlainNetwork
from benchmarks.results import Result, Row
from benchmarks.settings import Settings
from benchmarks.timing import Spread
from pipeline.backbones import load_backbone


def run(settings: Settings) -> Result:
    """Measure."""
    images = settings.times(8)
    result = Result(
        "rounding",
        "Rounding of the maps",
        machine(),
        {"scale": settings.scale, "rounds": images, "side": settings.side},
        notes=[
            "Random weights and random images. The error is the root of the mean square of the "
            "difference from the same network in float64, over the standard deviation of the map. "
            "The pipeline computes 3x3 convolutions by Winograd's algorithm."
        ],
    )
    for name in settings.backbones:
        backbone = load_backbone(name, weights="random")
        plain, exact = PlainNetwork(backbone), PlainNetwork(backbone)
        exact.layers.double()
        found = []
        for seed in range(images):
            random = torch.Generator().manual_seed(seed)
            image = torch.randn(1, 3, settings.side, settings.side, generator=random)
            maps = backbone(image), plain.maps(image), exact.maps(image.double())
            found.append([(_error(a, c), _error(b, c)) for a, b, c in zip(*maps, strict=True)])
        for tap, errors in zip(backbone.taps, zip(*found, strict=True), strict=True):
            own, torch_s = (Spread.of(list(column)) for column in zip(*errors, strict=True))
            ratio = Spread.of([a / b for a, b in errors])
            note = f"{own.median:.2g} and {torch_s.median:.2g}"
            result.rows.append(Row(f"{name}, {tap.name}: own / torch's", "x", ratio, note=note))
    return result


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).square().mean().sqrt() / exact.std())
