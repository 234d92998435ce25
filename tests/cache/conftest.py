"""Small caches written without a backbone: random maps of three images of different sizes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.cache import FeatureCache, ImageRecord, ShardPlan, plan_shards, written_shard
from pipeline.hypercolumn import FirstConvolution
from pipeline.identity import ConvolutionIdentity, Identity, TapIdentity

IMAGE_IDS = ("zebra_7", "cow.1", "2008_000003")  # neither sorted by name nor by length
SIZES = ((12, 10), (7, 9), (1, 5))

_RANDOM = np.random.default_rng(7)
CONVOLUTION = FirstConvolution(
    _RANDOM.normal(0, 1, (3, 3, 3, 3)).astype(np.float32),
    _RANDOM.normal(0, 1, 3).astype(np.float32),
    _RANDOM.normal(0, 1, (3, 256)).astype(np.float32),
    stride=(1, 1),
    padding=(1, 1),
)


def convolved(convolution: FirstConvolution, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Apply a convolution to an image in the slow and obvious way."""
    (sy, sx), (py, px) = convolution.stride, convolution.padding
    channels, _, kh, kw = convolution.kernel.shape
    inputs = np.stack([convolution.values[c][image[:, :, c]] for c in range(3)]).astype(np.float64)
    padded = np.pad(inputs, ((0, 0), (py, py), (px, px)))
    rows = range(0, padded.shape[1] - kh + 1, sy)
    columns = range(0, padded.shape[2] - kw + 1, sx)
    found = np.empty((channels, len(rows), len(columns)))
    for i, y in enumerate(rows):
        for j, x in enumerate(columns):
            window = padded[:, y : y + kh, x : x + kw]
            found[:, i, j] = (convolution.kernel * window).sum(axis=(1, 2, 3)) + convolution.bias
    return found.astype(np.float32)


@dataclass
class Sketch:
    """What a cache is to hold, and the plain values to compare it with."""

    identity: Identity
    records: dict[str, ImageRecord]
    plans: list[ShardPlan] = field(default_factory=list)
    first: FirstConvolution | None = None

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
            first=self.first,
        ) as writer:
            writer.skipped |= skipped or {}
            for image_id in plan.sources:
                if image_id not in writer.skipped:
                    writer.add(self.records[image_id].stored(self.identity, self.first))


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
def recompute_first() -> bool:
    """Say whether the first tap is not stored; modules for which it matters try both."""
    return False


@pytest.fixture
def make_sketch(
    recompute_first: bool, make_identity: Callable[..., Identity]
) -> Callable[..., Sketch]:
    """Make random records; the values of an image depend on its id alone."""

    def make(**changes: Any) -> Sketch:
        first = CONVOLUTION if recompute_first else None
        geometry = ConvolutionIdentity(kernel=(3, 3), stride=(1, 1), padding=(1, 1))
        identity = make_identity(recompute_first=first and geometry, **changes)
        records = {}
        for image_id, (height, width) in zip(IMAGE_IDS, SIZES, strict=True):
            rng = np.random.default_rng(list(image_id.encode()))
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            cells = -(-height // 4), -(-width // 4)
            deep = rng.normal(0, 5, (4, *cells)).astype(np.float32)
            label = rng.choice([0, 1, 2, 255], (height, width), p=[0.6, 0.1, 0.2, 0.1])
            records[image_id] = ImageRecord(
                image_id=image_id,
                maps={"shallow": convolved(CONVOLUTION, image), "deep": deep},
                label=label.astype(np.uint8),
                label_original=rng.integers(0, 3, (height + 2, width + 1), dtype=np.uint8),
                image=image,
                sources={"image_digest": f"i-{image_id}", "mask_digest": f"m-{image_id}"},
            )
        return Sketch(identity, records, first=first)

    return make
