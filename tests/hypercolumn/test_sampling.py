"""Hypercolumns read from maps as they are stored against those of decoded, pooled, whole maps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.hypercolumn import Features, hypercolumns_at, read_columns
from pipeline.hypercolumn.sampling_loops import _from_half

SIZES = [(13, 13), (14, 9), (1, 1), (1, 6), (7, 1), (2, 3), (30, 23)]
TAPS = ["a", "b"]


@dataclass
class Stored:
    """A map whose cells are all at hand."""

    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[2]

    @property
    def channels(self) -> int:
        return len(self.values)

    def cells(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return self.all_cells(), places

    def all_cells(self) -> NDArray[Any]:
        return self.values.reshape(len(self.values), -1)

    def decoded(self) -> torch.Tensor:
        found = self.values.astype(np.float32)
        if self.scale is not None:
            found *= self.scale[:, None, None]
        return torch.from_numpy(found)


class Picked(Stored):
    """A map of which only the cells that are asked for are computed."""

    def cells(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        return self.all_cells()[:, places], np.arange(len(places))


def stored(
    channels: int, size: tuple[int, int], dtype: str = "float32", seed: int = 0, kind: Any = Stored
) -> Any:
    """Values of which sums are rounded: another order of adding them up shows."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((channels, *size))
    if dtype == "int8":
        scale = generator.random(channels, np.float32) + np.float32(0.01)
        return kind((40 * values).clip(-127, 127).astype(np.int8), scale)
    return kind(values.astype(dtype))


def check(
    maps: list[Any], features: Features, ys: Any, xs: Any, size: tuple[int, int], geometry: Any
) -> None:
    """All but means of whole maps have the bits that the operations of torch give."""
    found = read_columns(maps, TAPS[: len(maps)], features, ys, xs, size, geometry)
    used = features.apply([m.decoded() for m in maps], TAPS[: len(maps)])
    expected = hypercolumns_at(
        used, torch.from_numpy(ys), torch.from_numpy(xs), size, geometry
    ).numpy()
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    widths = [m.channels for m in maps]
    widths += [widths[i] for i, _ in features.pools(TAPS[: len(maps)])]
    whole = np.repeat(
        [False] * len(maps) + ["global" in context for context in features.context], widths
    )
    np.testing.assert_array_equal(found[:, ~whole], expected[:, ~whole])
    np.testing.assert_allclose(found[:, whole], expected[:, whole], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", ["global", "1", "3", "5", "9", "99999"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 17, 512])
def test_every_cell_with_its_context(scope: str, size: tuple[int, int], channels: int) -> None:
    maps = [stored(channels, size)]
    ys, xs = (i.ravel() for i in np.mgrid[: size[0], : size[1]])
    check(maps, Features(activation="none", context=(scope,)), ys, xs, size, "half_pixel")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_maps_pixels_and_features(data: st.DataObject) -> None:
    lengths, dtypes = st.integers(1, 12), st.sampled_from(["float32", "float16", "int8"])
    maps = [
        stored(
            data.draw(st.integers(1, 40)),
            data.draw(st.tuples(lengths, lengths)),
            data.draw(dtypes),
            data.draw(st.integers(0, 99)),
            data.draw(st.sampled_from([Stored, Picked])),
        )
        for _ in range(data.draw(st.integers(1, 2)))
    ]
    contexts = ["global", "3", "5", "1", "7", "a:3", "a:global", "a:5"]
    features = Features(
        activation=data.draw(st.sampled_from(["relu", "none"])),
        context=tuple(data.draw(st.lists(st.sampled_from(contexts), max_size=4))),
    )
    size = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    count = data.draw(st.integers(0, 30))
    chance = np.random.default_rng(count)
    ys, xs = (chance.integers(0, most, count) for most in size)
    geometry = data.draw(st.sampled_from(["half_pixel", "align_corners"]))
    check(maps, features, ys, xs, size, geometry)


def test_means_of_large_maps_are_exact() -> None:
    """Added up one after the other, they would be wrong in the fifth digit."""
    m = stored(9, (211, 190))
    m.values += 3
    pixel = np.zeros(1, np.int64)
    features = Features(context=("global",))
    found = read_columns([m], ["a"], features, pixel, pixel, (8, 8), "half_pixel")
    expected = m.values.clip(0).mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(found[0, 9:], expected, rtol=3e-7)


def test_every_float16_is_read() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    found = np.array([_from_half(one) for one in bits])  # of Python's own floats
    expected = bits.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)  # NaN equals NaN
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize(("y", "x"), [(-1, 0), (0, -1), (4, 0), (0, 6)])
def test_a_pixel_outside_is_refused(y: int, x: int) -> None:
    maps = [stored(3, (2, 2))]
    where = np.array([y]), np.array([x])
    with pytest.raises(IndexError, match="a pixel outside the image"):
        read_columns(maps, ["a"], Features(), *where, (4, 6), "half_pixel")


@pytest.mark.parametrize("context", [(), ("3",)])
def test_a_cell_outside_is_refused(context: tuple[str, ...]) -> None:
    class Broken(Stored):
        def cells(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
            return self.all_cells(), places + 100

    broken = Broken(np.zeros((3, 2, 2), np.float32))
    pixel = np.zeros(1, np.int64)
    with pytest.raises(IndexError, match="a cell outside the map"):
        read_columns([broken], ["a"], Features(context=context), pixel, pixel, (4, 6), "half_pixel")
