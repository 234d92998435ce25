"""Box heads: what predicts heat maps in a box, in memory and on disk.

A box head is a set of *targets*, each with a K x K grid of logistic classifiers on hypercolumns.
Its file is a safetensors file as those of :mod:`pipeline.heads` are, and holds::

    weight (T, K * K, D)    one classifier per target and grid cell, cells row by row
    bias   (T, K * K)       the scaler is folded in

and :class:`BoxHeadInfo` as JSON in its metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from pipeline.boxes.grid import Size, expanded, places, rescaled
from pipeline.boxes.heat_maps import box_logits, interpolated
from pipeline.data import Box
from pipeline.errors import HeadError, ParamsError
from pipeline.hypercolumn import Features
from pipeline.identity import Identity
from pipeline.tensorfile import one_line, read_tensors, write_tensors

FORMAT = "hypercolumn-box-head"
Task = Literal["figure-ground", "keypoints"]


class BoxTarget(BaseModel):
    """What one heat map is of: objects of a class, or a keypoint of theirs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: int = Field(ge=1, le=255)
    keypoint: str | None = None


class BoxHeadInfo(BaseModel):
    """What a box head knows of itself.

    Attributes
    ----------
    task : {"figure-ground", "keypoints"}
    identity : Identity
        Of the cache it was made from.
    features : Features
        What is made of the cached maps.
    targets : tuple of BoxTarget
        What the heat maps are of, T of them, each once.
    grid : int
        K, grid cells along each side of a box.
    points : int
        N, points of a heat map along each side.
    expansion : float
        By how much boxes are enlarged.
    settings : dict
        The parameters of the run that made it.
    metrics : dict
        What that run measured.
    software : dict
        Versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: Task
    identity: Identity
    features: Features
    targets: tuple[BoxTarget, ...] = Field(min_length=1)
    grid: int = Field(ge=1)
    points: int = Field(ge=1, le=1000)
    expansion: float = Field(ge=1, le=100)
    settings: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    software: dict[str, str] = {}

    @property
    def channels(self) -> int:
        """D, channels of a hypercolumn."""
        return sum(self.features.channels(self.identity.tap_names, self.identity.tap_channels))

    @property
    def taps(self) -> list[str]:
        """Names of the taps whose maps :meth:`BoxHead.heat_maps` wants."""
        names = self.identity.tap_names
        return [names[i] for i in self.features.select(names)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.grid > self.points:
            raise ValueError("a grid has no more cells than a heat map has points")
        if len(set(self.targets)) < len(self.targets):
            raise ValueError("a target is there twice")
        named = self.task == "keypoints"
        for target in self.targets:
            known = target.label < len(self.identity.classes)
            if not known or (target.keypoint is not None) != named:
                raise ValueError("a target that its task or its classes do not have")
        return self


@dataclass(frozen=True)
class BoxHead:
    """A box head in memory.

    Attributes
    ----------
    info : BoxHeadInfo
    weight : Tensor of float32, shape (T, K * K, D)
    bias : Tensor of float32, shape (T, K * K)
    """

    info: BoxHeadInfo
    weight: Tensor
    bias: Tensor

    def to(self, device: torch.device) -> "BoxHead":
        """Give the head with its classifiers on ``device``."""
        return BoxHead(self.info, self.weight.to(device), self.bias.to(device))

    def rows(self, label: int) -> list[int]:
        """Give the positions of the targets of a class; none if it has not been trained on it."""
        return [i for i, target in enumerate(self.info.targets) if target.label == label]

    def window(self, box: Box, size: Size) -> Box:
        """Give the part of an image of ``size`` that a box's heat maps cover."""
        return expanded(box, self.info.expansion, size)

    @torch.no_grad()
    def heat_maps(
        self, maps: Sequence[Tensor], label: int, window: Box, original: Size, size: Size
    ) -> Tensor:
        """Predict the heat maps of a class in a box.

        Parameters
        ----------
        maps : sequence of Tensor, each (C_t, h_t, w_t)
            What :meth:`Features.apply` makes of the whole image's maps.
        label : int
            The class.
        window : Box
            What :meth:`window` gave, in pixels of the original image.
        original, size : (H, W)
            The image's, as it is stored and as the backbone saw it.

        Returns
        -------
        Tensor of float32, shape (targets of the class, N, N)
            0 to 1.
        """
        rows = self.rows(label)
        cells, points = self.info.grid**2, self.info.points
        if not rows:
            return self.bias.new_zeros(0, points, points)
        logits = box_logits(
            maps,
            self.weight[rows].flatten(0, 1),
            self.bias[rows].flatten(),
            box=rescaled(window, original, size),
            size=size,
            geometry=self.info.identity.geometry,
            points=points,
        )
        return interpolated(logits.reshape(len(rows), cells, points, points), self.info.grid)


def hottest(heat: Tensor, window: Box) -> tuple[float, float, float]:
    """Give x and y of the hottest point of a heat map (N, N), in pixels, and its heat."""
    points = heat.shape[0]
    row, column = divmod(int(heat.argmax()), points)
    x = float(places(window.left, window.right, points)[column])
    y = float(places(window.top, window.bottom, points)[row])
    return x, y, float(heat[row, column])


def save_box_head(path: Path, head: BoxHead) -> None:
    """Write a box head; the file exists whole or not at all.

    Raises
    ------
    HeadError
        If a weight is not finite.
    """
    tensors = {"weight": head.weight.cpu().contiguous(), "bias": head.bias.cpu().contiguous()}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise HeadError(f"{path}: not written, since a weight is not finite; lower learning_rate")
    write_tensors(path, tensors, {"head": head.info.model_dump_json()}, kind=FORMAT)


def load_box_head(path: Path | str) -> BoxHead:
    """Read a box head.

    Raises
    ------
    HeadError
        If there is no such file, it is damaged, it is no box head, or its classifiers do not fit
        the targets and taps it names.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path, kind=FORMAT, remedy="fit it again")
    try:
        info = BoxHeadInfo.model_validate_json(metadata.get("head", ""))
        shape = (len(info.targets), info.grid**2, info.channels)
    except (ParamsError, ValidationError) as error:
        raise HeadError(
            f"{path}: not a box head that this version can read ({one_line(error)})"
        ) from error
    expected = {"weight": shape, "bias": shape[:2]}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != expected or any(
        tensor.dtype != torch.float32 or not tensor.isfinite().all() for tensor in tensors.values()
    ):
        raise HeadError(f"{path}: its classifiers do not fit its targets and taps; fit it again")
    return BoxHead(info, tensors["weight"], tensors["bias"])
