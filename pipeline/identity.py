"""The identity of a cache: everything that changes a feature's value, and its fingerprint.

What is not here (worker count, batch size, shard size, compression, where the files lie) changes no
value. Images and masks are identified one by one, by the digests of their files, beside the
features made from them.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import xxhash
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

FORMAT = "hypercolumn-cache"
FORMAT_VERSION = 3


_Length = Annotated[int, Field(ge=1, le=1000)]
_Padding = Annotated[int, Field(ge=0, le=1000)]


class TapIdentity(BaseModel):
    """One tap: its name, the modules whose outputs are concatenated, its channels and stride."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # As it names datasets in shards it must be no path.
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")
    modules: tuple[str, ...]
    channels: int = Field(ge=1)
    stride: int = Field(ge=0)


class ConvolutionIdentity(BaseModel):
    """A convolution without its numbers: kernel, stride and padding, of rows and of columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kernel: tuple[_Length, _Length]
    stride: tuple[_Length, _Length]
    padding: tuple[_Padding, _Padding]


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
    compute : {"float32", "bfloat16"}
        What the backbone computes with.
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
    recompute_first : ConvolutionIdentity, optional
        The first tap is not stored: it is the network's first convolution, which readers apply to
        the stored image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    weights: str
    taps: tuple[TapIdentity, ...] = Field(min_length=1)
    compute: Literal["float32", "bfloat16"] = "float32"
    preprocessing: dict[str, Any]
    geometry: Literal["half_pixel", "align_corners"]
    dtype: Literal["float16", "float32", "int8"]
    classes: tuple[str, ...] = Field(min_length=1, max_length=256)
    void: int = Field(ge=0, le=255)
    recompute_first: ConvolutionIdentity | None = None

    @model_serializer(mode="wrap")
    def _unless_stored(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing: caches from before it was there keep their fingerprints."""
        content: dict[str, Any] = write(self)
        if self.recompute_first is None:
            del content["recompute_first"]
        return content

    @field_validator("taps")
    @classmethod
    def _tap_names_are_their_own(cls, taps: tuple[TapIdentity, ...]) -> tuple[TapIdentity, ...]:
        names = {tap.name for tap in taps}
        if len(names) < len(taps) or names & {"scales", "label", "label_original", "image"}:
            raise ValueError("taps must have names of their own")
        return taps

    @property
    def tap_names(self) -> list[str]:
        """Names of the taps."""
        return [tap.name for tap in self.taps]

    @property
    def tap_channels(self) -> list[int]:
        """Channels of the taps."""
        return [tap.channels for tap in self.taps]

    @property
    def stored_taps(self) -> tuple[TapIdentity, ...]:
        """The taps that are stored: all, or all but the first."""
        return self.taps if self.recompute_first is None else self.taps[1:]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest (xxh3, 128 bits) of all fields and the format's version."""
        content = [FORMAT, FORMAT_VERSION, self.model_dump(mode="json")]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return xxhash.xxh3_128_hexdigest(text.encode())

    def differences(self, other: "Identity") -> list[str]:
        """Say field by field where ``other`` is not the same: ``"dtype: float16, not int8"``."""
        mine, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        if (self.recompute_first is None) != (other.recompute_first is None):
            for identity, content in ((self, mine), (other, theirs)):
                content["recompute_first"] = identity.recompute_first is not None
        if self.tap_names != other.tap_names:
            mine["taps"], theirs["taps"] = self.tap_names, other.tap_names
        return [
            f"{field}: {_contrast(mine[field], theirs[field])}"
            for field in mine
            if mine[field] != theirs[field]
        ]


def file_digest(path: Path) -> str:
    """Give the hexadecimal digest (xxh3, 128 bits) of a file's bytes."""
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _contrast(mine: Any, theirs: Any) -> str:
    """Put two values side by side, the long ones from shortly before where they part."""
    texts = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in (mine, theirs)]
    pairs = enumerate(zip(*texts, strict=False))
    start = max(0, next((i for i, (a, b) in pairs if a != b), 0) - 20)
    return ", not ".join(
        text if len(text) <= 80 else "..." * (start > 0) + text[start : start + 70] + "..."
        for text in texts
    )
