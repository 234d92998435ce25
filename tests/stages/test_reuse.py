"""However the images are listed and divided, none is computed again that is there."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import pytest

from pipeline import FeatureCache, VocDataset
from pipeline.cache import draw_samples, read_samples, retired_shards, samples_path
from pipeline.errors import CacheError, CacheMismatchError
from pipeline.stages.inspect import verify_cache


@pytest.fixture
def cache(extracted: Path) -> Path:
    """Give 5 images of train in three shards and 2 of val in one."""
    return extracted


@pytest.fixture
def check(run: Any, values: Any, backbone_runs: Callable[[], int], cache: Path) -> Any:
    """Extract again; compare the work done with what is expected, and the values with before."""
    before = {key[1:]: value for key, value in values(cache).items() if len(key) == 3}

    def check_that(computed: int, *, new: str | None = None, **changes: Any) -> None:
        result = run(**changes)
        assert result.computed == backbone_runs() == computed
        assert verify_cache(cache) == []
        assert {path.suffix for path in cache.iterdir()} == {".h5", ".json"}
        after = {key[1:]: value for key, value in values(cache).items() if len(key) == 3}
        assert {
            key: value for key, value in after.items() if key[0] != new
        }.items() <= before.items()
        for split in FeatureCache(cache).splits.values():
            samples = read_samples(samples_path(cache, split.name))
            again = draw_samples(split, split.identity, samples.drawing)
            assert samples.features.tobytes() == again.features.tobytes()
            assert samples.image.tobytes() == again.image.tobytes()

    return check_that


def write_splits(dataset: VocDataset, **splits: Sequence[str]) -> None:
    for split, ids in splits.items():
        dataset.split_path(split).write_text("\n".join(ids))


def flip(path: Path, dataset: str) -> None:
    """Damage a value in a shard."""
    with h5py.File(path) as file:
        position = file[dataset].id.get_offset()
    content = bytearray(path.read_bytes())
    content[position + 7] ^= 1
    path.write_bytes(content)


LISTINGS: dict[str, Callable[[list[str], list[str]], tuple[list[str], list[str]]]] = {
    "backwards": lambda train, val: (train[::-1], val[::-1]),
    "backwards in one shard": lambda train, val: ([train[1], train[0], *train[2:]], val),
    "without the first": lambda train, val: (train[1:], val),
    "without the last": lambda train, val: (train[:-1], val),
    "without one in the middle": lambda train, val: ([*train[:2], *train[3:]], val),
    "one moved to the other split": lambda train, val: (train[1:], [*val, train[0]]),
    "two exchanged": lambda train, val: ([*train[1:], val[0]], [train[0], *val[1:]]),
    "one in both": lambda train, val: (train, [*val, train[2]]),
    "the splits exchanged": lambda train, val: (val, train),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_another_listing_of_the_same_images(
    cache: Path, check: Any, dataset: VocDataset, name: str
) -> None:
    train, val = LISTINGS[name](list(dataset.image_ids("train")), list(dataset.image_ids("val")))
    write_splits(dataset, train=train, val=val)
    check(0 if name != "one in both" else 1)
    opened = FeatureCache(cache)
    assert opened["train"].image_ids == tuple(train)
    assert opened["val"].image_ids == tuple(val)


@pytest.mark.parametrize("place", [0, 5])
def test_an_image_more_is_the_only_one_that_is_computed(
    cache: Path, check: Any, dataset: VocDataset, scenes: VocDataset, place: int
) -> None:
    new = scenes.image_ids("train")[9]
    for folder in ("JPEGImages", "SegmentationClass"):
        content = (scenes.root / folder / f"{new}.png").read_bytes()
        (dataset.root / folder / f"{new}.png").write_bytes(content)
    ids = list(dataset.image_ids("train"))
    ids.insert(place, new)
    write_splits(dataset, train=ids)
    check(1, new=new)


@pytest.mark.parametrize("images_per_shard", [1, 3, 5, 64])
def test_another_shard_size(cache: Path, check: Any, images_per_shard: int) -> None:
    check(0, images_per_shard=images_per_shard)
    assert len(list(cache.glob("train-*-of-?????.h5"))) == -(-5 // images_per_shard)


def test_another_shard_size_and_a_changed_image_and_another_order(
    cache: Path, check: Any, dataset: VocDataset
) -> None:
    ids = dataset.image_ids("train")
    path = dataset.image_path(ids[3])
    path.write_bytes(path.read_bytes() + b"\n")
    write_splits(dataset, train=ids[::-1])
    check(1, images_per_shard=3)


@pytest.mark.parametrize(
    "renaming",
    [
        {"train-00000-of-00003.h5": "train-00007-of-00009.h5"},
        {"train-00000-of-00003.h5": "val-00000-of-00003.h5"},
        {"train-00002-of-00003.h5": "mine-00000-of-00001.h5"},
        {
            "train-00000-of-00003.h5": "train-00001-of-00003.h5",
            "train-00001-of-00003.h5": "train-00000-of-00003.h5",
        },
        {
            "train-00000-of-00003.h5": "val-00000-of-00001.h5",
            "val-00000-of-00001.h5": "train-00000-of-00003.h5",
        },
    ],
)
def test_renamed_shards_are_noticed_and_used(
    cache: Path, check: Any, renaming: dict[str, str]
) -> None:
    contents = {new: (cache / old).read_bytes() for old, new in renaming.items()}
    for old in renaming:
        (cache / old).unlink()
    for new, content in contents.items():
        (cache / new).write_bytes(content)
    with pytest.raises(CacheError, match="was renamed, it is "):
        FeatureCache(cache)
    check(0)


def test_of_a_damaged_shard_just_the_damaged_image_is_computed(
    cache: Path, check: Any, dataset: VocDataset, listening: Any
) -> None:
    """When images are copied, every value is checked on the way."""
    bad = dataset.image_ids("train")[3]
    flip(cache / "train-00001-of-00003.h5", f"{bad}/fire3")
    check(1, images_per_shard=3, progress=listening)
    assert f"{bad}/fire3 is damaged" in listening.text


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_shard_that_cannot_be_read_is_computed(cache: Path, check: Any, share: float) -> None:
    path = cache / "train-00001-of-00003.h5"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    check(2)


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_an_interrupted_division_is_gone_on_with(
    cache: Path, run: Any, check: Any, interrupted: Any, backbone_runs: Any, after: int
) -> None:
    """Whatever was set aside is there until all is copied, also for yet another division."""
    for images_per_shard in (3, 1):
        with pytest.raises(KeyboardInterrupt):
            run(
                images_per_shard=images_per_shard,
                progress=interrupted("extracting train", after=after),
            )
        assert retired_shards(cache)
    assert backbone_runs() == 0
    check(0, images_per_shard=4)
    assert retired_shards(cache) == []


def test_another_identity_does_not_replace_what_an_interrupted_division_set_aside(
    cache: Path, run: Any, interrupted: Any
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(images_per_shard=3, progress=interrupted("extracting train", after=0))
    (cache / "val-00000-of-00001.h5").unlink(missing_ok=True)
    with pytest.raises(CacheMismatchError, match=r"dtype: float16, not int8.*--replace"):
        run(dtype="int8")
    assert len(retired_shards(cache)) >= 3


def test_a_split_that_is_not_asked_for_stays(cache: Path, run: Any, dataset: VocDataset) -> None:
    before = {path: path.read_bytes() for path in cache.glob("val-*")}
    write_splits(dataset, train=dataset.image_ids("train")[::-1])
    assert run(splits=["train"], images_per_shard=1).computed == 0
    assert {path: path.read_bytes() for path in cache.glob("val-*")} == before
    assert verify_cache(cache) == []


def test_lines_that_were_left_out_are_remembered_of_a_split_that_is_not_asked_for(
    run: Any, dataset: VocDataset
) -> None:
    ids = dataset.image_ids("train")
    write_splits(dataset, train=[*ids, "../elsewhere"])
    first = run(on_error="skip")
    assert [(split, where) for split, where, _ in first.skipped] == [("train", "train.txt line 6")]
    run(on_error="skip", splits=["val"])
    again = run(on_error="skip", splits=["train", "val"])
    assert again.skipped == first.skipped
    assert verify_cache(again.cache) == []
