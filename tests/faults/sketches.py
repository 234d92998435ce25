"""Small caches, heads and checkpoints, and everything that is read from them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.dummy import DummyClassifier

from pipeline.cache import (
    Drawing,
    FeatureCache,
    ImageRecord,
    SampleDrawer,
    check_index,
    count_samples,
    manifest_of,
    plan_shards,
    read_manifest,
    read_samples,
    samples_path,
    write_index,
    write_manifest,
    write_samples,
    written_shard,
)
from pipeline.classifiers import dump_estimator
from pipeline.heads import Head, HeadInfo, load_head
from pipeline.hypercolumn import DenseHead, Features
from pipeline.identity import Identity, TapIdentity
from pipeline.training import DenseTrainer, TrainingRun, TrainSettings

CLASSES = ("ground", "cow", "Schäfchen")
CHANNELS = {"shallow": 2, "deep": 3}
DRAWING = Drawing(features=Features(context=("global",)), pixels_per_class=2)
SHARD, SAMPLES = "train-00000-of-00001.h5", "train-samples.h5"


def identity(dtype: str = "float16") -> Identity:
    return Identity(
        backbone="net",
        weights="0123",
        taps=tuple(
            TapIdentity(name=name, modules=(name,), channels=channels, stride=1 + position)
            for position, (name, channels) in enumerate(CHANNELS.items())
        ),
        preprocessing={"input_size": "native"},
        geometry="half_pixel",
        dtype=dtype,
        classes=CLASSES,
        void=255,
    )


def record(image_id: str, size: tuple[int, int]) -> ImageRecord:
    """Draw an image; its values depend on its id alone."""
    rng = np.random.default_rng(list(image_id.encode()))
    cells = {"shallow": size, "deep": (-(-size[0] // 2), -(-size[1] // 2))}
    return ImageRecord(
        image_id=image_id,
        maps={
            tap: rng.normal(0, 5, (CHANNELS[tap], *cells[tap])).astype(np.float32) for tap in cells
        },
        label=rng.choice([0, 1, 2, 255], size).astype(np.uint8),
        label_original=rng.integers(0, 3, (size[0] + 1, size[1]), dtype=np.uint8),
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        sources={"image_digest": f"i-{image_id}", "mask_digest": f"m-{image_id}"},
    )


def write_cache(
    directory: Path,
    *,
    dtype: str = "float16",
    compression: str | None = None,
    image_ids: Iterable[str] = ("cow_1",),
    size: tuple[int, int] = (2, 3),
    software: Mapping[str, str] | None = None,
) -> Path:
    """Write a complete cache of one split in one shard, a few kilobytes large."""
    made_of, records = identity(dtype), [record(image_id, size) for image_id in image_ids]
    sources = {r.image_id: r.sources for r in records}
    (plan,) = plan_shards(directory, "train", sources, len(records))
    drawer = SampleDrawer(made_of, DRAWING)
    with written_shard(
        plan,
        made_of,
        dataset="sketch",
        software={"sketch": "1.0"} if software is None else software,
        compression=compression,
    ) as writer:
        for image in (r.stored(made_of) for r in records):
            writer.add(image)
            drawer.take(drawer.drawn_stored(image))
    write_samples(samples_path(directory, "train"), drawer.samples(), sources, made_of)
    cache = FeatureCache(directory)
    write_index(cache)
    write_manifest(directory, manifest_of(cache, {"dataset": "sketch", "seed": 0}, {}))
    cache.close()
    return directory


def head_info(stage: str) -> HeadInfo:
    return HeadInfo(
        stage=stage,
        estimator="mlp",
        identity=identity(),
        features=DRAWING.features,
        held_out=("cow_1",),
        software={"sketch": "1.0"},
    )


def sketched_head(hidden: int = 2) -> Head:
    generator = torch.Generator().manual_seed(0)
    channels = [*CHANNELS.values(), CHANNELS["deep"]]
    width = sum(channels)
    weights = [torch.randn(shape, generator=generator) for shape in ((hidden, width), (3, hidden))]
    biases = [torch.randn(count, generator=generator) for count in (hidden, 3)]
    dense = DenseHead(weights, biases, channels=channels)
    return Head(head_info("dense"), dense, torch.zeros(width), torch.ones(width))


def sketched_estimator() -> bytes:
    """Give a fitted estimator that has no layers, as it is stored."""
    rng = np.random.default_rng(0)
    width = sum(CHANNELS.values()) + CHANNELS["deep"]
    fitted = DummyClassifier().fit(rng.normal(size=(30, width)), np.arange(30) % len(CLASSES))
    return dump_estimator(fitted)


def read_shards(directory: Path) -> dict[str, Any]:
    """Read through every accessor but the one that copies images."""
    cache = FeatureCache(directory)
    found: dict[str, Any] = {"identity": cache.identity.model_dump()}
    for name, split in cache.splits.items():
        found[name] = (split.image_ids, split.skipped, split.sources, split.dataset, split.software)
        for image_id in split.image_ids:
            found[f"{name} {image_id}"] = (
                split.size(image_id),
                split.maps(image_id, split.identity.tap_names),
                split.label(image_id),
                split.label_original(image_id),
                split.image(image_id),
            )
    cache.close()
    return found


def read_stored(directory: Path) -> list[Any]:
    """Read images as they are copied to other shards."""
    cache = FeatureCache(directory)
    splits = cache.splits.values()
    stored = [split.stored(image_id) for split in splits for image_id in split.image_ids]
    cache.close()
    return [{name: vars(array) for name, array in image.arrays.items()} for image in stored]


def read_samples_file(directory: Path, split: str = "train") -> dict[str, Any]:
    path = samples_path(directory, split)
    return {**vars(read_samples(path)), "count": count_samples(path)}


def read_index(directory: Path) -> None:
    cache = FeatureCache(directory)
    check_index(cache)


def read_manifest_file(directory: Path) -> dict[str, Any]:
    return read_manifest(directory).model_dump()


def read_head(path: Path) -> dict[str, Any]:
    """Read a head of the sketch, and what it says of an image."""
    head = load_head(path)
    maps = [torch.from_numpy(m) for m in record("sheep", (2, 3)).maps.values()]
    return {"info": head.info.model_dump(), "scores": head.scores(maps, (2, 3)).numpy()}


def training_run(head: Head, checkpoint: Path) -> TrainingRun:
    trainer = DenseTrainer(
        head,
        TrainSettings(),
        steps_per_epoch=1,
        class_pixels=torch.ones(len(CLASSES), dtype=torch.int64),
        device=torch.device("cpu"),
    )
    return TrainingRun(trainer, checkpoint=checkpoint, key="a run", keep_best=True)


def write_checkpoint(path: Path, head: Head) -> None:
    """Write what a run leaves after an epoch, of which the head before it was the best."""
    run = training_run(head, path)
    run.record(train_loss=None, validation={"val_mean_iou": 0.75})
    maps = [torch.ones(c, 2, 3) for c in (*CHANNELS.values(), CHANNELS["deep"])]
    run.trainer.step([(maps, torch.ones(2, 3, dtype=torch.uint8))])
    run.record(train_loss=0.5, validation={"val_mean_iou": 0.25})
    run.save()


def read_checkpoint(head: Head, path: Path) -> dict[str, Any]:
    run = training_run(head, path)
    state = {"resumed": run.resume(), "history": run.history, "now": run.trainer.state()}
    run.finish()
    return {**state, "best": run.trainer.state()}
