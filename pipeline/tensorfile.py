"""Safetensors files that vouch for their content, exist whole or not at all, and run no code."""

import json
import os
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.errors import HeadError

FORMAT_VERSION = 1


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], *, kind: str
) -> None:
    """Write a safetensors file that vouches for its content; it exists whole or not at all.

    The same content gives the same bytes, so that DVC knows a result again.
    """
    head = {"format": kind, "format_version": str(FORMAT_VERSION), **metadata}
    head["xxh3"] = _digest(tensors, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(_in_order(save(tensors, head)))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_tensors(path: Path, *, kind: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write_tensors` wrote.

    Raises
    ------
    HeadError
        If there is no such file, it is of another kind or version, or it is damaged.
    """
    if not path.is_file():
        raise HeadError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise HeadError(f"{path}: damaged, or not a safetensors file ({error})") from error
    if metadata.get("format") != kind:
        raise HeadError(f"{path}: a safetensors file, but not a {kind}")
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise HeadError(
            f"{path}: format version {metadata.get('format_version')}, but this software reads "
            f"version {FORMAT_VERSION}; {remedy}"
        )
    if metadata.pop("xxh3", None) != _digest(tensors, metadata):
        raise HeadError(f"{path}: damaged, its content does not match its digest; {remedy}")
    return tensors, metadata


def _in_order(serialised: bytes) -> bytes:
    """Sort the header's keys, which safetensors writes in another order every time."""
    end = 8 + int.from_bytes(serialised[:8], "little")
    header = json.dumps(json.loads(serialised[8:end]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + serialised[end:]


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    hasher = xxhash.xxh3_128(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name].contiguous().numpy()
        hasher.update(f"{name}{array.dtype.str}{array.shape}".encode())
        hasher.update(array.data)
    return hasher.hexdigest()
