"""Where to compute."""

import torch

from pipeline.errors import ParamsError


def choose_device(name: str) -> torch.device:
    """Turn ``"auto"``, ``"cpu"`` or ``"cuda"`` into a device; auto takes a GPU where there is one.

    Raises
    ------
    ParamsError
        If a GPU is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name.startswith("cuda") and not available:
        raise ParamsError("no GPU that torch can use; give --device cpu")
    return torch.device(name)
