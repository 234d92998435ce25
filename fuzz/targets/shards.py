"""Shards: headers, arrays, links; everything a reader of a cache asks of one."""

import random
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from fuzz.shard_values import changed
from fuzz.steps import made, other_steps
from pipeline.cache import (
    Drawing,
    FeatureCache,
    ImageRecord,
    ShardHeader,
    check_structure,
    draw_samples,
    plan_shards,
    written_shard,
)
from pipeline.errors import CacheDamagedError
from pipeline.hypercolumn import Features
from pipeline.identity import Identity, TapIdentity

PACKAGES = "pipeline.cache pipeline.identity"

DRAWING = Drawing(features=Features(context=("global", "3")))
_NAME = "train-00000-of-00001.h5"
_SIZES = {"zebra_7": (6, 5), "cow.1": (1, 3)}


def identity_for(dtype: str) -> Identity:
    """Describe a cache of two taps with 3 and 2 channels, for three classes."""
    return Identity.model_validate(
        {
            "backbone": "net",
            "weights": "0" * 32,
            "taps": (
                TapIdentity(name="shallow", modules=("a",), channels=3, stride=1),
                TapIdentity(name="deep", modules=("b",), channels=2, stride=4),
            ),
            "preprocessing": {"normalization": "raw", "input_size": "native"},
            "geometry": "half_pixel",
            "dtype": dtype,
            "classes": ("ground", "cow", "schäfchen"),
            "void": 255,
        }
    )


def write_cache(directory: Path, dtype: str, compression: str | None = None) -> FeatureCache:
    """Write a cache of one shard with two images."""
    identity, rng = identity_for(dtype), np.random.default_rng(0)
    sources = {name: {"image_digest": "0" * 32, "mask_digest": "1" * 32} for name in _SIZES}
    (plan,) = plan_shards(directory, "train", sources, 5)
    with written_shard(
        plan, identity, dataset="set", software={"torch": "2"}, compression=compression
    ) as writer:
        for name, size in _SIZES.items():
            maps = {
                "shallow": rng.normal(size=(3, *size)).astype(np.float32),
                "deep": rng.normal(size=(2, 1, 2)).astype(np.float32),
            }
            label = rng.choice([0, 1, 2, 255], size).astype(np.uint8)
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            record = ImageRecord(name, maps, label, label.T.copy(), image, sources[name])
            writer.add(record.stored(identity))
    return FeatureCache(directory)


@cache
def sound() -> tuple[bytes, ...]:
    """Make a shard of every dtype, one of them compressed."""
    found = []
    for dtype, compression in (("float16", None), ("float32", "gzip"), ("int8", None)):
        with tempfile.TemporaryDirectory() as folder:
            write_cache(Path(folder), dtype, compression).close()
            found.append((Path(folder) / _NAME).read_bytes())
    return tuple(found)


def seeds() -> list[bytes]:
    """Give every sound file."""
    return [bytes([nth]) for nth in range(len(sound()))]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the list of changes."""
    return other_steps(data, chance)


def check(data: bytes, folder: Path) -> None:
    """Read all of a shard, and draw samples from it."""
    (folder / _NAME).write_bytes(made(data, sound(), changed))
    opened = FeatureCache(folder)
    try:
        split = opened["train"]
        for image_id in split.image_ids:
            size = split.size(image_id)
            assert split.label(image_id).shape == size
            assert split.label_original(image_id).ndim == 2
            assert split.image(image_id).ndim == 3
            maps = split.maps(image_id, opened.identity.tap_names)
            assert [len(m) for m in maps] == opened.identity.tap_channels
            assert all(m.dtype == np.float32 for m in maps)
            split.stored(image_id)
        for header in (ShardHeader.read(path) for path in {*split.where.values()}):
            with suppress(CacheDamagedError):  # HDF5 was told nothing of the changes
                check_structure(header)
        draw_samples(split, opened.identity, DRAWING)
    finally:
        opened.close()
