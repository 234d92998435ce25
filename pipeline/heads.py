"""Heads on disk: one safetensors file that says what it was made from and what it needs.

A head is either *dense* (layers that act as 1x1 convolutions) or an *estimator* (a scikit-learn
model that predicts in blocks of pixels). Its file holds, as tensors::

    conv0.weight (K_1, D, 1, 1), conv0.bias (K_1,), ...   the layers, scaler folded in
    input.mean (D,), input.scale (D,)                     the scaler, which conditions training
    estimator (bytes,) uint8                              instead: the model, as skops writes it

and :class:`HeadInfo` as JSON in its metadata. Nothing in it is a pickle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.classifiers import Layers, load_estimator
from pipeline.errors import HeadError
from pipeline.hypercolumn import DenseHead, Features, hypercolumns_at
from pipeline.identity import Identity
from pipeline.tensorfile import read_tensors, write_tensors

FORMAT = "hypercolumn-head"
_BLOCK_PIXELS = 8192


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

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Literal["sparse", "dense"]
    estimator: str
    identity: Identity
    features: Features
    activation: str = "relu"
    settings: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    held_out: tuple[str, ...] = ()
    selected_on: str | None = None
    software: dict[str, str] = {}


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
        identity = info.identity
        dense = DenseHead(
            [torch.from_numpy(w.astype(np.float32)) for w in folded.weights],
            [torch.from_numpy(b.astype(np.float32)) for b in folded.biases],
            channels=info.features.channels(identity.tap_names, identity.tap_channels),
            geometry=identity.geometry,
            activation=layers.activation,
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
            Logits of a dense head; probabilities, or votes of 0 and 1, of an estimator. The
            largest is the prediction.
        """
        with torch.no_grad():
            used = self.info.features.apply(maps)
            if self.dense is not None:
                scores: Tensor = self.dense(used, size)
                return scores
            blocks = list(self._estimator_blocks(used, size))
            return torch.cat(blocks).T.reshape(-1, *size)

    def _estimator_blocks(self, used: Sequence[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
        n_classes = len(self.info.identity.classes)
        pixels = torch.arange(size[0] * size[1])
        for block in torch.split(pixels, _BLOCK_PIXELS):
            ys, xs = torch.div(block, size[1], rounding_mode="floor"), block % size[1]
            read = hypercolumns_at(used, ys, xs, size, self.info.identity.geometry)
            columns = read.cpu().numpy()
            if hasattr(self.estimator, "predict_proba"):
                scores = torch.zeros(len(block), n_classes)
                known = torch.from_numpy(np.asarray(self.estimator.classes_, np.int64))
                scores[:, known] = torch.from_numpy(self.estimator.predict_proba(columns)).float()
            else:
                labels = torch.from_numpy(np.asarray(self.estimator.predict(columns), np.int64))
                scores = one_hot(labels, n_classes).float()
            yield scores


def save_head(path: Path, head: Head, *, estimator_bytes: bytes = b"") -> None:
    """Write a head; the file exists whole or not at all.

    Parameters
    ----------
    path : Path
        Where to.
    head : Head
    estimator_bytes : bytes
        The serialised estimator of a head without layers.
    """
    tensors: dict[str, Tensor] = {}
    if head.dense is not None:
        for i, (w, b) in enumerate(zip(head.dense.weights, head.dense.biases, strict=True)):
            tensors[f"conv{i}.weight"] = w.detach().cpu()[:, :, None, None].contiguous()
            tensors[f"conv{i}.bias"] = b.detach().cpu()
        if head.input_mean is not None and head.input_scale is not None:
            tensors["input.mean"], tensors["input.scale"] = head.input_mean, head.input_scale
    else:
        tensors["estimator"] = torch.frombuffer(bytearray(estimator_bytes), dtype=torch.uint8)
    metadata = {"head": head.info.model_dump_json()}
    write_tensors(path, tensors, metadata, kind=FORMAT)


def load_head(path: Path | str, *, trusted: Sequence[str] = ()) -> Head:
    """Read a head.

    Parameters
    ----------
    path : Path or str
    trusted : sequence of str
        Full names of types outside scikit-learn that a stored estimator may be made of.

    Raises
    ------
    HeadError
        If there is no such file, it is damaged, or it is not a head.
    ClassifierError
        If a stored estimator is made of types that are not trusted.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path, kind=FORMAT, remedy="fit it again")
    try:
        info = HeadInfo.model_validate_json(metadata["head"])
        if "estimator" in tensors:
            stored = tensors["estimator"].numpy().tobytes()
            return Head(info, estimator=load_estimator(stored, trusted=trusted))
        count = sum(name.endswith(".bias") for name in tensors)
        dense = DenseHead(
            [tensors[f"conv{i}.weight"][:, :, 0, 0] for i in range(count)],
            [tensors[f"conv{i}.bias"] for i in range(count)],
            channels=info.features.channels(info.identity.tap_names, info.identity.tap_channels),
            geometry=info.identity.geometry,
            activation=info.activation,
        )
    except (KeyError, ValidationError) as error:
        first = str(error).splitlines()[0]
        raise HeadError(f"{path}: not a head that this version can read ({first})") from error
    return Head(info, dense, tensors.get("input.mean"), tensors.get("input.scale"))
