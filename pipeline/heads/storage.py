"""Heads on disk: one safetensors file that says what it was made from and what it needs.

A head is either *dense* (layers that act as 1x1 convolutions) or an *estimator* (a scikit-learn
model that predicts in blocks of pixels). Its file holds, as tensors::

    conv0.weight (K_1, D, 1, 1), conv0.bias (K_1,), ...   the layers, scaler folded in
    input.mean (D,), input.scale (D,)                     the scaler, which conditions training
    estimator (bytes,) uint8                              instead: the model, as skops writes it

and :class:`~pipeline.heads.head.HeadInfo` as JSON in its metadata. Nothing in it is a pickle.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from pipeline.classifiers import load_estimator
from pipeline.errors import ClassifierError, HeadError, ParamsError
from pipeline.heads.head import Head, HeadInfo
from pipeline.hypercolumn import DenseHead
from pipeline.tensorfile import one_line, read_tensors, write_tensors

FORMAT = "hypercolumn-head"


def save_head(path: Path, head: Head, *, estimator_bytes: bytes = b"") -> None:
    """Write a head; the file exists whole or not at all.

    Parameters
    ----------
    path : Path
        Where to.
    head : Head
    estimator_bytes : bytes
        The serialised estimator of a head without layers.

    Raises
    ------
    HeadError
        If a weight is not finite.
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
    if strange := _not_finite(tensors):
        raise HeadError(
            f"{path}: not written, since {strange} is not finite; train with a lower learning rate"
        )
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
        If there is no such file, it is damaged, it is not a head, or its layers do not fit the
        taps and classes it names.
    ClassifierError
        If a stored estimator cannot be read, or is made of types that are not trusted.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path, kind=FORMAT, remedy="fit it again")
    try:
        info = HeadInfo.model_validate_json(metadata.get("head", ""))
        if tensors.keys() == {"estimator"}:
            stored = tensors["estimator"].numpy().tobytes()
            return Head(info, estimator=load_estimator(stored, trusted=trusted))
        return _dense_head(info, tensors)
    except ClassifierError as error:
        raise ClassifierError(f"{path}: {error}") from error
    except (HeadError, ParamsError, ValidationError) as error:
        raise HeadError(
            f"{path}: not a head that this version can read ({_reason(error)})"
        ) from error


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return one_line(error)
    first = error.errors()[0]
    return one_line(": ".join([".".join(str(part) for part in first["loc"]), first["msg"]]))


def _dense_head(info: HeadInfo, tensors: dict[str, Tensor]) -> Head:
    """Put the layers of a file together; what they cannot be is refused."""
    count = sum(name.startswith("conv") for name in tensors) // 2
    weights, biases = ([f"conv{i}.{n}" for i in range(count)] for n in ("weight", "bias"))
    scaler, width = {"input.mean", "input.scale"}, sum(info.channels)
    if not count or tensors.keys() not in ({*weights, *biases}, {*weights, *biases, *scaler}):
        raise HeadError(f"its tensors are {', '.join(tensors)}")
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        fits = shape[2:] == (1, 1) if name.endswith(".weight") else len(shape) == 1
        if not fits or 0 in shape or (name in scaler and shape != (width,)):
            raise HeadError(f"{name} cannot be of shape {shape}")
        if tensor.dtype != torch.float32 or (name == "input.scale" and (tensor <= 0).any()):
            raise HeadError(f"{name} holds values that it cannot have")
    if strange := _not_finite(tensors):
        raise HeadError(f"{strange} is not finite")
    dense = DenseHead(
        [tensors[name][:, :, 0, 0] for name in weights],
        [tensors[name] for name in biases],
        channels=info.channels,
        geometry=info.identity.geometry,
        activation=info.activation,
        grid=info.grid,
    )
    if dense.n_classes != (named := len(info.identity.classes)):
        raise HeadError(f"it scores {dense.n_classes} classes, but names {named}")
    return Head(info, dense, tensors.get("input.mean"), tensors.get("input.scale"))


def _not_finite(tensors: dict[str, Tensor]) -> str:
    """Give the name of the first tensor that holds an infinity or a nan, if any."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), "")
