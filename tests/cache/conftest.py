"""Small caches written without a backbone: random maps of three images of different sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cache import FeatureCache, ImageRecord, ShardPlan, plan_shards, written_shard
from pipeline.identity import Identity, TapIdentity

IMAGE_IDS = ("zebra_7", "cow.1", "2008_000003")  # neither sorted by name nor by length
SIZES = ((12, 10), (7, 9), (1, 5))


@dataclass
class Sketch:
    """What a cache is to hold, and the plain values to compare it with."""

    identity: Identity
    records: dict[str, ImageRecord]
    plans: list[ShardPlan] = field(default_factory=list)

    @property
    def sources(self) -> dict[str, Any]:
        return {image_id: record.sources for image_id, record in self.records.items()}

    def write(
        self,
        directory: Path,
        *,
        split: str = "train",
        image_ids: Sequence[str] = IMAGE_IDS,
        images_per_shard: int = 2,
        compression: str | None = None,
    ) -> FeatureCache:
        sources = {image_id: self.sources[image_id] for image_id in image_ids}
        self.plans = plan_shards(directory, split, sources, images_per_shard)
        for plan in self.plans:
            self.write_shard(plan, compression=compression)
        return FeatureCache(directory)

    def write_shard(
        self,
        plan: ShardPlan,
        *,
        skipped: Mapping[str, str] | None = None,
        compression: str | None = None,
    ) -> None:
        """Write the images of a plan, but for those that are skipped."""
        with written_shard(
            plan,
            self.identity,
            dataset="sketch",
            software={"sketch": "1.0"},
            compression=compression,
        ) as writer:
            writer.skipped |= skipped or {}
            for image_id in plan.sources:
                if image_id not in writer.skipped:
                    writer.add(self.records[image_id].stored(self.identity))


@pytest.fixture
def make_identity() -> Callable[..., Identity]:
    def make(**changes: Any) -> Identity:
        taps = (
            TapIdentity(name="shallow", modules=("a.0",), channels=3, stride=1),
            TapIdentity(name="deep", modules=("b.0", "b.1"), channels=4, stride=4),
        )
        fields: dict[str, Any] = {
            "backbone": "net",
            "weights": "0123",
            "taps": taps,
            "preprocessing": {"normalization": "raw", "input_size": "native"},
            "geometry": "half_pixel",
            "dtype": "float32",
            "classes": ("ground", "cow", "Schäfchen"),
            "void": 255,
        }
        return Identity(**{**fields, **changes})

    return make


@pytest.fixture
def make_sketch(make_identity: Callable[..., Identity]) -> Callable[..., Sketch]:
    """Make random records; the values of an image depend on its id alone."""

    def make(**changes: Any) -> Sketch:
        identity = make_identity(**changes)
        records = {}
        for image_id, (height, width) in zip(IMAGE_IDS, SIZES, strict=True):
            rng = np.random.default_rng(list(image_id.encode()))
            cells = {"shallow": (height, width), "deep": (-(-height // 4), -(-width // 4))}
            label = rng.choice([0, 1, 2, 255], (height, width), p=[0.6, 0.1, 0.2, 0.1])
            records[image_id] = ImageRecord(
                image_id=image_id,
                maps={
                    tap.name: rng.normal(0, 5, (tap.channels, *cells[tap.name])).astype(np.float32)
                    for tap in identity.taps
                },
                label=label.astype(np.uint8),
                label_original=rng.integers(0, 3, (height + 2, width + 1), dtype=np.uint8),
                image=rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
                sources={"image_digest": f"i-{image_id}", "mask_digest": f"m-{image_id}"},
            )
        return Sketch(identity, records)

    return make
