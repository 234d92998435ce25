"""Whole-image prediction: against the forward pass alone, convpaint and scikit-image."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arithmetic import best_rate, is_product, layer_flops, products
from benchmarks.contestant import OTHERS, OWN
from benchmarks.duel import Duel, compete
from benchmarks.machine import machine
from benchmarks.opponents import PlainNetwork
from benchmarks.results import Goal, Result, Row, at_least, at_most
from benchmarks.settings import Settings
from benchmarks.subjects import identity_for, natural_scenes, random_head
from benchmarks.timing import Spread, in_turns, ratio
from pipeline import Features, Preprocessing, Segmenter, VocDataset, load_backbone
from pipeline.data.scenes import draw_scene

HIDDEN = 512
OWN_PASS = "the pipeline's own forward pass"
HEADS = {f"mlp, {HIDDEN} hidden units": HIDDEN, "logistic": None}


def run(settings: Settings) -> Result:
    """Measure."""
    rounds = settings.times(15, 3)
    size = settings.pick((375, 500), (375, 500), (48, 64))
    result = Result(
        "predict",
        "Prediction of whole images",
        machine(),
        {"scale": settings.scale, "rounds": rounds, "side": settings.side, "image": list(size)},
        notes=[
            "Against the forward pass: from a decoded image of natural size to its labels, "
            "resized to the network's input and back, with the context that heads have by "
            "default; the forward pass is that of torchvision's own layers on one image that is"
            " resized and normalised already. The floor is what the ratio would be if "
            "predicting were the pipeline's own pass and the head's multiplications, at the "
            "rate at which torch.mm multiplies matrices of the same shapes in the same run, and"
            " nothing else. Against other tools: every tool is fitted on the same labelled "
            "pixels of the same image in a process of its own, and segments the image in turns;"
            " 'convpaint' and 'pipeline' use the same five layers of VGG-16 with the same "
            "random weights at the image's own size, 'as it comes' is convpaint's own choice of"
            " layer and pyramid, 'input 224' the pipeline's default size. Memory is the peak "
            "while segmenting, above what the process held after its imports. Convpaint's tiles"
            " are about 1000 pixels wide, so that this image is one tile.",
        ],
    )
    with settings.folder() as folder:
        dataset = natural_scenes(folder / "scenes", 3)
        for name in settings.backbones:
            result.rows += _forward_rows(name, dataset, folder, settings, rounds)
        arena = folder / "arena"
        _set_up(arena, size, whole=settings.scale != "tiny")
        others = settings.pick(list(OTHERS), list(OTHERS), ["convpaint"])
        duel = compete(
            list(OWN),
            others,
            arena,
            rounds=settings.times(5, 1),
            opponents_python=settings.opponents_python,
        )
    result.rows += _duel_rows(duel, others)
    return result


def _forward_rows(
    name: str, dataset: VocDataset, folder: Path, settings: Settings, rounds: int
) -> list[Row]:
    backbone = load_backbone(name, weights="random")
    preprocessing = Preprocessing(input_size=str(settings.side))
    identity = identity_for(dataset, backbone, preprocessing)
    image = dataset.read_image(dataset.image_ids("train")[0])
    given = torch.from_numpy(preprocessing.normalize(preprocessing.resize_image(image)))
    contenders: dict[str, Callable[[], object]] = {}
    segmenters = {}
    for what, hidden in HEADS.items():
        path = folder / f"{name}-{hidden}.safetensors"
        random_head(path, identity, hidden=hidden)
        segmenters[what] = Segmenter(path, weights="random")
        contenders[what] = partial(segmenters[what], image)
    plain = PlainNetwork(backbone)
    contenders["forward pass alone"] = partial(plain.singly, [given])
    contenders[OWN_PASS] = partial(backbone, given[None])
    maps = Features().apply([m[0] for m in backbone(given[None])], identity.tap_names)
    contenders |= products(maps, HIDDEN)
    seconds = in_turns(contenders, rounds, warm_up=2)
    forward, rate = seconds["forward pass alone"], best_rate(seconds)
    with FlopCounterMode(display=False) as counter:
        plain.singly([given])
    rows = []
    for what, segmenter in segmenters.items():
        dense = segmenter.head.dense
        assert dense is not None
        widths = [len(bias) for bias in dense.biases]
        flops = sum(layer_flops(maps, settings.side**2, widths))
        floor = [f + head for f, head in zip(seconds[OWN_PASS], rate.floor(flops), strict=True)]
        rows += [
            Row(
                f"{name}, {what}: predict / forward pass alone",
                "x",
                ratio(seconds[what], forward),
                at_most(1.5),
            ),
            Row(
                f"{name}, {what}: floor / forward pass alone",
                "x",
                ratio(floor, forward),
                note=f"{flops / 1e9:.1f} GFLOP in the head, "
                f"{counter.get_total_flops() / 1e9:.1f} in the network",
            ),
        ]
    return rows + [
        Row(f"{name}: {what}", "ms", Spread.of(values).times(1e3))
        for what, values in seconds.items()
        if not is_product(what)
    ]


def _set_up(arena: Path, size: tuple[int, int], *, whole: bool) -> None:
    """Write the image, 30 labelled pixels of each class, and the weights, all or just some."""
    arena.mkdir()
    rng = np.random.default_rng(5)
    scene = draw_scene(rng, *size)
    image, mask = scene.image, scene.labels
    scribbles = np.zeros(size, np.uint8)
    for label in np.unique(mask[mask < 255]):
        pixels = np.flatnonzero(mask == label)
        chosen = rng.choice(pixels, min(30, len(pixels)), replace=False)
        scribbles.flat[chosen] = label + 1  # 0 is for pixels without a label
    classes = np.unique(scribbles)  # 0, and as many as the scene shows
    scribbles = np.searchsorted(classes, scribbles).astype(np.uint8)
    np.save(arena / "image.npy", image)
    np.save(arena / "scribbles.npy", scribbles)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = torchvision.models.vgg16(weights=None).state_dict()
    used = {key: value for key, value in state.items() if whole or key.startswith("features")}
    torch.save(used, arena / "vgg16.pth")


def _duel_rows(duel: Duel, others: list[str]) -> list[Row]:
    rows = []
    for other in others:
        for own in OWN:
            # The goals are about convpaint; scikit-image is for comparison.
            asked = other.startswith("convpaint")
            faster: Goal | None = at_least(50) if asked else None
            smaller: Goal | None = at_least(10) if asked else None
            if reason := duel.absent.get(other) or duel.absent.get(own):
                rows.append(Row.unmeasured(f"{other} / {own}: time", reason, faster))
                continue
            times = ratio(duel.seconds[other], duel.seconds[own])
            memory = duel.peaks[other] / max(duel.peaks[own], 1)
            rows += [
                Row(f"{other} / {own}: time", "x", times, faster),
                Row.exact(f"{other} / {own}: memory", "x", memory, smaller),
            ]
    for tool, seconds in duel.seconds.items():
        note = f"peak {duel.peaks[tool] / 1e6:.0f} MB"
        rows.append(Row(tool, "ms", Spread.of(seconds).times(1e3), note=note))
    return rows
