"""``manifest.json``: what a cache holds, what was left out and why, and where it came from.

It is for people, and for ``pipeline cache repair``, which finds data set and weights in it.
"""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.cache.files import REMEDY
from pipeline.cache.pixels import Drawing
from pipeline.cache.reader import FeatureCache
from pipeline.errors import CacheDamagedError, CacheNotFoundError
from pipeline.identity import Identity
from pipeline.wholefile import write_whole

MANIFEST_NAME = "manifest.json"
_LARGEST = 1 << 26


class _MadeFrom(BaseModel):
    """What ``made_from`` may say in a :class:`Manifest`."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = ""
    weights: str = ""
    seed: int = Field(default=0, ge=-(2**63), lt=2**64)
    images_per_shard: int = Field(default=1, ge=1)
    compression: Literal["gzip"] | None = None
    drawing: Drawing = Drawing()
    on_error: Literal["stop", "skip"] = "stop"


class SplitSummary(BaseModel):
    """A split in the manifest.

    Attributes
    ----------
    images, shards : int
    skipped : dict of image id to reason
        Images that were left out.
    bad_lines : dict of str to str
        Lines of the split file that were left out: where, and what is wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    shards: int
    skipped: dict[str, str] = {}
    bad_lines: dict[str, str] = {}


class Manifest(BaseModel):
    """What ``manifest.json`` says.

    Attributes
    ----------
    fingerprint : str
    identity : Identity
    splits : dict of str to SplitSummary
    made_from : dict
        Where the data set and the weights lay: ``dataset``, ``weights``, ``seed``,
        ``images_per_shard`` and so on. It does not change the features.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    identity: Identity
    splits: dict[str, SplitSummary]
    made_from: dict[str, Any]

    @field_validator("made_from")
    @classmethod
    def _made_from_is_known(cls, made_from: dict[str, Any]) -> dict[str, Any]:
        found = _MadeFrom.model_validate(made_from)
        return found.model_dump(mode="json", exclude_unset=True)


def manifest_of(
    cache: FeatureCache,
    made_from: Mapping[str, Any],
    bad_lines: Mapping[str, Mapping[str, str]],
) -> Manifest:
    """Describe a cache.

    Parameters
    ----------
    cache : FeatureCache
    made_from : mapping
        See :class:`Manifest`.
    bad_lines : mapping of split to mapping
        See :class:`SplitSummary`.
    """
    return Manifest(
        fingerprint=cache.identity.fingerprint,
        identity=cache.identity,
        splits={
            name: SplitSummary(
                images=len(split),
                shards=split.parts,
                skipped={i: s.reason for i, s in split.skipped.items()},
                bad_lines=dict(bad_lines.get(name, {})),
            )
            for name, split in cache.splits.items()
        },
        made_from=dict(made_from),
    )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write a manifest with its digest."""
    content = manifest.model_dump(mode="json")
    write_whole(
        directory / MANIFEST_NAME,
        json.dumps({**content, "xxh3": manifest_digest(content)}, indent=2) + "\n",
    )


def read_manifest(directory: Path) -> Manifest:
    """Read a manifest and check it against its digest.

    Raises
    ------
    CacheNotFoundError
        If there is none.
    CacheDamagedError
        If it is not what was written.
    """
    path = directory / MANIFEST_NAME
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise ValueError("it is not a file, or too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("xxh3", None) != manifest_digest(content):
            raise ValueError("it does not match its digest")
        return Manifest.model_validate(content)
    except FileNotFoundError as error:
        raise CacheNotFoundError(f"{path}: no such file; run 'pipeline extract' again") from error
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise CacheDamagedError(f"{path}: is damaged; {REMEDY} ({reason})") from error


def manifest_digest(content: Mapping[str, Any]) -> str:
    """Give the digest of what a manifest says."""
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
