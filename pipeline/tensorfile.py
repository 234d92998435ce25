"""Safetensors files that vouch for their content, exist whole or not at all, and run no code."""

import json
from pathlib import Path

import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.errors import HeadError
from pipeline.wholefile import write_whole

FORMAT_VERSION = 1


def write_tensors(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], *, kind: str
) -> None:
    """Write a safetensors file that vouches for its content; it exists whole or not at all.

    The same content gives the same bytes, so that DVC knows a result again.
    """
    head = {"format": kind, "format_version": str(FORMAT_VERSION), **metadata}
    head["xxh3"] = _digest(tensors, head)
    write_whole(path, _in_order(save(tensors, head)))


def read_tensors(path: Path, *, kind: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write_tensors` wrote.

    Raises
    ------
    HeadError
        If there is no such file, it is of another kind or version, or it is damaged.
    """
    if not path.is_file():
        raise HeadError(f"{path}: no such file; correct the path, or {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Before any tensor is looked at: a foreign file may be of any size.
            _require_kind(path, metadata, kind, remedy)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        stored, digest = metadata.pop("xxh3", None), _digest(tensors, metadata)
    except HeadError:
        raise
    # TypeError, ValueError and RuntimeError: dtypes and shapes that torch or numpy do not have
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise HeadError(
            f"{path}: damaged, or not a safetensors file ({one_line(error)}); {remedy}"
        ) from error
    if stored != digest:
        raise HeadError(f"{path}: damaged, its content does not match its digest; {remedy}")
    return tensors, metadata


def one_line(text: object) -> str:
    """Put what a file or a library says into one line of moderate length, fit for a terminal."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return line if len(line) <= 200 else f"{line[:197]}..."


def _require_kind(path: Path, metadata: dict[str, str], kind: str, remedy: str) -> None:
    if metadata.get("format") != kind:
        raise HeadError(f"{path}: a safetensors file, but not a {kind}; give another, or {remedy}")
    version = metadata.get("format_version")
    if version != str(FORMAT_VERSION):
        raise HeadError(
            f"{path}: format version {one_line(version)}, but this software reads version "
            f"{FORMAT_VERSION}; {remedy}"
        )


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
