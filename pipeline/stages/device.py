"""Where to compute."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pipeline.errors import DeviceMemoryError, ParamsError


def choose_device(name: str) -> torch.device:
    """Turn ``"auto"``, ``"cpu"`` or ``"cuda"`` into a device; auto takes a GPU where there is one.

    With several GPUs, ``"cuda:1"`` is the second.

    Raises
    ------
    ParamsError
        If it is none of these, or a GPU is asked for that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(?P<index>\d+))?", name)
    if match is None:
        raise ParamsError(f"no device '{name}'; give auto, cpu or cuda")
    if name != "cpu" and int(match["index"] or 0) >= torch.cuda.device_count():
        raise ParamsError(f"no GPU '{name}' that torch can use; give --device cpu")
    return torch.device(name)


@contextmanager
def memory_named(what: str) -> Iterator[None]:
    """Say what did not fit a GPU's memory, rather than torch's own words.

    Raises
    ------
    DeviceMemoryError
        If the block runs out of it.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{what}: does not fit the GPU's memory; use --device cpu, or a smaller --input-size"
        ) from error
