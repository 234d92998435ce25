"""The backbone that an identity speaks of, loaded again."""

from pathlib import Path

import torch

from pipeline.backbones import Backbone, load_backbone
from pipeline.errors import WeightsError
from pipeline.identity import Identity


def restore_backbone(
    identity: Identity, *, weights: str | Path, seed: int, device: torch.device, what: str
) -> Backbone:
    """Load the backbone that features were made with.

    Parameters
    ----------
    identity : Identity
        Of a cache.
    weights : str or Path
        ``"DEFAULT"``, ``"random"`` or a file.
    seed : int
        Of random weights.
    device : torch.device
        Where it computes.
    what : str
        How a message begins: what was made with the identity.

    Raises
    ------
    WeightsError
        If the weights cannot be had, or are not those the identity names.
    """
    backbone = load_backbone(
        identity.backbone,
        weights=weights,
        taps=[f"{tap.name}={'+'.join(tap.modules)}" for tap in identity.taps],
        seed=seed,
        compute=identity.compute,
        device=device,
    )
    if backbone.weights_digest != identity.weights:
        raise WeightsError(
            f"{what}: made with {identity.backbone} weights {identity.weights}, but "
            f"{weights} are {backbone.weights_digest}; give the weights it was made with"
        )
    return backbone
