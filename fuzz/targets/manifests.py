"""The manifest of a cache."""

import json
import random
from pathlib import Path

from fuzz.json_values import mutate_json, to_text
from fuzz.targets.shards import identity_for
from pipeline.cache import Manifest, read_manifest, write_manifest
from pipeline.cache.manifest import MANIFEST_NAME, SplitSummary, manifest_digest

PACKAGES = "pipeline.cache pipeline.identity"


def seeds() -> list[bytes]:
    """Give a manifest, without its digest."""
    identity = identity_for("float16")
    manifest = Manifest(
        fingerprint=identity.fingerprint,
        identity=identity,
        splits={"train": SplitSummary(images=2, shards=1, skipped={"a": "it is damaged"})},
        made_from={"dataset": "data/set", "weights": "random", "seed": 0, "images_per_shard": 64},
    )
    return [manifest.model_dump_json().encode(), b"[]", b"{}"]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the JSON."""
    return to_text(mutate_json(json.loads(data), chance)).encode(errors="replace")


def check(data: bytes, folder: Path) -> None:
    """Sign a manifest where it is one, and read it; what is read survives being written."""
    path = folder / MANIFEST_NAME
    path.write_bytes(data)
    try:
        content = json.loads(data)
        path.write_text(json.dumps({**content, "xxh3": manifest_digest(content)}), encoding="utf-8")
    except (ValueError, TypeError, RecursionError):
        path.write_bytes(data)  # not JSON, or no mapping
    manifest = read_manifest(folder)
    write_manifest(folder, manifest)
    assert read_manifest(folder).model_dump_json() == manifest.model_dump_json()
