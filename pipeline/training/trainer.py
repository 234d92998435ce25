"""One optimiser step after another over whole images.

The head's first layer is trained in units of the standardised hypercolumn, ``W' = W sigma`` and
``b' = b + W mu``: the channels of a backbone differ in scale by orders of magnitude, and an
optimiser that moves every weight alike needs them levelled. The head that comes out has the scaler
folded in again.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pipeline.adam import AdamW, cosine
from pipeline.errors import HeadError
from pipeline.heads import Head
from pipeline.hypercolumn import DenseHead, Target, head_loss
from pipeline.threads import on_one_thread
from pipeline.training.balance import ClassWeights, inverse_frequency
from pipeline.training.team import Team

Image: TypeAlias = tuple[Sequence[Tensor], Tensor]
"""The maps that hypercolumns are read from, each (C_t, h_t, w_t), and the label (H, W)."""


class TrainSettings(BaseModel):
    """How the dense head is trained.

    Attributes
    ----------
    epochs : int
        Passes over all training images.
    batch_size : int
        Images per optimiser step.
    learning_rate : float
        Adam's, at the start.
    schedule : {"cosine", "constant"}
        How the learning rate goes on: to zero along half a cosine, or as it is.
    weight_decay : float
        Decoupled (AdamW), on the weights, not the biases.
    dropout : float
        Share of the hidden units, if there are any, that each step does without, another choice for
        each. A step takes as much less time.
    label_smoothing : float
        Share of a pixel's target that is spread over all classes of the training set.
    class_weights : {"none", "inverse", "batch"}
        Inverse class frequency over the training set, or over each batch.
    void_as_background : bool
        Train void pixels as class 0 instead of leaving them out.
    seed : int
        Of the order of images, and of what is dropped.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(default=4, ge=0)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    class_weights: ClassWeights = "none"
    void_as_background: bool = False
    seed: int = Field(default=0, ge=0, le=2**32 - 1)


class DenseTrainer:
    """The state of a training run.

    Parameters
    ----------
    head : Head
        A head with layers; it is not changed.
    settings : TrainSettings
    steps_per_epoch : int
        Optimiser steps in one epoch, for the schedule.
    class_pixels : Tensor of int64, shape (n_classes,)
        Pixels of each class in the training set.
    device : torch.device
        Where to compute.
    team : Team, optional
        The processes that take the steps together; by default this one alone.
    """

    def __init__(
        self,
        head: Head,
        settings: TrainSettings,
        *,
        steps_per_epoch: int,
        class_pixels: Tensor,
        device: torch.device,
        team: Team | None = None,
    ) -> None:
        dense = head.dense
        if dense is None:
            raise HeadError(
                "a head without layers cannot be trained; fit mlp, logistic, svm or sgd"
            )
        self.settings = settings
        self.device = device
        self.void = head.info.identity.void
        self._head = DenseHead(
            list(dense.weights),
            list(dense.biases),
            channels=dense.channels,
            geometry=dense.geometry,
            activation=dense.activation,
            grid=dense.grid,
        ).to(device)
        width = sum(dense.channels)
        mean = torch.zeros(width) if head.input_mean is None else head.input_mean
        scale = torch.ones(width) if head.input_scale is None else head.input_scale
        self._mean, self._scale = mean.to(device), scale.to(device)
        with torch.no_grad():
            self._head.biases[0] += self._head.weights[0] @ self._mean
            self._head.weights[0] *= self._scale
        uniform = torch.ones(len(class_pixels), device=device)
        inverse = settings.class_weights == "inverse"
        self._class_weights = inverse_frequency(class_pixels).to(device) if inverse else uniform
        # A class that is nowhere to be seen has a logit far below all others: not to be smoothed.
        seen = (class_pixels > 0).float().to(device)
        smoothing = settings.label_smoothing * seen / seen.sum().clamp(min=1)
        self._team = team or Team(device)
        loss = _Loss(self._head, self._mean, self._scale, void=self.void, smoothing=smoothing)
        self._loss = self._team.joined(loss)
        self._optimizer = AdamW(
            [(list(self._head.weights), settings.weight_decay), (list(self._head.biases), 0.0)]
        )
        self._steps = 0
        self._total_steps = max(1, settings.epochs * steps_per_epoch)

    def step(self, batch: Sequence[Image]) -> float:
        """Take one optimiser step, together with the rest of the team.

        Parameters
        ----------
        batch : sequence of (maps, label)
            This process's share of the batch, maybe empty: for each image the maps that
            hypercolumns are read from, float (C_t, h_t, w_t), and its label, uint8 (H, W), on any
            device.

        Returns
        -------
        float
            This process's part of the loss, which is the weighted mean of the cross-entropy over
            the batch's pixels.
        """
        # But for the strips of images all is done in less time than threads take to meet.
        with on_one_thread() as threads:
            return self._step(batch, threads)

    def _step(self, batch: Sequence[Image], threads: int) -> float:
        labels = [label.to(self.device).long() for _, label in batch]
        class_weights = self._class_weights
        pixels = torch.zeros(self._head.n_classes, dtype=torch.long, device=self.device)
        pixels = self._team.total(sum((self._count(label) for label in labels), pixels))
        if self.settings.class_weights == "batch":
            class_weights = inverse_frequency(pixels)
        normalizer = float((pixels * class_weights).sum())
        if normalizer == 0:
            return 0.0

        self._optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._mixed):
            loss = self._loss(
                [(maps, label) for (maps, _), label in zip(batch, labels, strict=True)],
                class_weights,
                normalizer,
                self._kept_units(),
                threads,
            )
        # The team's gradients are averaged, while its parts of the loss add up.
        (loss * self._team.size).backward()
        self._optimizer.step(self._learning_rate())
        self._steps += 1
        return float(loss.detach())

    def _kept_units(self) -> Tensor | None:
        """Choose the hidden units of this step: for all of the team the same, from the seed."""
        units = len(self._head.biases[0])
        if not self.settings.dropout or len(self._head.biases) == 1:
            return None
        count = max(1, round(units * (1 - self.settings.dropout)))
        # Not the numbers of an epoch's order of images, which begin with [seed, epoch].
        random = np.random.default_rng([self.settings.seed, 1, self._steps])
        chosen = random.permutation(units)[:count]
        return torch.from_numpy(np.sort(chosen)).to(self.device)

    def dense(self) -> DenseHead:
        """Give the head as it is now, the scaler folded in."""
        with torch.no_grad():
            weight = self._head.weights[0] / self._scale
            bias = self._head.biases[0] - weight @ self._mean
            return DenseHead(
                [weight, *self._head.weights[1:]],
                [bias, *self._head.biases[1:]],
                channels=self._head.channels,
                geometry=self._head.geometry,
                activation=self._head.activation,
                grid=self._head.grid,
            )

    def state(self) -> dict[str, Tensor]:
        """Give everything that a later :meth:`restore` needs, as tensors."""
        tensors = {f"head.{name}": p.detach() for name, p in self._head.named_parameters()}
        tensors |= {f"optimizer.{name}": t for name, t in self._optimizer.state().items()}
        tensors["steps"] = torch.tensor(self._steps)
        return {name: tensor.cpu().clone() for name, tensor in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a state: what follows equals what would have followed then."""
        with torch.no_grad():
            for name, parameter in self._head.named_parameters():
                parameter.copy_(tensors[f"head.{name}"])
        self._optimizer.restore({n.removeprefix("optimizer."): t for n, t in tensors.items()})
        self._steps = int(tensors["steps"])

    @property
    def _mixed(self) -> bool:
        return self.device.type == "cuda"

    def _count(self, label: Tensor) -> Tensor:
        labelled = label[label != self.void]
        return torch.bincount(labelled, minlength=self._head.n_classes)

    def _learning_rate(self) -> float:
        if self.settings.schedule == "constant":
            return self.settings.learning_rate
        return cosine(self.settings.learning_rate, self._steps / self._total_steps)


class _Loss(nn.Module):
    """The loss of this process's share of a batch."""

    def __init__(
        self, head: DenseHead, mean: Tensor, scale: Tensor, *, void: int, smoothing: Tensor
    ) -> None:
        super().__init__()
        self.head = head
        self._mean, self._scale, self._void, self._smoothing = mean, scale, void, smoothing

    def forward(
        self,
        batch: Sequence[Image],
        class_weights: Tensor,
        normalizer: float,
        kept: Tensor | None,
        threads: int,
    ) -> Tensor:
        """Give the loss, with a gradient for every parameter even without an image."""
        weight = self.head.weights[0] / self._scale
        # Not a product of matrices: autocast would round it, and dense() does not.
        bias = self.head.biases[0] - (weight * self._mean).sum(dim=1)
        # One after another they go to the device, however many there are.
        images = (
            (
                [m.to(label.device) for m in maps],
                Target(label, self._void, class_weights, self._smoothing, normalizer),
            )
            for maps, label in batch
        )
        return head_loss(self.head, images, weight=weight, bias=bias, kept=kept, threads=threads)
