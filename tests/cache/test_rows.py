"""Hypercolumns on the disk against the same ones in memory."""

from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache import Drawing, FeatureRows, Samples, draw_samples, put_aside, rows
from pipeline.cache.encoding import StoredArray
from pipeline.errors import CacheDamagedError, SpaceError
from pipeline.hypercolumn import Features

VALUES = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a block be four of these rows."""
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 4 * 7 * 4 + 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "values"
    path.write_bytes(b"head" + VALUES.tobytes() + b"tail")
    return path


def rows_of(path: Path, shape: tuple[int, int] = (50, 7)) -> FeatureRows:
    return FeatureRows(path.open("rb", buffering=0), 4, shape, what=f"{path}: is damaged")


@pytest.mark.parametrize(
    "index", [[], [3], [49, 0, 0, 7], [*range(50)], [*range(20, 40), 1, 2, 3], [*range(49, -1, -1)]]
)
def test_rows_are_those_of_the_array(path: Path, index: list[int]) -> None:
    with closing(rows_of(path)) as found:
        assert (found.shape, len(found)) == ((50, 7), 50)
        read = found[np.array(index, np.int64)]
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, VALUES[index].reshape(-1, 7))
        assert found.digest == StoredArray(VALUES).digest


def test_no_rows(path: Path) -> None:
    with closing(rows_of(path, (0, 7))) as found:
        assert found.digest == StoredArray(VALUES[:0]).digest
        assert found[np.arange(0)].shape == (0, 7)


@pytest.mark.parametrize("wrong", [-1, 50])
def test_a_row_that_is_none(path: Path, wrong: int) -> None:
    with closing(rows_of(path)) as found, pytest.raises(IndexError, match="of 50"):
        found[np.array([3, wrong])]


@pytest.mark.parametrize("row", [0, 30, 49])
def test_a_row_that_has_changed_since_is_not_given(path: Path, row: int) -> None:
    with closing(rows_of(path)) as found:
        with path.open("rb+") as file:
            file.seek(4 + row * 28 + 9)
            file.write(b"\x55")
        others = np.delete(np.arange(50), row)
        np.testing.assert_array_equal(found[others], VALUES[others])
        with pytest.raises(CacheDamagedError, match="is damaged"):
            found[np.array([5, row])]


def test_a_file_that_ends_early(path: Path) -> None:
    with path.open("rb", buffering=0) as file, pytest.raises(CacheDamagedError, match="is short"):
        FeatureRows(file, 4, (51, 7), what="it is short")
    with closing(rows_of(path)) as found:
        with path.open("rb+") as file:
            file.truncate(100)
        with pytest.raises(CacheDamagedError, match="is damaged"):
            found[np.array([40])]


def test_put_aside_are_those_that_were_drawn_at_once(make_sketch, tmp_path: Path) -> None:
    split = make_sketch().write(tmp_path / "cache")["train"]
    drawing = Drawing(features=Features(context=()), pixels_per_class=4)
    whole = draw_samples(split, split.identity, drawing)
    aside = tmp_path / "aside"
    aside.mkdir()
    parts = (draw_samples(split, split.identity, drawing, [i]) for i in split.image_ids)
    with closing(put_aside(parts, aside)) as found:
        assert list(aside.iterdir()) == []
        for field in fields(Samples):
            one, other = getattr(found, field.name), getattr(whole, field.name)
            if field.name == "features":
                one = one[np.arange(len(found))]
            if isinstance(other, np.ndarray):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
            else:
                assert one == other


def test_no_room_to_put_them_aside(make_sketch, tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    split = make_sketch().write(tmp_path)["train"]
    samples = draw_samples(split, split.identity, Drawing(features=Features(context=())))
    with full.open("wb", buffering=0) as file, pytest.raises(SpaceError, match="no room"):
        rows._write(file, samples.features, tmp_path)
