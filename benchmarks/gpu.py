"""A GPU: extraction from decoded images, and an epoch of the dense head from device memory.

Everything here runs on any device; without a GPU the rows say that they are not measured.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.results import Result, Row, at_least, at_most
from benchmarks.settings import Settings
from benchmarks.subjects import identity_for, natural_scenes, random_head
from benchmarks.timing import Spread, Took, in_turns
from pipeline import Backbone, Head, Preprocessing, TrainSettings, load_backbone
from pipeline.training import DenseTrainer

VOC_TRAIN = 1464
"""Images in PASCAL VOC 2012's training split."""
HIDDEN = 512
_EXTRACTION = "vgg11: extraction from decoded images"
_EPOCH = f"vgg11: a dense epoch over {VOC_TRAIN:,} images from device memory"
_FLOOR = "vgg11: a dense epoch / the larger of its floors"


def run(settings: Settings) -> Result:
    """Measure on a GPU, if there is one."""
    result = Result(
        "gpu",
        "On a GPU",
        machine(),
        {"scale": settings.scale, "rounds": settings.times(7), "side": settings.side},
        notes=[
            "Extraction: decoded images (uint8) in the host's memory, copied to the device, "
            "normalised, through the backbone, and the maps copied back in float16; no files. The "
            "epoch: maps of random values in float16 in device memory, every pixel of every image, "
            "4 images in a step. Its floors: the multiplications of the projection forward and "
            "for the weights' gradient and of the later layers, at the measured rate of torch.mm "
            "in bfloat16; and reading every map twice, and writing and reading the hidden values "
            "of every pixel and their gradients once, at the measured rate of a copy.",
        ],
    )
    if torch.cuda.is_available():
        result.rows = measured(settings, torch.device("cuda"))
    else:
        reason = "no GPU that torch can use on this machine"
        result.rows = [
            Row.unmeasured(f"{_EXTRACTION}, images/s", reason, at_least(2000)),
            Row.unmeasured(f"{_EPOCH}, seconds", reason, at_most(2)),
            Row.unmeasured(_FLOOR, reason, at_most(2)),
        ]
    return result


def measured(settings: Settings, device: torch.device) -> list[Row]:
    """Measure on a device, whichever it is."""
    side, rounds = settings.side, settings.times(7)
    backbone = load_backbone("vgg11", weights="random", device=device)
    images = settings.pick(256, 64, 2)
    extraction = Spread.of(_extraction(backbone, images, side, rounds))
    in_memory = settings.pick(VOC_TRAIN, 128, 4)
    with settings.folder() as folder:
        dataset = natural_scenes(folder / "scenes", 3)
        preprocessing = Preprocessing(input_size=str(side))
        identity = identity_for(dataset, backbone, preprocessing)
        head = random_head(folder / "head", identity, hidden=HIDDEN)
    batches = _in_memory(backbone, head, in_memory, side, device)
    seconds = [s * VOC_TRAIN / in_memory for s in _epochs(head, batches, device, rounds)]
    floors = _floors(batches[0], len(identity.classes), device)
    floor = max(floors.values()) * VOC_TRAIN
    note = ", ".join(f"{name} {VOC_TRAIN * s:.2f} s" for name, s in floors.items())
    speed = Spread(*(images / s for s in (extraction.median, extraction.high, extraction.low)), 1)
    speed = Spread(speed.median, speed.low, speed.high, extraction.count)
    scaled = "" if in_memory == VOC_TRAIN else f"scaled up from {in_memory} images"
    return [
        Row(_EXTRACTION, "images/s", speed, at_least(2000)),
        Row(_EPOCH, "s", Spread.of(seconds), at_most(2), scaled),
        Row(_FLOOR, "x", Spread.of([s / floor for s in seconds]), at_most(2), note),
    ]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed(call: Callable[[], object], device: torch.device) -> Callable[[], Took]:
    def once() -> Took:
        _finish(device)
        start = time.perf_counter()
        call()
        _finish(device)
        return Took(time.perf_counter() - start)

    return once


def _extraction(backbone: Backbone, images: int, side: int, rounds: int) -> list[float]:
    """Time all images once per round."""
    device = backbone.device
    batch = min(32, images)
    decoded = torch.randint(0, 256, (images, side, side, 3), dtype=torch.uint8)
    if device.type == "cuda":
        decoded = decoded.pin_memory()
    mean, std = (
        torch.tensor(values, device=device)[None, :, None, None]
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    kept: list[Tensor | None] = [None] * len(backbone.taps)

    def once() -> None:
        for part in decoded.split(batch):
            given = part.to(device, non_blocking=True).permute(0, 3, 1, 2)  # channels-last
            given = (given.float() / 255 - mean) / std
            with torch.autocast(device.type, torch.bfloat16):
                maps = backbone(given)
            for n, m in enumerate(maps):
                if kept[n] is None or kept[n].shape[0] < len(m):
                    pinned = device.type == "cuda"
                    kept[n] = torch.empty(m.shape, dtype=torch.float16, pin_memory=pinned)
                kept[n][: len(m)].copy_(m.half(), non_blocking=True)
            _finish(device)  # the memory is used again

    return in_turns({"extraction": _timed(once, device)}, rounds)["extraction"]


Batch = list[tuple[list[Tensor], Tensor]]


def _in_memory(
    backbone: Backbone, head: Head, images: int, side: int, device: torch.device
) -> list[Batch]:
    """Make maps and labels of all images, in steps of four."""
    shapes = backbone.feature_shapes(side, side)
    classes = len(head.info.identity.classes)
    single = []
    for _ in range(images):
        maps = [torch.randn(shape, device=device, dtype=torch.float16) for shape in shapes]
        label = torch.randint(0, classes, (side, side), dtype=torch.uint8, device=device)
        single.append((maps, label))
    return [single[start : start + 4] for start in range(0, images, 4)]


def _epochs(head: Head, batches: Sequence[Batch], device: torch.device, rounds: int) -> list[float]:
    classes = len(head.info.identity.classes)
    trainer = DenseTrainer(
        head,
        TrainSettings(epochs=100),
        steps_per_epoch=len(batches),
        class_pixels=torch.ones(classes, dtype=torch.int64),
        device=device,
    )

    def epoch() -> None:
        for batch in batches:
            trainer.step(
                [
                    (head.info.features.apply([m.float() for m in maps], head.taps), y)
                    for maps, y in batch
                ]
            )

    return in_turns({"epoch": _timed(epoch, device)}, rounds)["epoch"]


def _floors(batch: Batch, classes: int, device: torch.device) -> dict[str, float]:
    """Give the seconds that one image takes at least, by arithmetic and by memory traffic."""
    maps, label = batch[0]
    pixels, cells = label.numel(), sum(m.numel() for m in maps)
    operations = 2 * 2 * cells * HIDDEN + 3 * 2 * pixels * HIDDEN * classes
    moved = 2 * sum(m.nbytes for m in maps) + 2 * 2 * 2 * pixels * HIDDEN
    size = 4096 if device.type == "cuda" else 256
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    source = torch.empty(size * size * 8, device=device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = in_turns(
        {
            "mm": _timed(lambda: torch.mm(left, left), device),
            "copy": _timed(lambda: target.copy_(source), device),
        },
        rounds=9,
        warm_up=3,
    )
    rate = 2 * size**3 / Spread.of(seconds["mm"]).median
    bandwidth = 2 * source.nbytes / Spread.of(seconds["copy"]).median
    return {"arithmetic": operations / rate, "memory": moved / bandwidth}
