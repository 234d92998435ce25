"""Heads in memory: layers that act on whole images, or an estimator that predicts in blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.classifiers import Layers
from pipeline.errors import HeadError
from pipeline.hypercolumn import MAX_GRID, DenseHead, Features, hypercolumns_at
from pipeline.identity import Identity
from pipeline.tensorfile import one_line

_BLOCK_PIXELS = 8192


class _History(BaseModel):
    """What fit-dense measured in every epoch, and the number of the best one."""

    model_config = ConfigDict(extra="allow", strict=True)

    epoch: list[int] = []
    best_epoch: int | None = None
    __pydantic_extra__: dict[str, list[float | None]]


class HeadInfo(BaseModel):
    """What a head knows of itself.

    Attributes
    ----------
    stage : {"sparse", "dense"}
        Fitted on pixel samples, or trained on every pixel.
    estimator : str
        The sparse classifier it is, or began as.
    identity : Identity
        Of the cache it was made from: backbone, weights, taps, preprocessing, classes.
    features : Features
        What is made of the cached maps.
    activation : str
        Between the layers.
    grid : int
        K of a K x K grid of location-specific classifiers: the last layer has the rows of one after
        the other. 1 for one classifier.
    settings : dict
        The parameters of the run that made it.
    metrics : dict
        What that run measured.
    held_out : tuple of str
        Ids of training images that it has not been fitted on.
    selected_on : str or None
        The split whose metrics chose the epoch that was kept.
    software : dict
        Versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    stage: Literal["sparse", "dense"]
    estimator: str
    identity: Identity
    features: Features
    activation: str = "relu"
    grid: int = Field(default=1, ge=1, le=MAX_GRID)
    settings: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    held_out: tuple[str, ...] = ()
    selected_on: str | None = None
    software: dict[str, str] = {}

    @property
    def channels(self) -> list[int]:
        """Channels of each map the hypercolumn is made of; their sum is D."""
        return self.features.channels(self.identity.tap_names, self.identity.tap_channels)

    @field_validator("metrics")
    @classmethod
    def _history_is_numbers(cls, metrics: dict[str, Any]) -> dict[str, Any]:
        if history := metrics.get("history"):
            _History.model_validate(history)
        return metrics


@dataclass(frozen=True)
class Head:
    """A head in memory.

    Attributes
    ----------
    info : HeadInfo
    dense : DenseHead or None
        The layers, scaler folded in.
    input_mean, input_scale : Tensor of shape (D,), or None
        The scaler that was folded in.
    estimator : object or None
        What predicts when there are no layers.
    """

    info: HeadInfo
    dense: DenseHead | None = None
    input_mean: Tensor | None = None
    input_scale: Tensor | None = None
    estimator: Any = None

    @classmethod
    def from_layers(cls, layers: Layers, info: HeadInfo) -> "Head":
        """Turn fitted layers into a dense head, their scaler folded into the first one."""
        folded = layers.folded()
        dense = DenseHead(
            [torch.from_numpy(w.astype(np.float32)) for w in folded.weights],
            [torch.from_numpy(b.astype(np.float32)) for b in folded.biases],
            channels=info.channels,
            geometry=info.identity.geometry,
            activation=layers.activation,
            grid=info.grid,
        )
        return cls(
            info.model_copy(update={"activation": layers.activation}),
            dense,
            torch.from_numpy(layers.input_mean.astype(np.float32)),
            torch.from_numpy(layers.input_scale.astype(np.float32)),
        )

    @property
    def taps(self) -> list[str]:
        """Names of the taps whose maps :meth:`scores` wants."""
        names = self.info.identity.tap_names
        return [names[i] for i in self.info.features.select(names)]

    def to(self, device: torch.device) -> "Head":
        """Give the head with its layers on ``device``; this changes the head itself."""
        if self.dense is not None:
            self.dense.to(device)
        return self

    def scores(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Score every class at every pixel of an image.

        Parameters
        ----------
        maps : sequence of Tensor, each (C_t, h_t, w_t)
            The maps of :attr:`taps`, before ReLU, in float32.
        size : (H, W)
            The image's size in pixels, as the backbone saw it.

        Returns
        -------
        Tensor of float32, shape (n_classes, H, W)
            Logits of a dense head, or log probabilities if it is a grid of classifiers;
            probabilities, or votes of 0 and 1, of an estimator. The largest is the prediction.
        """
        with torch.no_grad():
            used = self.info.features.apply(maps, self.taps)
            if self.dense is not None:
                scores: Tensor = self.dense(used, size)
                return scores
            blocks = list(self._estimator_blocks(used, size))
            return torch.cat(blocks).T.reshape(-1, *size)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Turn what :meth:`scores` gave into probabilities that sum to one over the classes.

        Those of a linear support vector machine are the softmax of its margins, which nothing has
        calibrated.
        """
        return scores if self.dense is None else scores.softmax(dim=0)

    def _estimator_blocks(self, used: Sequence[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
        n_classes = len(self.info.identity.classes)
        pixels = torch.arange(size[0] * size[1])
        for block in torch.split(pixels, _BLOCK_PIXELS):
            ys, xs = torch.div(block, size[1], rounding_mode="floor"), block % size[1]
            read = hypercolumns_at(used, ys, xs, size, self.info.identity.geometry)
            yield self._estimated(read.cpu().numpy(), n_classes)

    def _estimated(self, columns: NDArray[np.float32], n_classes: int) -> Tensor:
        try:
            if hasattr(self.estimator, "predict_proba"):
                scores = torch.zeros(len(columns), n_classes)
                known = torch.from_numpy(np.asarray(self.estimator.classes_, np.int64))
                found = torch.from_numpy(self.estimator.predict_proba(columns)).float()
                return scores.index_copy_(1, known, found)
            labels = torch.from_numpy(np.asarray(self.estimator.predict(columns), np.int64))
            return one_hot(labels, n_classes).float()
        # Whatever an estimator raises that was made for other features, or put together by hand.
        except Exception as error:
            name = type(self.estimator).__name__
            raise HeadError(
                f"the head's {name} cannot predict ({one_line(error)}); fit it again"
            ) from error
