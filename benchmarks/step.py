"""One training step of the dense head against the original method's and the arithmetic's floor."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.arithmetic import best_rate, is_product, layer_flops, products
from benchmarks.machine import machine
from benchmarks.opponents import OriginalTraining
from benchmarks.results import Result, Row, at_least, at_most
from benchmarks.settings import Settings
from benchmarks.subjects import identity_for, natural_scenes, random_head
from benchmarks.timing import Spread, in_turns, ratio
from pipeline import (
    Backbone,
    FeatureCache,
    Features,
    Head,
    Preprocessing,
    TrainSettings,
    VocDataset,
    extract,
    load_backbone,
)
from pipeline.training import DenseTrainer

HIDDEN = 512
PLAIN = TrainSettings(epochs=10**6, schedule="constant", label_smoothing=0.0)
"""The loss that the original method has: the mean cross-entropy of all pixels."""

Batch = Sequence[tuple[list[Tensor], Tensor]]


def run(settings: Settings) -> Result:
    """Measure."""
    rounds = settings.times(9)
    result = Result(
        "step",
        "A training step of the dense head",
        machine(),
        {"scale": settings.scale, "rounds": rounds, "hidden": HIDDEN, "side": settings.side},
        notes=[
            "All pixels of the images, forward, backward and Adam. The original method runs the "
            "network, enlarges and concatenates its taps and trains the same layers on them; the "
            "pipeline reads the maps from memory, or from its cache. The floor is the "
            "projection's multiplications forward and for the weights' gradient, and the later "
            "layers', at the rate at which torch.mm multiplies matrices of the same shapes in the "
            "same run. 'context' are the taps that are pooled copies of the deepest one, which "
            "the original method does not have and the pipeline has by default.",
        ],
    )
    with settings.folder() as folder:
        dataset = natural_scenes(folder / "scenes", 4)
        for name in settings.backbones:
            result.rows += _rows(name, dataset, folder / name, settings, rounds)
    return result


def _rows(
    name: str, dataset: VocDataset, folder: Path, settings: Settings, rounds: int
) -> list[Row]:
    backbone = load_backbone(name, weights="random")
    preprocessing = Preprocessing(input_size=str(settings.side))
    extract(
        dataset, backbone, folder / "cache", splits=["train"], preprocessing=preprocessing,
        dtype="float32",
    )  # fmt: skip
    cache = FeatureCache(folder / "cache")
    split = cache["train"]
    identity = identity_for(dataset, backbone, preprocessing, "float32")
    head = random_head(folder / "head", identity, hidden=HIDDEN, features=Features(context=()))
    with_context = random_head(folder / "context", identity, hidden=HIDDEN)

    def read(head: Head, count: int) -> Batch:
        batch = []
        for image_id in split.image_ids[:count]:
            maps = [torch.from_numpy(m) for m in split.maps(image_id, head.taps)]
            used = head.info.features.apply(maps, head.taps)
            batch.append((used, torch.from_numpy(split.label(image_id))))
        return batch

    images = _images(dataset, preprocessing)
    trainer, other = _trainer(head), _trainer(with_context)
    original = _original(backbone, head)
    one, four = read(head, 1), read(head, 4)
    flops = _step_flops(one[0][0], settings.side**2, len(identity.classes))
    contenders: dict[str, Callable[[], object]] = {
        "step, 1 image": partial(trainer.step, one),
        "original, 1 image": partial(original.step, images[:1]),
        "step, 4 images": partial(trainer.step, four),
        "original, 4 images": partial(original.step, images),
        "step with reading, 1 image": lambda: trainer.step(read(head, 1)),
        "step with context, 1 image": partial(other.step, read(with_context, 1)),
        **products(one[0][0], HIDDEN),
    }
    seconds = in_turns(contenders, rounds)
    cache.close()
    difference, scale = _gradient_difference(backbone, head, one, images[:1])
    rate = best_rate(seconds)
    floor = rate.floor(flops)
    rows = [
        Row(
            f"{name}: original method / step, {n} image{'s' * (n > 1)}",
            "x",
            ratio(
                seconds[f"original, {n} image{'s' * (n > 1)}"],
                seconds[f"step, {n} image{'s' * (n > 1)}"],
            ),
            at_least(10),
        )
        for n in (1, 4)
    ]
    rows += [
        Row(
            f"{name}: original method / step with reading the cache, 1 image",
            "x",
            ratio(seconds["original, 1 image"], seconds["step with reading, 1 image"]),
        ),
        Row(
            f"{name}: step / the arithmetic's floor, 1 image",
            "x",
            ratio(seconds["step, 1 image"], floor),
            at_most(2),
            f"{flops / 1e9:.1f} GFLOP",
        ),
        Row.exact(
            f"{name}: gradients, largest difference from the plain formula's",
            "difference",
            difference / scale,
            at_most(1e-3),
            f"relative to the largest gradient, {scale:.3g}",
        ),
        Row(
            f"{name}: matrix rate, {rate.name}",
            "GFLOP/s",
            Spread.of([1e-9 / s for s in rate.seconds_per_flop]),
        ),
        Row(f"{name}: the arithmetic's floor, 1 image", "ms", Spread.of(floor).times(1e3)),
        Row(
            f"{name}: original method / the arithmetic's floor, 1 image",
            "x",
            ratio(seconds["original, 1 image"], floor),
            note="no exact step could gain more",
        ),
    ]
    return rows + [
        Row(f"{name}: {what}", "ms", Spread.of(values).times(1e3))
        for what, values in seconds.items()
        if not is_product(what)
    ]


def _images(dataset: VocDataset, preprocessing: Preprocessing) -> list[tuple[Tensor, Tensor]]:
    images = []
    for image_id in dataset.image_ids("train"):
        image = preprocessing.resize_image(dataset.read_image(image_id))
        label = preprocessing.resize_mask(dataset.read_mask(image_id))
        images.append(
            (torch.from_numpy(preprocessing.normalize(image)), torch.from_numpy(label.copy()))
        )
    return images


def _trainer(head: Head) -> DenseTrainer:
    classes = torch.ones(len(head.info.identity.classes), dtype=torch.int64)
    device = torch.device("cpu")
    return DenseTrainer(head, PLAIN, steps_per_epoch=1, class_pixels=classes, device=device)


def _original(backbone: Backbone, head: Head) -> OriginalTraining:
    dense = head.dense
    assert dense is not None
    void = head.info.identity.void
    weights, biases = list(dense.weights), list(dense.biases)
    return OriginalTraining(backbone, weights, biases, learning_rate=PLAIN.learning_rate, void=void)


def _gradient_difference(
    backbone: Backbone, head: Head, batch: Batch, images: Sequence[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Compare the first step's gradients with those of autograd through the enlarged map.

    After one step Adam's first moment is a tenth of the gradient.

    Returns
    -------
    difference, scale : float
        The largest difference, and the largest gradient.
    """
    trainer, original = _trainer(head), _original(backbone, head)
    trainer.step(batch)
    original.step(images)
    state = trainer.state()
    plain = original.gradients()
    own = [10 * state[f"optimizer.{n}.exp_avg"] for n in range(len(plain))]
    pairs = list(zip(own, plain, strict=True))
    difference = max(float((a - b).abs().max()) for a, b in pairs)
    return difference, max(float(b.abs().max()) for _, b in pairs)


def _step_flops(maps: Sequence[Tensor], pixels: int, classes: int) -> int:
    """Count the floating-point operations that a step on one image cannot do without.

    The projection is computed forward and for the weights' gradient, as its inputs need none; the
    layer after it forward and for both gradients.
    """
    projection, scores = layer_flops(maps, pixels, [HIDDEN, classes])
    return 2 * projection + 3 * scores
