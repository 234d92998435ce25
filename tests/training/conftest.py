"""A small head, and images to train it on, without a cache."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.heads import Head, HeadInfo
from pipeline.hypercolumn import DenseHead, Features
from pipeline.identity import Identity, TapIdentity
from pipeline.training import DenseTrainer, TrainSettings

CHANNELS = (6, 4, 4)
CLASSES = ("ground", "cow", "sheep", "dog")
Image = tuple[list[Tensor], Tensor]


@pytest.fixture
def head() -> Head:
    """Two layers, and a scaler of very uneven scales folded into the first."""
    generator = torch.Generator().manual_seed(1)
    width = sum(CHANNELS)
    mean = 5 * torch.randn(width, generator=generator)
    scale = 10 ** (2 * torch.rand(width, generator=generator) - 1)
    first = torch.randn(8, width, generator=generator) / width**0.5 / scale
    weights = [first, torch.randn(len(CLASSES), 8, generator=generator) / 3]
    biases = [-first @ mean, torch.randn(len(CLASSES), generator=generator)]
    identity = Identity(
        backbone="net",
        weights="0123",
        taps=(TapIdentity(name="a", modules=("a",), channels=6, stride=1),),
        preprocessing={},
        geometry="half_pixel",
        dtype="float32",
        classes=CLASSES,
        void=255,
    )
    info = HeadInfo(stage="sparse", estimator="mlp", identity=identity, features=Features())
    return Head(info, DenseHead(weights, biases, channels=CHANNELS), mean, scale)


@pytest.fixture
def images(head: Head) -> list[Image]:
    """Five images of different sizes, with void, in units that the scaler levels."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for height, width in ((9, 7), (5, 12), (6, 6), (1, 4), (8, 8)):
        cells = ((height, width), (-(-height // 3), -(-width // 3)), (1, 1))
        maps = [
            mean[:, None, None] + scale[:, None, None] * torch.randn(c, *hw, generator=generator)
            for c, hw, mean, scale in zip(
                CHANNELS,
                cells,
                head.input_mean.split(CHANNELS),
                head.input_scale.split(CHANNELS),
                strict=True,
            )
        ]
        label = torch.randint(0, 3, (height, width), generator=generator, dtype=torch.uint8)
        label[torch.rand(height, width, generator=generator) < 0.2] = 255
        made.append((maps, label))
    return made


@pytest.fixture
def make_trainer(head: Head, images: list[Image]) -> Callable[..., DenseTrainer]:
    def make(**settings: Any) -> DenseTrainer:
        labels = torch.cat([label[label != 255] for _, label in images]).long()
        return DenseTrainer(
            head,
            TrainSettings(**{"epochs": 2, "learning_rate": 0.01, **settings}),
            steps_per_epoch=3,
            class_pixels=torch.bincount(labels, minlength=len(CLASSES)),
            device=torch.device("cpu"),
        )

    return make
