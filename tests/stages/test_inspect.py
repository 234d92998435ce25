import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline import VocDataset
from pipeline.errors import CacheDamagedError, CacheNotFoundError
from pipeline.stages.inspect import inspect_cache, verify_cache


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    """Give a copy of the cache, to be damaged."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def place(path: Path, dataset: str) -> int:
    """Give the position in a file of a byte amid the values of a dataset."""
    with h5py.File(path) as file:
        found = file[dataset].id
        if found.get_offset() is not None:  # None where the values are cut into chunks
            return found.get_offset() + found.get_storage_size() // 2
        chunk = found.get_chunk_info(0)
        return chunk.byte_offset + chunk.size // 2


def test_info_counts(cache: Path, scenes: VocDataset) -> None:
    info = inspect_cache(cache)
    expected = {}
    for split, shards in (("train", 3), ("val", 2)):
        samples = 0
        for image_id in scenes.image_ids(split):
            mask = scenes.read_mask(image_id)
            _, pixels = np.unique(mask[mask != scenes.void], return_counts=True)
            samples += int(np.minimum(pixels, 6).sum())
        expected[split] = {
            "images": len(scenes.image_ids(split)),
            "shards": shards,
            "shards_expected": shards,
            "skipped": [],
            "samples": samples,
        }
    assert info["splits"] == expected
    assert info["bytes"] == sum(path.stat().st_size for path in cache.iterdir())
    assert info["identity"]["backbone"] == "squeezenet1_0"
    assert [tap["channels"] for tap in info["identity"]["taps"]] == [96, 128, 256]
    assert info["identity"]["classes"] == list(scenes.classes)
    with h5py.File(next(cache.glob("val-00000-of-*.h5"))) as shard:
        assert info["fingerprint"] == shard.attrs["fingerprint"]


def test_info_of_what_is_not_complete(copy: Path) -> None:
    next(copy.glob("train-00001-of-*.h5")).unlink()
    (copy / "val-samples.h5").unlink()
    splits = inspect_cache(copy)["splits"]
    assert (splits["train"]["shards"], splits["train"]["shards_expected"]) == (2, 3)
    assert splits["train"]["images"] == 7
    assert splits["val"]["samples"] is None


def test_a_sound_cache(cache: Path) -> None:
    assert verify_cache(cache) == []


@pytest.mark.parametrize("name", ["fire3", "label", "label_original", "image"])
def test_a_flipped_byte_in_a_shard_is_found(copy: Path, scenes: VocDataset, name: str) -> None:
    image_id = scenes.image_ids("train")[6]
    shard = next(copy.glob("train-00001-of-*.h5"))
    flip(shard, place(shard, f"{image_id}/{name}"))
    (problem,) = verify_cache(copy)
    assert problem.startswith(f"{shard}: {image_id}/{name} is damaged; ")
    assert "pipeline extract" in problem


@pytest.mark.parametrize("name", ["features", "label", "y"])
def test_a_flipped_byte_among_the_samples_is_found(copy: Path, name: str) -> None:
    samples = copy / "val-samples.h5"
    flip(samples, place(samples, name))
    (problem,) = verify_cache(copy)
    assert problem.startswith(f"{samples}: {name} is damaged; ")


def test_a_changed_name_among_the_samples_is_found(copy: Path, scenes: VocDataset) -> None:
    """The names decide which images were held out; HDF5 keeps them without a checksum."""
    samples = copy / "train-samples.h5"
    name = scenes.image_ids("train")[3].encode()
    flip(samples, samples.read_bytes().index(name) + len(name) - 1)
    (problem,) = verify_cache(copy)
    assert problem.startswith(f"{samples}: image_ids is damaged; ")


def test_a_damaged_directory_of_a_shard_is_found(copy: Path, scenes: VocDataset) -> None:
    shard = next(copy.glob("val-00000-of-*.h5"))
    image_id = scenes.image_ids("val")[0]
    with h5py.File(shard) as file:
        address = h5py.h5o.get_info(file[image_id].id).addr
    flip(shard, address + 20)
    (problem,) = verify_cache(copy)
    assert problem.startswith(f"{shard}: {image_id} is damaged; ")


def test_everything_that_is_wrong_is_listed(copy: Path, scenes: VocDataset) -> None:
    next(copy.glob("train-00000-of-*.h5")).unlink()
    shard = next(copy.glob("val-00001-of-*.h5"))
    image_id = scenes.image_ids("val")[-1]
    flip(shard, place(shard, f"{image_id}/conv1"))
    samples = copy / "train-samples.h5"
    flip(samples, place(samples, "features"))
    assert [problem.split(";")[0] for problem in verify_cache(copy)] == [
        f"{copy}: shard 0 of split train is missing",
        f"{samples}: features is damaged",
        f"{shard}: {image_id}/conv1 is damaged",
    ]


def test_a_damaged_header_is_named(copy: Path) -> None:
    shard = next(copy.glob("val-00000-of-*.h5"))
    with h5py.File(shard, "r+") as file:
        file.attrs["fingerprint"] = "0" * 32
    for look in (inspect_cache, verify_cache):
        with pytest.raises(CacheDamagedError, match="fingerprint does not match") as caught:
            look(copy)
        assert str(shard) in str(caught.value)


def test_there_is_no_cache(tmp_path: Path) -> None:
    for look in (inspect_cache, verify_cache):
        with pytest.raises(CacheNotFoundError, match="holds no shards; run 'pipeline extract'"):
            look(tmp_path)
        with pytest.raises(CacheNotFoundError, match="no cache there; run 'pipeline extract'"):
            look(tmp_path / "none")
