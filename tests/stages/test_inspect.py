"""What a cache is said to hold, and that nothing in it goes bad unnoticed."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from fuzz.shard_values import of_later_identity
from pipeline import Preprocessing, VocDataset, extract
from pipeline.errors import CacheDamagedError, CacheMismatchError, CacheNotFoundError
from pipeline.software import versions
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
            "bytes": sum(path.stat().st_size for path in cache.glob(f"{split}-*-of-*.h5")),
            "skipped": {},
            "samples": samples,
            "dataset": "scenes",
            "software": versions(),
        }
    assert info["splits"] == expected
    assert (info["complete"], info["problems"]) == (True, [])
    assert info["made_from"]["dataset"] == str(scenes.root)
    assert (info["made_from"]["weights"], info["made_from"]["seed"]) == ("random", 0)
    assert info["bytes"] == sum(path.stat().st_size for path in cache.iterdir())
    assert info["identity"]["backbone"] == "squeezenet1_0"
    assert [tap["channels"] for tap in info["identity"]["taps"]] == [96, 128, 256]
    assert info["identity"]["classes"] == list(scenes.classes)
    with h5py.File(next(cache.glob("val-00000-of-*.h5"))) as shard:
        assert info["fingerprint"] == shard.attrs["fingerprint"].decode()


def test_info_of_what_is_not_complete(copy: Path) -> None:
    next(copy.glob("train-00001-of-*.h5")).unlink()
    (copy / "val-samples.h5").unlink()
    info = inspect_cache(copy)
    splits = info["splits"]
    assert not info["complete"]
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
    assert (problem.split, problem.image_id) == ("train", image_id)
    assert problem.what.startswith(f"{shard}: {image_id}/{name} is damaged; ")
    assert "pipeline cache repair" in problem.what


@pytest.mark.parametrize("name", ["features", "label", "y"])
def test_a_flipped_byte_among_the_samples_is_found(copy: Path, name: str) -> None:
    samples = copy / "val-samples.h5"
    flip(samples, place(samples, name))
    (problem,) = verify_cache(copy)
    assert (problem.split, problem.image_id) == ("val", None)
    assert problem.what.startswith(f"{samples}: {name} is damaged; ")


def test_a_changed_name_among_the_samples_is_found(copy: Path, scenes: VocDataset) -> None:
    """The names decide which images were held out."""
    samples = copy / "train-samples.h5"
    name = scenes.image_ids("train")[3].encode()
    flip(samples, samples.read_bytes().index(name) + len(name) - 1)
    (problem,) = verify_cache(copy)
    assert problem.what.startswith(f"{samples}: image_ids is damaged; ")


def test_a_damaged_directory_of_a_shard_is_found(copy: Path, scenes: VocDataset) -> None:
    shard = next(copy.glob("val-00000-of-*.h5"))
    image_id = scenes.image_ids("val")[0]
    with h5py.File(shard) as file:
        address = h5py.h5o.get_info(file[image_id].id).addr
    flip(shard, 512 + address + 20)
    (problem,) = verify_cache(copy)
    assert (problem.split, problem.image_id) == ("val", None)
    assert problem.what.startswith(f"{shard}: {image_id} is damaged for HDF5; run 'pipeline cache")
    assert inspect_cache(copy)["complete"]  # nothing that the pipeline reads is hurt


def test_everything_that_is_wrong_is_listed(copy: Path, scenes: VocDataset) -> None:
    next(copy.glob("train-00000-of-*.h5")).unlink()
    shard = next(copy.glob("val-00001-of-*.h5"))
    image_id = scenes.image_ids("val")[-1]
    flip(shard, place(shard, f"{image_id}/conv1"))
    samples = copy / "val-samples.h5"
    flip(samples, place(samples, "features"))
    (copy / "index.h5").write_bytes(b"")
    flip(copy / "manifest.json", 300)
    problems = [(p.split, p.image_id, p.what.split(";")[0]) for p in verify_cache(copy)]
    assert problems == [
        ("train", None, f"{copy}: shard 0 of split train is missing or unreadable"),
        ("val", image_id, f"{shard}: {image_id}/conv1 is damaged"),
        ("val", None, f"{samples}: features is damaged"),
        (None, None, f"{copy / 'index.h5'}: not a readable HDF5 file"),
        (None, None, f"{copy / 'manifest.json'}: is damaged"),
    ]


def test_an_unfinished_extraction_is_not_damaged(run, interrupted, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupted("extracting train", after=3))
    cache = tmp_path / "cache"
    assert [problem.what for problem in verify_cache(cache)] == [
        f"{cache}: shard {part} of split train is missing or unreadable" for part in (1, 2)
    ]
    info = inspect_cache(cache)
    assert not info["complete"]
    assert info["splits"]["train"]["images"] == 2


def test_a_damaged_header_is_named_and_the_rest_is_described(copy: Path) -> None:
    shard = next(copy.glob("val-00000-of-*.h5"))
    flip(shard, 100)
    info = inspect_cache(copy)
    (said,) = info["problems"]
    assert said.startswith(f"{shard}: its header is damaged; run 'pipeline cache repair' (its fi")
    assert not info["complete"]
    assert (info["splits"]["val"]["shards"], info["splits"]["val"]["shards_expected"]) == (1, 2)
    assert [problem.what for problem in verify_cache(copy)] == [
        said,
        f"{copy}: shard 0 of split val is missing or unreadable",
    ]


def test_nothing_readable_is_left(copy: Path) -> None:
    shards = sorted(copy.glob("*-of-*.h5"))
    for shard in shards:
        shard.write_bytes(b"")
    with pytest.raises(CacheDamagedError, match="not a readable HDF5 file"):
        inspect_cache(copy)
    assert [p.what.split(":")[0] for p in verify_cache(copy)] == [str(shard) for shard in shards]


def test_a_cache_of_a_later_version_is_not_called_damaged(copy: Path) -> None:
    shards = sorted(copy.glob("*-of-*.h5"))
    for shard in shards[1:]:
        shard.write_bytes(of_later_identity(shard.read_bytes(), tiles=4))
    said = [problem.what for problem in verify_cache(copy) if "newer version" in problem.what]
    assert [what.split(":")[0] for what in said] == [str(shard) for shard in shards[1:]]
    assert not any("damaged" in what for what in said)
    shards[0].write_bytes(of_later_identity(shards[0].read_bytes(), tiles=4))
    for look in (inspect_cache, verify_cache):
        with pytest.raises(CacheMismatchError, match="by a newer version"):
            look(copy)


def test_a_shard_made_otherwise_is_named(
    copy: Path, scenes: VocDataset, backbone, tmp_path
) -> None:
    extract(scenes, backbone, tmp_path / "other", dtype="int8", splits=["val"], images_per_shard=6)
    (stranger,) = (tmp_path / "other").glob("val-*-of-*.h5")
    stranger = stranger.rename(copy / stranger.name)
    for problems in (inspect_cache(copy)["problems"], [p.what for p in verify_cache(copy)]):
        (said,) = (p for p in problems if p.startswith(f"{stranger}: made otherwise ("))
        assert "dtype: " in said


def test_a_stranger_that_comes_first_does_not_make_strangers_of_the_others(
    copy: Path, scenes: VocDataset, backbone, tmp_path
) -> None:
    """The manifest says which fingerprint is the cache's, as it does for gc."""
    fingerprint = inspect_cache(copy)["fingerprint"]
    extract(
        scenes, backbone, tmp_path / "other", dtype="int8", splits=["train"], images_per_shard=5
    )
    stranger = next((tmp_path / "other").glob("train-00000-of-*.h5"))
    (first, *_) = sorted(copy.glob("*-of-*.h5"))
    stranger.replace(first)
    info, problems = inspect_cache(copy), [p.what for p in verify_cache(copy)]
    assert info["fingerprint"] == fingerprint
    assert not info["complete"]
    for said in (info["problems"], problems):
        (what,) = (p for p in said if "made otherwise" in p)
        assert what.startswith(f"{first}: made otherwise (")
        assert what.endswith("remove it with 'pipeline cache gc'")


@pytest.mark.parametrize("name", ["index.h5", "manifest.json"])
def test_a_list_that_does_not_tell_what_is_there_is_found(
    copy: Path, scenes: VocDataset, backbone, tmp_path: Path, name: str
) -> None:
    extract(
        scenes,
        backbone,
        tmp_path / "other",
        preprocessing=Preprocessing(input_size="native"),
        splits=["val"],
    )
    shutil.copy(tmp_path / "other" / name, copy)
    (problem,) = verify_cache(copy)
    assert str(copy) in problem.what


def test_samples_of_other_images_are_found(copy: Path) -> None:
    shutil.copy(copy / "val-samples.h5", copy / "train-samples.h5")
    (problem,) = verify_cache(copy)
    assert problem.what.startswith(f"{copy / 'train-samples.h5'}: drawn from other images")


def test_info_without_a_manifest(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    info = inspect_cache(copy)
    assert info["made_from"] == {}
    assert info["problems"] == [
        f"{copy / 'manifest.json'}: no such file; run 'pipeline extract' again"
    ]
    json.dumps(info)  # for programs


def test_there_is_no_cache(tmp_path: Path) -> None:
    for look in (inspect_cache, verify_cache):
        with pytest.raises(CacheNotFoundError, match="holds no shards; run 'pipeline extract'"):
            look(tmp_path)
        with pytest.raises(CacheNotFoundError, match="no cache there; run 'pipeline extract'"):
            look(tmp_path / "none")
