"""The identity of a cache: everything that changes a feature's value, and its fingerprint.

What is not here (worker count, batch size, shard size, compression, where the files lie) changes no
value. Images and masks are identified one by one, by the digests of their files, beside the
features made from them.
"""

import json
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict

FORMAT = "hypercolumn-cache"
FORMAT_VERSION = 1


class TapIdentity(BaseModel):
    """One tap: its name, the modules whose outputs are concatenated, its channels and stride."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    modules: tuple[str, ...]
    channels: int
    stride: int


class Identity(BaseModel):
    """What the features of a cache were made with.

    Attributes
    ----------
    backbone : str
        Name of the network, as torchvision spells it.
    weights : str
        Digest of the weights that the taps depend on.
    taps : tuple of TapIdentity
        In the order in which they make up a hypercolumn.
    preprocessing : dict
        How an image became the network's input.
    geometry : {"half_pixel", "align_corners"}
        How the maps lie on the image.
    dtype : {"float16", "float32", "int8"}
        How the maps are stored; storing rounds.
    classes : tuple of str
        Names of the label values 0, 1, ...
    void : int
        The label of pixels that do not count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    weights: str
    taps: tuple[TapIdentity, ...]
    preprocessing: dict[str, Any]
    geometry: Literal["half_pixel", "align_corners"]
    dtype: Literal["float16", "float32", "int8"]
    classes: tuple[str, ...]
    void: int

    @property
    def tap_names(self) -> list[str]:
        """Names of the taps."""
        return [tap.name for tap in self.taps]

    @property
    def tap_channels(self) -> list[int]:
        """Channels of the taps."""
        return [tap.channels for tap in self.taps]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest (xxh3, 128 bits) of all fields and the format's version."""
        content = [FORMAT, FORMAT_VERSION, self.model_dump(mode="json")]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return xxhash.xxh3_128_hexdigest(text.encode())

    def differences(self, other: "Identity") -> list[str]:
        """Say field by field where ``other`` is not the same: ``"dtype: float16, not int8"``."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        if self.tap_names != other.tap_names:
            mine["taps"], theirs["taps"] = self.tap_names, other.tap_names
        return [
            f"{field}: {_contrast(mine[field], theirs[field])}"
            for field in mine
            if mine[field] != theirs[field]
        ]


def _contrast(mine: Any, theirs: Any) -> str:
    """Put two values side by side, the long ones from shortly before where they part."""
    texts = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in (mine, theirs)]
    pairs = enumerate(zip(*texts, strict=False))
    start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - 20)
    return ", not ".join(
        text if len(text) <= 80 else "..." * (start > 0) + text[start : start + 70] + "..."
        for text in texts
    )
