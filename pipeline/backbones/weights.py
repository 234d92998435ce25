"""Weights of a backbone: where they come from, whether they fit, and their digest."""

import pickle
import re
import warnings
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torchvision
import xxhash
from torch import Tensor

from pipeline.backbones.networks import check_name, torchvision_network
from pipeline.errors import WeightsError

State = dict[str, Tensor]

# The DenseNet downloads keep a name that torch no longer allows: "norm.1" for "norm1".
_OLD_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")


def load_weights(
    name: str, weights: str | Path = "DEFAULT", *, seed: int = 0, progress: bool = True
) -> State:
    """Get the weights of a network under torchvision's parameter names, on the CPU.

    Parameters
    ----------
    name
        The network, by torchvision's name.
    weights
        ``"DEFAULT"``: torchvision's best, downloaded once. ``"random"``: newly initialised.
        Otherwise a ``.safetensors``, ``.pth`` or ``.pt`` file; no code in it is run.
    seed
        Of random weights: the same seed gives the same bytes, and torch's own generator is left
        as it was.
    progress
        Whether a download shows its progress on stderr.

    Raises
    ------
    BackboneError
        If there is no such network.
    WeightsError
        If the weights cannot be downloaded or read.
    """
    check_name(name)
    if weights == "DEFAULT":
        state = _download(name, progress)
    elif weights == "random":
        state = _random(name, seed)
    else:
        state = _read(Path(weights))
    return {_OLD_DENSENET_KEY.sub(r"\1", key): value for key, value in state.items()}


def fit_weights(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, what: str) -> State:
    """Pick the wanted tensors out of a state, in the shape and dtype that is wanted.

    The matrix of a fully connected layer serves a convolution of as many weights, reshaped.

    Parameters
    ----------
    state
        As :func:`load_weights` returns it. What is not wanted may be missing, extra or different.
    wanted
        Tensors, on the ``meta`` device say, that have the right shapes and dtypes.
    what
        How a message begins: which weights do not fit which network.

    Raises
    ------
    WeightsError
        If one is missing, has another shape, or does not hold finite floating-point numbers: the
        first in the network's order is named.
    """
    fitting: State = {}
    for key, pattern in wanted.items():
        if key not in state:
            raise WeightsError(f"{what}: {key!r} is missing; give that network's weights")
        value = state[key]
        if value.ndim == 2 and pattern.ndim == 4 and value.numel() == pattern.numel():
            value = value.reshape(pattern.shape)
        if value.shape != pattern.shape:
            raise WeightsError(
                f"{what}: {key!r} is {tuple(value.shape)} where the network has "
                f"{tuple(pattern.shape)}; give that network's weights"
            )
        fitting[key] = _finite(value.detach(), pattern.dtype, what=f"{what}: {key!r}")
    return fitting


def _finite(value: Tensor, dtype: torch.dtype, *, what: str) -> Tensor:
    """Return the tensor in that dtype, or raise WeightsError unless all of it is finite numbers."""
    # Quantised weights, for one, are whole numbers that mean nothing without their scales.
    if (
        not value.is_floating_point()
        or value.is_quantized
        or value.is_meta
        or value.layout != torch.strided
    ):
        kind = str(value.dtype).removeprefix("torch.")
        raise WeightsError(
            f"{what} does not hold plain floating-point numbers ({kind}, {value.device.type}); "
            "save the weights in float32"
        )
    converted = value.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise WeightsError(f"{what} has values that are not finite; get the weights again")
    return converted


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Hash names, dtypes, shapes and bytes of CPU tensors with xxh3-128, in order of name."""
    digest = xxhash.xxh3_128()
    for key in sorted(state):
        array = state[key].contiguous().numpy()
        digest.update(f"{key} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _download(name: str, progress: bool) -> State:
    default = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state: State = default.get_state_dict(
            progress=progress, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"the weights of {name} cannot be had from {default.url} ({_first_line(error)}); "
            "try again with a network connection, or download that file and give its path"
        ) from error
    return state


def _random(name: str, seed: int) -> State:
    # Not torch.manual_seed: it would reseed the GPUs' generators as well.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return torchvision_network(name).state_dict()


def _read(path: Path) -> State:
    if path.suffix not in {".safetensors", ".pth", ".pt"}:
        raise WeightsError(
            f"weights {str(path)!r} are not understood; use DEFAULT, random, or a file that ends "
            "in .safetensors, .pth or .pt"
        )
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; check the path")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file ({_first_line(error)}); get it again"
        ) from error


def _read_torch(path: Path) -> State:
    try:
        # Its warnings ask to report to torch what is said in one line below.
        with warnings.catch_warnings(action="ignore"):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds objects that need code to load, which is refused; save "
            "the network's state_dict() alone"
        ) from error
    # torch takes a damaged file's word for much, and fails in as many ways.
    except Exception as error:
        raise WeightsError(
            f"{path} is damaged or no torch file ({_first_line(error)}); get it again"
        ) from error
    # Training scripts often save a checkpoint with the state under one of these names.
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    ):
        raise WeightsError(f"{path} holds no weights by name; save the network's state_dict()")
    return dict(content)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
