"""The manifest says what is there, and is found out if it does not."""

import json

import pytest

from pipeline.cache import (
    FeatureCache,
    manifest_of,
    plan_shards,
    read_manifest,
    write_manifest,
)
from pipeline.errors import CacheDamagedError, CacheNotFoundError

MADE_FROM = {"dataset": "data/Schäfchen", "weights": "random", "seed": 3, "compression": None}


@pytest.fixture
def cache(make_sketch, tmp_path):
    """Write a train split with an image left out, and a val split."""
    sketch = make_sketch()
    (plan,) = plan_shards(tmp_path, "train", sketch.sources, 3)
    sketch.write_shard(plan, skipped={"cow.1": "it is no image"})
    sketch.write(tmp_path, split="val", image_ids=("cow.1", "zebra_7"), images_per_shard=1)
    return FeatureCache(tmp_path)


@pytest.fixture
def manifest(cache):
    return manifest_of(cache, MADE_FROM, {"val": {"val.txt line 3": "is a path"}})


def test_what_it_says(cache, manifest):
    assert manifest.model_dump(mode="json") == {
        "fingerprint": cache.identity.fingerprint,
        "identity": cache.identity.model_dump(mode="json"),
        "splits": {
            "train": {
                "images": 2,
                "shards": 1,
                "skipped": {"cow.1": "it is no image"},
                "bad_lines": {},
            },
            "val": {
                "images": 2,
                "shards": 2,
                "skipped": {},
                "bad_lines": {"val.txt line 3": "is a path"},
            },
        },
        "made_from": MADE_FROM,
    }


def test_it_comes_back_and_people_can_read_it(manifest, tmp_path):
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content.keys() == {*manifest.model_dump(), "xxh3"}
    assert (tmp_path / "manifest.json").read_text().count("\n") > 20


def test_the_same_content_gives_the_same_bytes(cache, manifest, tmp_path):
    write_manifest(tmp_path, manifest)
    first = (tmp_path / "manifest.json").read_bytes()
    write_manifest(tmp_path, read_manifest(tmp_path))
    assert (tmp_path / "manifest.json").read_bytes() == first


def test_a_flipped_byte_is_found_or_changes_nothing(manifest, tmp_path):
    path = tmp_path / "manifest.json"
    write_manifest(tmp_path, manifest)
    whole = path.read_bytes()
    found = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert read_manifest(tmp_path) == manifest  # as "\u00e4" and "\u00E4"
        except CacheDamagedError as error:
            assert "\n" not in str(error)
            found += 1
    assert found > 0.99 * len(whole)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"xxh3": 1e9999}',
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
def test_what_is_no_manifest_is_one_line(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CacheDamagedError, match=r"manifest\.json: is damaged; run ") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_it_is_not_there_or_a_folder(tmp_path):
    with pytest.raises(CacheNotFoundError, match=r"manifest\.json: no such file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(CacheDamagedError, match="is damaged"):
        read_manifest(tmp_path)


def test_a_huge_one_is_not_read(tmp_path):
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(CacheDamagedError, match="too large"):
        read_manifest(tmp_path)
