"""Repair computes again just what is damaged; gc removes just what is of no use."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from fuzz.shard_values import of_later_identity, of_version
from pipeline import FeatureCache, VocDataset, extract
from pipeline.cache import retired_shards
from pipeline.errors import (
    BusyError,
    CacheDamagedError,
    CacheMismatchError,
    CacheNotFoundError,
    DataError,
    ParamsError,
    WeightsError,
)
from pipeline.progress import Silent
from pipeline.stages.inspect import verify_cache
from pipeline.stages.maintain import collect_garbage, repair_cache

SHARD = "train-00001-of-00003.h5"

Damage = Callable[[Path], None]


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    """Give a copy of the cache of 12 and 6 scenes, to be damaged."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def inodes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in directory.iterdir()}


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def flip_value(path: Path, dataset: str) -> None:
    """Damage a value of a dataset."""
    with h5py.File(path) as file:
        found = file[dataset].id
        position = found.get_offset()
        if position is None:  # the values are cut into chunks
            position = found.get_chunk_info(0).byte_offset
    flip(path, position + 5)


def flip_values(*names: str) -> Damage:
    """Damage datasets of images of the second shard: ``"1/fire3"`` is of the second of them."""

    def damage(directory: Path) -> None:
        with h5py.File(directory / SHARD) as file:
            ids = list(file)
        for number, _, dataset in (name.partition("/") for name in names):
            flip_value(directory / SHARD, f"{ids[int(number)]}/{dataset}")

    return damage


def flip_header(directory: Path) -> None:
    path = directory / SHARD
    flip(path, path.read_bytes().index(b"hypercolumn-cache"))


def flip_structure(directory: Path) -> None:
    """Damage what HDF5 keeps of its own of an image; no value is hurt."""
    with h5py.File(directory / SHARD) as file:
        address = h5py.h5o.get_info(file[next(iter(file))].id).addr
    flip(directory / SHARD, 512 + address + 20)


def truncate(name: str, share: float) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(share * len(content))])

    return damage


def remove(name: str) -> Damage:
    return lambda directory: (directory / name).unlink()


def flip_samples(directory: Path) -> None:
    flip_value(directory / "train-samples.h5", "features")


def swap(directory: Path) -> None:
    """Give two shards each other's names."""
    other = directory / "train-00000-of-00003.h5"
    content = other.read_bytes()
    (directory / SHARD).replace(other)
    (directory / SHARD).write_bytes(content)


class TestRepair:
    def test_of_a_sound_cache_changes_nothing(
        self, copy: Path, backbone_runs: Callable[[], int], listening: Any
    ) -> None:
        before, shards = contents(copy), inodes(copy)
        result = repair_cache(copy, progress=listening)
        assert (result.images, result.computed, result.skipped) == (18, 0, [])
        assert backbone_runs() == 0
        assert contents(copy) == before
        after = inodes(copy)
        assert {n for n in after if after[n] != shards[n]} == {"index.h5", "manifest.json"}

    @pytest.mark.parametrize(
        ("damage", "computed"),
        [
            (flip_values("0/conv1"), 1),
            (flip_values("1/label"), 1),
            (flip_values("0/label_original"), 1),
            (flip_values("1/image"), 1),
            (flip_values("0/conv1", "0/fire5"), 1),
            (flip_values("0/conv1", "1/fire3"), 2),
            (flip_header, 2),
            (flip_structure, 0),
            (truncate(SHARD, 0), 2),
            (truncate(SHARD, 0.5), 2),
            (truncate(SHARD, 0.999), 2),
            (remove(SHARD), 2),
            (swap, 0),
            (flip_samples, 0),
            (truncate("val-samples.h5", 0.4), 0),
            (remove("train-samples.h5"), 0),
            (remove("index.h5"), 0),
            (truncate("index.h5", 0.8), 0),
        ],
    )
    def test_computes_just_what_is_damaged_and_gives_the_same_bytes(
        self, extracted: Path, backbone_runs: Callable[[], int], damage: Damage, computed: int
    ) -> None:
        before = contents(extracted)
        damage(extracted)
        assert verify_cache(extracted)
        untouched = {path.name: path.stat().st_ino for path in extracted.glob("val-*-of-*.h5")}
        assert repair_cache(extracted).computed == computed
        assert backbone_runs() == computed
        assert contents(extracted) == before
        assert verify_cache(extracted) == []
        assert inodes(extracted).items() >= untouched.items()

    def test_says_what_it_found(self, extracted: Path, listening: Any) -> None:
        image_id = FeatureCache(extracted)["train"].image_ids[2]
        flip_values("0/conv1")(extracted)
        repair_cache(extracted, progress=listening)
        assert any(
            line.startswith(f"{extracted / SHARD}: {image_id}/conv1 is damaged; ")
            and line.endswith("; computing it again")
            for line in listening.lines
        )

    def test_finishes_an_extraction_that_was_interrupted(
        self, extracted: Path, backbone_runs: Callable[[], int]
    ) -> None:
        before = contents(extracted)
        for name in (SHARD, "train-samples.h5", "index.h5"):
            (extracted / name).unlink()
        assert repair_cache(extracted).computed == backbone_runs() == 2
        assert contents(extracted) == before

    def test_keeps_to_what_was_left_out(
        self, run: Any, dataset: VocDataset, tmp_path: Path, backbone_runs: Callable[[], int]
    ) -> None:
        bad = dataset.image_ids("train")[2]
        dataset.image_path(bad).write_bytes(b"no image")
        first = run(on_error="skip")
        before = contents(tmp_path / "cache")
        flip_value(
            tmp_path / "cache" / "train-00001-of-00003.h5", f"{dataset.image_ids('train')[3]}/conv1"
        )
        backbone_runs()
        result = repair_cache(tmp_path / "cache")
        assert (result.computed, result.skipped) == (1, first.skipped)
        assert backbone_runs() == 1
        assert contents(tmp_path / "cache") == before

    def test_of_a_cache_that_has_moved(self, copy: Path, cache: Path, tmp_path: Path) -> None:
        moved = copy.rename(tmp_path / "elsewhere")
        (moved / SHARD).unlink()
        assert repair_cache(moved).computed == 5
        assert contents(moved) == contents(cache)

    def test_of_a_data_set_that_has_moved(
        self, copy: Path, cache: Path, scenes: VocDataset, tmp_path: Path
    ) -> None:
        root = Path(shutil.copytree(scenes.root, tmp_path / "moved"))
        (copy / SHARD).unlink()
        result = repair_cache(copy, dataset=root)
        assert result.computed == 5
        for name, content in contents(copy).items():
            if name.startswith("val-"):
                assert content == (cache / name).read_bytes()
        assert FeatureCache(copy)["train"].image_ids == scenes.image_ids("train")

    def test_where_the_data_set_is_gone(self, copy: Path, tmp_path: Path) -> None:
        before = contents(copy)
        with pytest.raises(DataError, match="none is not a folder"):
            repair_cache(copy, dataset=tmp_path / "none")
        assert contents(copy) == before

    def test_with_other_weights_is_refused(self, copy: Path) -> None:
        before = contents(copy)
        with pytest.raises(WeightsError, match=r"cache: made with squeezenet1_0 weights .*; give"):
            repair_cache(copy, seed=1)
        assert contents(copy) == before

    @pytest.mark.parametrize("shards", [True, False])
    def test_without_a_manifest_wants_to_know_what_it_was_made_from(
        self, copy: Path, cache: Path, scenes: VocDataset, shards: bool
    ) -> None:
        flip(copy / "manifest.json", 200)
        with pytest.raises(ParamsError, match="its manifest cannot be read; give --dataset"):
            repair_cache(copy)
        with pytest.raises(ParamsError, match="its manifest cannot be read; give --weights"):
            repair_cache(copy, dataset=scenes.root)
        if shards:
            assert repair_cache(copy, dataset=scenes.root, weights="random").computed == 0
            assert verify_cache(copy) == []
            assert contents(copy).keys() == contents(cache).keys()
            return
        for path in copy.glob("*-of-*.h5"):
            path.write_bytes(b"")
        with pytest.raises(CacheDamagedError, match="no shard and no manifest can be read"):
            repair_cache(copy, dataset=scenes.root, weights="random")

    def test_without_a_manifest_leaves_out_what_was_left_out(
        self, copy: Path, scenes: VocDataset, backbone: Any, tmp_path: Path
    ) -> None:
        """The shards tell that images were skipped, so they may be skipped again."""
        root = Path(shutil.copytree(scenes.root, tmp_path / "scenes"))
        dataset = VocDataset.open(root)
        dataset.image_path(dataset.image_ids("val")[0]).write_bytes(b"no image")
        cache = tmp_path / "skipping"
        made = extract(dataset, backbone, cache, splits=["val"], on_error="skip")
        (cache / "manifest.json").unlink()
        result = repair_cache(cache, dataset=root, weights="random")
        assert result.computed == 0
        assert result.skipped == made.skipped
        assert verify_cache(cache) == []

    def test_with_nothing_but_the_manifest_left(self, copy: Path, cache: Path) -> None:
        for path in copy.glob("*-of-*.h5"):
            path.write_bytes(b"")
        assert repair_cache(copy).computed == 18
        assert contents(copy) == contents(cache)

    def test_does_not_choose_between_two_fingerprints(
        self, copy: Path, scenes: VocDataset, backbone: Any, tmp_path: Path
    ) -> None:
        extract(scenes, backbone, tmp_path / "other", splits=["val"], images_per_shard=6)
        shutil.copy(tmp_path / "other" / "val-00000-of-00001.h5", copy)
        before = contents(copy)
        with pytest.raises(
            CacheMismatchError, match=r"made otherwise \(preprocessing: .*gc --keep"
        ):
            repair_cache(copy)
        assert contents(copy) == before

    def test_of_another_version_is_refused(self, copy: Path) -> None:
        (copy / SHARD).write_bytes(of_version((copy / SHARD).read_bytes(), 99))
        with pytest.raises(CacheMismatchError, match="format version 99"):
            repair_cache(copy)
        assert (copy / SHARD).exists()

    @pytest.mark.parametrize("count", [1, None])
    def test_of_a_later_version_is_refused_and_nothing_is_changed(
        self, copy: Path, count: int | None
    ) -> None:
        for path in sorted(copy.glob("*-of-*.h5"))[:count]:
            path.write_bytes(of_later_identity(path.read_bytes(), tiles=4))
        if count is None:
            (copy / "manifest.json").unlink()  # a later one would say the same
        before = contents(copy)
        with pytest.raises(CacheMismatchError, match=r"by a newer version.*tiles"):
            repair_cache(copy)
        assert contents(copy) == before

    def test_there_is_no_cache(self, tmp_path: Path) -> None:
        with pytest.raises(CacheNotFoundError, match="no cache there"):
            repair_cache(tmp_path / "none")
        with pytest.raises(CacheNotFoundError, match="no shards"):
            repair_cache(tmp_path)
        assert list(tmp_path.iterdir()) == []


class Meanwhile(Silent):
    """Does something after every item of every task, once there are shards."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action

    def track(self, items: Iterable[Any], *, total: int, unit: str, what: str) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number > 2 or what != "extracting train":
                self.action()
            yield item


class TestGarbage:
    def test_a_sound_cache_has_none(self, copy: Path) -> None:
        before = contents(copy)
        assert collect_garbage(copy) == []
        assert contents(copy) == before

    def test_what_dead_runs_left_goes_and_the_rest_is_sound(self, copy: Path, cache: Path) -> None:
        dead = ["train-00000-of-00003.h5.01234567.partial", "index.h5.89abcdef.partial"]
        locks = ["train-00000-of-00003.h5.lock", ".train.lock", ".lock", "manifest.json.lock"]
        for name in (*dead, *locks):
            (copy / name).write_bytes(b"half")
        (copy / "notes.txt").write_text("mine")
        found = collect_garbage(copy)
        assert [(g.path.name, g.bytes) for g in found] == [(name, 4) for name in sorted(dead)]
        (copy / "notes.txt").unlink()
        assert contents(copy) == contents(cache)

    def test_a_dry_run_removes_nothing(self, copy: Path) -> None:
        (copy / "index.h5.89abcdef.partial").write_bytes(b"half")
        before = contents(copy)
        (found,) = collect_garbage(copy, dry_run=True)
        assert found.path.name == "index.h5.89abcdef.partial"
        assert contents(copy) == before

    def test_the_fingerprint_that_is_not_kept_goes(
        self, copy: Path, cache: Path, scenes: VocDataset, backbone: Any, tmp_path: Path
    ) -> None:
        other = extract(scenes, backbone, tmp_path / "other", splits=["val"], images_per_shard=6)
        stranger = shutil.copy(tmp_path / "other" / "val-00000-of-00001.h5", copy)
        found = collect_garbage(copy)
        assert [(str(g.path), g.why) for g in found] == [
            (stranger, f"of fingerprint {other.fingerprint}")
        ]
        assert contents(copy) == contents(cache)
        shutil.copy(tmp_path / "other" / "val-00000-of-00001.h5", copy)
        assert len(collect_garbage(copy, keep=other.fingerprint)) == 7
        assert FeatureCache(copy).identity.fingerprint == other.fingerprint

    @pytest.mark.parametrize("after", [0, 3])
    def test_of_an_interrupted_division_nothing_is_lost(
        self,
        run: Any,
        interrupted: Any,
        values: Any,
        extracted: Path,
        backbone_runs: Callable[[], int],
        after: int,
    ) -> None:
        before = values(extracted)
        with pytest.raises(KeyboardInterrupt):
            run(images_per_shard=3, progress=interrupted("extracting train", after=after))
        assert collect_garbage(extracted) == []
        assert retired_shards(extracted)
        assert run(images_per_shard=3).computed == backbone_runs() == 0
        assert values(extracted) == before

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_while_somebody_extracts_it_refuses(
        self, run: Any, tmp_path: Path, dry_run: bool
    ) -> None:
        refused = []

        def meanwhile() -> None:
            with pytest.raises(BusyError, match="an extraction is writing into it; wait"):
                collect_garbage(tmp_path / "cache", dry_run=dry_run)
            refused.append(len(list((tmp_path / "cache").glob("*.partial"))))

        assert run(progress=Meanwhile(meanwhile)).images == 7
        assert refused == [1] * 4  # each time somebody was in the middle of a shard
        assert collect_garbage(tmp_path / "cache") == []

    def test_where_there_is_no_cache_nothing_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(CacheNotFoundError):
            collect_garbage(tmp_path)
        with pytest.raises(CacheNotFoundError):
            collect_garbage(tmp_path / "none")
        assert list(tmp_path.iterdir()) == []
