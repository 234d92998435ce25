"""What the shards in a directory say about themselves."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.cache.files import UNREADABLE, damaged
from pipeline.cache.handles import ShardFile
from pipeline.cache.layout import ROW, Front, array_names, header_digest, shard_names
from pipeline.errors import (
    CacheDamagedError,
    CacheError,
    CacheMismatchError,
    CacheNotFoundError,
)
from pipeline.identity import Identity
from pipeline.names import is_plain

Sources = Mapping[str, str]
"""Digests of the files an image was made from: ``image_digest`` and ``mask_digest``."""

_MOST_SHARDS = 1_000_000
_LONGEST_HEADER = 1 << 25
_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<part>\d{5,})-of-(?P<parts>\d{5,})\.h5")


class Skipped(BaseModel):
    """An image that was left out: why, and which files could not be used."""

    model_config = ConfigDict(frozen=True)

    reason: str
    sources: dict[str, str]


class ShardDetails(BaseModel):
    """What a shard says about itself beside its identity.

    Attributes
    ----------
    split : str
    part, parts : int
        The shard is the ``part``-th, from 0, of ``parts``.
    images : dict of image id to dict
        Digests of the files each image was made from, in the order of the split.
    skipped : dict of image id to Skipped
    dataset : str
        Name of the data set's folder.
    software : dict
        Versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    part: int = Field(ge=0)
    parts: int = Field(ge=1, le=_MOST_SHARDS)
    images: dict[str, dict[str, str]]
    skipped: dict[str, Skipped] = {}
    dataset: str
    software: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_are_plain(self) -> "ShardDetails":
        for name in (self.split, *self.images, *self.skipped):
            if not is_plain(name):
                raise ValueError(f"{name[:80]!r} is not the name of a split or an image")
        if self.part >= self.parts:
            raise ValueError(f"part {self.part} of {self.parts}")
        return self

    @property
    def name(self) -> str:
        """The name of the shard's file."""
        return shard_name(self.split, self.part, self.parts)


@dataclass(frozen=True)
class ShardHeader:
    """A shard's file, and what it says: its identity, its details, and where all else lies."""

    path: Path
    identity: Identity
    details: ShardDetails
    front: Front

    @classmethod
    def read(cls, path: Path) -> "ShardHeader":
        """Read a shard's header.

        Raises
        ------
        CacheMismatchError
            If it is whole and says what this version does not know: a newer one wrote it.
        CacheError
            As :class:`pipeline.cache.handles.ShardFile` raises it.
        """
        file = ShardFile(path)
        front = file.front
        try:
            if front.identity.bytes + front.details.bytes > _LONGEST_HEADER:
                raise ValueError("it is too long")
            identity = file.read(front.identity).tobytes()
            details = file.read(front.details).tobytes()
            if header_digest(identity, details) != front.header_digest:
                raise ValueError("it does not match its digest")
            found = cls(path, *_parsed(path, identity, details), front)
            if front.table.bytes != found.rows * ROW.itemsize:
                raise ValueError(f"a table of {front.table.bytes} bytes for {found.rows} arrays")
        except UNREADABLE as error:
            raise damaged(path, "its header is damaged", error) from error
        return found

    @property
    def rows(self) -> int:
        """How many arrays the shard has."""
        images = len(self.details.images) * len(array_names(self.identity))
        return images + len(shard_names(self.identity))


def _parsed(path: Path, identity: bytes, details: bytes) -> tuple[Identity, ShardDetails]:
    """Check what a shard says about itself, which is what was written: its digest has been seen."""
    try:
        return _identity(identity), ShardDetails.model_validate_json(details)
    except ValidationError as error:
        if (unknown := _unknown(error)) is None:
            raise
        raise CacheMismatchError(
            f"{path}: written by a newer version of this software, this one does not understand "
            f"it; use that version, or extract again with --replace ({unknown})"
        ) from error


def _unknown(error: ValidationError) -> str | None:
    """Say what a newer version may have added; None if no version would have written this."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    fields = [each for each in found if each["type"] == "extra_forbidden"]
    missing = [each for each in found if each["type"] == "missing" and len(each["loc"]) == 1]
    if len(missing) > len(fields) or any(not each["loc"] for each in found):
        return None  # of no more than there are new ones, each may be called otherwise now
    if not fields and error.title != Identity.__name__:
        return None
    first = (fields or found)[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    return ascii(" ".join(f"{where}: {first['msg'][:200]}".split()))[1:-1]


@lru_cache(maxsize=8)
def _identity(text: bytes) -> Identity:
    """Check an identity once for all files that have the same."""
    return Identity.model_validate_json(text)


def shard_name(split: str, part: int, parts: int) -> str:
    """Give the name of a shard's file."""
    return f"{split}-{part:05d}-of-{parts:05d}.h5"


def split_of(name: str) -> str | None:
    """Tell of which split a shard is by its name; None if that is no shard's name."""
    found = _SHARD_NAME.fullmatch(name)
    return None if found is None else found["split"]


def scan_shards(directory: Path) -> tuple[list[ShardHeader], dict[Path, CacheError]]:
    """Read the headers of all shards in a directory, in order of split and part.

    Returns
    -------
    headers : list of ShardHeader
        Of the shards that can be read and lie under their own names.
    problems : dict of Path to CacheError
        What is wrong with the others.
    """
    headers: list[ShardHeader] = []
    problems: dict[Path, CacheError] = {}
    for path in sorted(directory.glob("*-of-*.h5")):
        if split_of(path.name) is None:
            continue
        try:
            header = ShardHeader.read(path)
        except CacheNotFoundError as error:
            if path.is_symlink():  # and leads nowhere; others were moved away just now
                problems[path] = error
            continue
        except CacheError as error:
            problems[path] = error
            continue
        if header.details.name != path.name:
            problems[path] = CacheDamagedError(
                f"{path}: was renamed, it is {header.details.name}; "
                "give it its name back, or run 'pipeline extract' again"
            )
        else:
            headers.append(header)
    headers.sort(key=lambda h: (h.details.split, h.details.parts, h.details.part))
    return headers, problems
