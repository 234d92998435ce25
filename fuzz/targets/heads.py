"""Heads: the header, the metadata and the tensors, signed anew so that the digest lets them in."""

import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fuzz.bytes_values import flip
from fuzz.json_values import mutate_json, to_text
from pipeline.backbones import Preprocessing
from pipeline.classifiers import Layers
from pipeline.heads import FORMAT, Head, HeadInfo, load_head, save_head
from pipeline.hypercolumn import Features
from pipeline.identity import Identity, TapIdentity
from pipeline.tensorfile import write_tensors

PACKAGES = "pipeline"

_SIZE = (5, 4)
_MOST_CHANNELS = 1000


def info_for(*, context: tuple[str, ...] = ("global", "3")) -> HeadInfo:
    """Describe a head of two taps with 3 and 2 channels, for four classes."""
    identity = Identity(
        backbone="squeezenet1_0",
        weights="0" * 32,
        taps=(
            TapIdentity(name="a", modules=("features.0",), channels=3, stride=1),
            TapIdentity(name="b", modules=("features.3", "features.4"), channels=2, stride=4),
        ),
        preprocessing=Preprocessing().as_dict(),
        geometry="half_pixel",
        dtype="float16",
        classes=("ground", "cow", "sheep", "dog"),
        void=255,
    )
    return HeadInfo(
        stage="dense",
        estimator="mlp",
        identity=identity,
        features=Features(context=context),
        settings={"epochs": 3, "options": {"hidden": None}},
        metrics={"history": {"epoch": [0, 1], "train_loss": [None, 0.5], "best_epoch": 1}},
        held_out=("a", "schäfchen"),
        selected_on="val",
        software={"torch": "2"},
    )


def layers() -> Layers:
    """Make two layers for :func:`info_for`: 9 channels, 2 hidden units, 4 classes."""
    rng = np.random.default_rng(0)
    return Layers(
        (rng.normal(size=(2, 9)), rng.normal(size=(4, 2))),
        (rng.normal(size=2), rng.normal(size=4)),
        rng.normal(size=9),
        rng.uniform(1, 2, 9),
        "relu",
    )


def seeds() -> list[bytes]:
    """Give a head of two layers, with and without its scaler, and a file of something else."""
    head = Head.from_layers(layers(), info_for())
    found = [save({"x": torch.zeros(2)}), b"\2" + b"\0" * 7 + b"{}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.safetensors"
        for one in (head, replace(head, input_mean=None, input_scale=None)):
            save_head(path, one)
            found.append(path.read_bytes())
    return found


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the header, what it says of a tensor, the head's JSON, or the numbers."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    head = json.loads(header["__metadata__"]["head"])
    numbers = data[end:]
    action = chance.randrange(8)
    if action < 4:
        header["__metadata__"]["head"] = to_text(mutate_json(head, chance))
    elif action == 4:
        header = mutate_json(header, chance)
    elif action == 5:
        numbers = _reshape(header, numbers, chance)
    elif action == 6:
        values = np.frombuffer(bytearray(numbers[: len(numbers) // 4 * 4]), np.float32)
        if values.size:
            at = chance.randrange(values.size)
            values[at] = chance.choice((np.nan, np.inf, -np.inf, 0.0, -1.0, 3e38, 1e-45))
            numbers = values.tobytes()
    else:
        return flip(data, chance)
    text = to_text(header).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + numbers


def _reshape(header: dict[str, Any], numbers: bytes, chance: random.Random) -> bytes:
    """Give one tensor another shape, dtype or name, in a file that still fits together."""
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return numbers
    parts = {name: numbers[slice(*header[name]["data_offsets"])] for name in names}
    name = chance.choice(names)
    shape = list(header[name]["shape"])
    if chance.random() < 0.5:
        edit = chance.choice(("add", "drop", "flatten", "swap", "grow", "empty"))
        shape = {
            "add": [*shape, 1],
            "drop": shape[:-1],
            "flatten": [int(np.prod(shape, dtype=object))],
            "swap": shape[::-1],
            "grow": [n + 1 for n in shape],
            "empty": [0, *shape, chance.choice((1, 2**40, 2**62, 2**63))],
        }[edit]
        header[name]["shape"] = shape
    elif chance.random() < 0.5:
        header[name]["dtype"] = chance.choice(
            ("F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3")
        )
    else:
        other = chance.choice(("conv2.bias", "conv0.bias", "input.mean", "estimator", "", "x"))
        header[other], parts[other] = header.pop(name), parts.pop(name)
        name = other
    width = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(header[name]["dtype"], 1)
    size = min(int(np.prod(shape, dtype=object)) * width, 1 << 15)
    parts[name] = (parts[name] + bytes(size))[:size]
    start, joined = 0, b""
    for name, part in parts.items():
        header[name]["data_offsets"] = [start, start + len(part)]
        joined, start = joined + part, start + len(part)
    return joined


def check(data: bytes, folder: Path) -> None:
    """Sign a head, load it and use it; what it knows of itself survives being written."""
    path = folder / "head.safetensors"
    path.write_bytes(data)
    _sign(path)
    head = load_head(path)
    use(head)
    text = head.info.model_dump_json()
    assert HeadInfo.model_validate_json(text).model_dump_json() == text


def _sign(path: Path) -> None:
    """Give a file the digest of what it holds; one that cannot be signed stays as it is."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = {k: v for k, v in metadata.items() if k not in ("format", "format_version", "xxh3")}
        write_tensors(path, tensors, kept, kind=FORMAT)
    # dtypes and shapes that torch or numpy do not have: load_head will say so
    except (SafetensorError, ValueError, TypeError, RuntimeError):
        return


def use(head: Head) -> None:
    """Do with a head what evaluation and prediction do."""
    Preprocessing.from_dict(head.info.identity.preprocessing)
    identity = head.info.identity
    channels = dict(zip(identity.tap_names, identity.tap_channels, strict=True))
    if sum(head.info.channels) > _MOST_CHANNELS:
        return
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(channels[tap], 3, 2, generator=generator) for tap in head.taps]
    scores = head.scores(maps, _SIZE)
    assert scores.shape == (len(identity.classes), *_SIZE)
