"""Logistic regression at the points of boxes, one classifier per grid cell.

The classifiers are trained in units of the standardised hypercolumn, as a dense head is: the
channels of a backbone differ in scale by orders of magnitude. All points of a box are used, and
every point trains the classifier of its own cell only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.adam import AdamW, cosine
from pipeline.boxes.grid import Size
from pipeline.boxes.heat_maps import box_columns, box_logits, own_logits
from pipeline.boxes.targets import NOT_COUNTED
from pipeline.data import Box
from pipeline.hypercolumn import Geometry

_SCALER_POINTS = 10
"""Along each side of a box: enough to know the channels' means and deviations."""


class BoxSettings(BaseModel):
    """How a box head is made and trained.

    Attributes
    ----------
    grid : int
        K, grid cells along each side of a box; 1 is one classifier for the whole box.
    points : int
        N, points of a heat map along each side.
    expansion : float
        By how much boxes are enlarged, so that an object whose box is off is seen whole.
    reach : float
        How far around a keypoint its heat map is to be hot, in parts of the longer side of the
        object's box.
    epochs : int
        Passes over all training images.
    batch_size : int
        Images per optimiser step.
    learning_rate : float
        Adam's, at the start; it goes to zero along half a cosine.
    weight_decay : float
        Decoupled (AdamW), on the weights, not the biases.
    seed : int
        Of the order of images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    grid: int = Field(default=5, ge=1, le=100)
    points: int = Field(default=50, ge=1, le=1000, validate_default=True)
    expansion: float = Field(default=1.2, ge=1, le=100)
    reach: float = Field(default=0.1, gt=0, le=1)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)

    @field_validator("points")
    @classmethod
    def _hold_the_grid(cls, points: int, info: ValidationInfo) -> int:
        if (grid := info.data.get("grid", 1)) > points:
            raise ValueError(f"{points} points cannot hold a grid of {grid} cells")
        return points


@dataclass(frozen=True)
class TrainingBox:
    """A box to train on.

    Attributes
    ----------
    box : Box
        Its window, in pixels of the image as the backbone saw it.
    rows : sequence of int
        Positions of its targets among those of the head.
    wanted : Tensor of uint8, shape (len(rows), N, N)
        1 where it ought to be hot, 0 where not, :data:`NOT_COUNTED` where it does not matter.
    """

    box: Box
    rows: Sequence[int]
    wanted: Tensor


@dataclass(frozen=True)
class TrainingImage:
    """The maps that hypercolumns of an image are read from, its size, and its boxes."""

    maps: Sequence[Tensor]
    size: Size
    boxes: Sequence[TrainingBox]


class Scaler:
    """Mean and standard deviation of every channel over points of boxes.

    Sums of squares in float64 lose 1e-11 of the deviation where it is a hundredth of the mean, and
    4e-4 at the least that does not count as constant. The scaler that fit-sparse uses is that of
    scikit-learn, which this must not need: importing it takes nearly as long as importing torch.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry: Geometry = geometry
        self._count = 0
        self._sum = self._squares = torch.zeros(())

    def add(self, image: TrainingImage) -> None:
        """Take in the boxes of an image."""
        for box in image.boxes:
            columns = box_columns(
                image.maps,
                box=box.box,
                size=image.size,
                geometry=self._geometry,
                points=_SCALER_POINTS,
            )
            values = columns.flatten(1).double()
            self._sum = self._sum.to(values.device) + values.sum(dim=1)
            self._squares = self._squares.to(values.device) + values.square().sum(dim=1)
            self._count += values.shape[1]

    def mean_and_scale(self) -> tuple[Tensor, Tensor]:
        """Give both, float32 of shape (D,); the scale of a constant channel is 1."""
        mean = self._sum / self._count
        variance = (self._squares / self._count - mean.square()).clamp(min=0)
        scale = variance.sqrt()
        scale[scale <= 1e-6 * (1 + mean.abs())] = 1
        return mean.float(), scale.float()


class BoxTrainer:
    """The state of a training run, which begins with all weights at zero.

    Parameters
    ----------
    targets : int
        T, heat maps of the head.
    settings : BoxSettings
    mean, scale : Tensor of shape (D,)
        The scaler, on the device to compute on.
    geometry : {"half_pixel", "align_corners"}
        How maps lie on the image.
    steps_per_epoch : int
        Optimiser steps in one epoch, for the schedule.
    """

    def __init__(
        self,
        targets: int,
        settings: BoxSettings,
        mean: Tensor,
        scale: Tensor,
        *,
        geometry: Geometry,
        steps_per_epoch: int,
    ) -> None:
        self._settings, self._geometry = settings, geometry
        self._mean, self._scale = mean, scale
        shape = (targets, settings.grid**2, len(mean))
        self._weight = torch.zeros(shape, device=mean.device, requires_grad=True)
        self._bias = torch.zeros(shape[:2], device=mean.device, requires_grad=True)
        self._optimizer = AdamW([([self._weight], settings.weight_decay), ([self._bias], 0.0)])
        self._steps, self._total_steps = 0, settings.epochs * steps_per_epoch

    def step(self, batch: Sequence[TrainingImage]) -> float:
        """Take one optimiser step on images with at least one box between them.

        Returns
        -------
        float
            The loss: the mean over boxes of the mean cross-entropy over their points that count.
        """
        self._optimizer.zero_grad()
        count = sum(len(image.boxes) for image in batch)
        loss = 0.0
        for image in batch:
            for box in image.boxes:
                of_box = self._loss(image, box) / count
                of_box.backward()  # type: ignore[no-untyped-call]
                loss += float(of_box.detach())
        done = self._steps / self._total_steps
        self._optimizer.step(cosine(self._settings.learning_rate, done))
        self._steps += 1
        return loss

    def _loss(self, image: TrainingImage, box: TrainingBox) -> Tensor:
        settings, rows = self._settings, list(box.rows)
        weight = self._weight[rows].flatten(0, 1) / self._scale
        bias = self._bias[rows].flatten() - weight @ self._mean
        logits = box_logits(
            image.maps,
            weight,
            bias,
            box=box.box,
            size=image.size,
            geometry=self._geometry,
            points=settings.points,
        )
        shape = (len(rows), settings.grid**2, settings.points, settings.points)
        own = own_logits(logits.reshape(shape), settings.grid)
        wanted = box.wanted.to(own.device)
        counts = wanted != NOT_COUNTED
        # With nothing that counts the sum is zero, and so is its gradient.
        losses = binary_cross_entropy_with_logits(
            own, (wanted == 1).to(own.dtype), weight=counts.to(own.dtype), reduction="sum"
        )
        return losses / counts.sum().clamp(min=1)

    def classifiers(self) -> tuple[Tensor, Tensor]:
        """Give weight (T, K * K, D) and bias (T, K * K) as they are now, the scaler folded in."""
        with torch.no_grad():
            weight = self._weight / self._scale
            return weight, self._bias - weight @ self._mean
