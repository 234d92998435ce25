import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.check import check_dataset
from pipeline.data.scenes import SCENE_CLASSES, draw_scene, write_scenes
from pipeline.data.voc import VocDataset
from pipeline.errors import DataError


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes") / "a", images=30)


def test_scenes_are_a_sound_voc_data_set(scenes: Path) -> None:
    dataset = VocDataset.open(scenes)
    assert dataset.classes == SCENE_CLASSES
    assert dataset.void == 255
    assert check_dataset(dataset) == []
    train, val = dataset.image_ids("train"), dataset.image_ids("val")
    assert (len(train), len(val)) == (20, 10)
    assert not set(train) & set(val)
    assert set(train) | set(val) == set(dataset.image_ids("trainval"))


def test_scenes_vary_and_show_every_class(scenes: Path) -> None:
    dataset = VocDataset.open(scenes)
    masks = [dataset.read_mask(image_id) for image_id in dataset.image_ids("trainval")]
    shapes = {mask.shape for mask in masks}
    assert len(shapes) > 20
    assert all(128 <= side <= 192 for shape in shapes for side in shape)
    counts = np.bincount(np.concatenate([mask.ravel() for mask in masks]), minlength=256)
    share = counts / counts.sum()
    assert 0.5 < share[0] < 0.85
    assert all(share[1 : len(SCENE_CLASSES)] > 0.005)
    assert 0.02 < share[255] < 0.1


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = _digests(write_scenes(tmp_path / "a", images=3, seed=5))
    assert _digests(write_scenes(tmp_path / "b", images=3, seed=5)) == first
    other = _digests(write_scenes(tmp_path / "c", images=3, seed=6))
    assert not set(first.values()) & {v for k, v in other.items() if k.endswith("0000.png")}


def test_a_larger_data_set_begins_with_the_smaller_one(scenes: Path, tmp_path: Path) -> None:
    small = _digests(write_scenes(tmp_path / "small", images=4))
    large = _digests(scenes)
    of_scenes = [name for name in small if "scene_" in name]
    assert len(of_scenes) == 4 * 4  # image, mask, instance mask, annotation
    assert all(large[name] == small[name] for name in of_scenes)


def test_different_instances_are_parted_by_void() -> None:
    for seed in range(5):
        mask = draw_scene(np.random.default_rng(seed), 140, 150).labels
        for one, two in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            touching = (one != two) & (one != 255) & (two != 255)
            assert not touching.any()
        assert (mask == 255).any()


def test_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    write_scenes(tmp_path / "a", images=6, seed=1)
    fresh = _digests(write_scenes(tmp_path / "b", images=3))
    assert _digests(write_scenes(tmp_path / "a", images=3)) == fresh


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("JPEGImages/holiday.jpg", "JPEGImages"),
        ("ImageSets/Segmentation/train.txt", "ImageSets"),
        ("classes.txt", r"classes\.txt"),
        ("thesis.tex", r"thesis\.tex"),
    ],
)
def test_other_peoples_files_are_never_touched(tmp_path: Path, name: str, named: str) -> None:
    own = tmp_path / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(b"precious")
    with pytest.raises(DataError, match=rf"{named}, which is no scene: name a new folder"):
        write_scenes(tmp_path, images=3)
    assert own.read_bytes() == b"precious"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [own]


def test_an_image_added_to_the_scenes_is_not_lost(tmp_path: Path) -> None:
    write_scenes(tmp_path, images=3)
    (tmp_path / "JPEGImages" / "mine.png").write_bytes(b"precious")
    before = _digests(tmp_path)
    with pytest.raises(DataError, match=r"mine\.png, which is no scene"):
        write_scenes(tmp_path, images=3)
    assert _digests(tmp_path) == before


@pytest.mark.parametrize("side", [16, 320])
def test_small_and_large_scenes(tmp_path: Path, side: int) -> None:
    dataset = VocDataset.open(write_scenes(tmp_path, images=3, size=(side, side)))
    assert dataset.read_image("scene_0002").shape == (side, side, 3)
    assert check_dataset(dataset) == []


def test_arguments_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3"):
        write_scenes(tmp_path / "a", images=2)
    with pytest.raises(DataError, match="negative"):
        write_scenes(tmp_path / "a", seed=-1)
    with pytest.raises(DataError, match="sizes"):
        write_scenes(tmp_path / "a", size=(100, 50))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not a folder"):
        write_scenes(tmp_path / "file")
