"""Resampling a strip of an image: every implementation against the plain formula."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.compiled.vectors import PANEL
from pipeline.hypercolumn import hypercolumn_map
from pipeline.hypercolumn.gathered import GatheringResampler
from pipeline.hypercolumn.reads import Reads, Rows
from pipeline.hypercolumn.resample import ReadArrays, add_adjoint, find_sides, resample

MAPS = [
    ((33, 47), [(17, 23), (9, 12), (1, 1)]),
    ((1, 37), [(1, 19), (2, 5)]),
    ((16, 24), [(40, 31), (16, 24)]),
    ((5, 1), [(2, 3)]),
]
CHANNELS = 2 * PANEL


class Resampler(Protocol):
    """What is tested here."""

    def blocks(self) -> Iterator[Rows]:
        """Divide the strip into blocks of rows."""

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        """Compute the pixels of a block, ((stop - start) * W, K)."""

    def add_adjoint(self, table: Tensor, pixels: Tensor, start: int, stop: int) -> None:
        """Add the product of the transposed matrix with the pixels of a block to the table."""


class Loops:
    """The compiled loops, on blocks of a single row, a few pixels at a time."""

    def __init__(self, reads: Reads, pixels: int) -> None:
        self._reads, self._count = reads, pixels
        of = reads.first, reads.down, reads.across, reads.down_weights, reads.across_weights
        self._arrays = ReadArrays(*(tensor.numpy() for tensor in of))
        self._between = np.empty((reads.columns, CHANNELS), np.float32)

    def blocks(self) -> Iterator[Rows]:
        return self._reads.blocks(1)

    def _segments(self) -> Iterator[slice]:
        width = self._reads.width
        return (slice(x, min(x + self._count, width)) for x in range(0, width, self._count))

    def pixels(self, table: Tensor, start: int, stop: int) -> Tensor:
        y = start - self._reads.strip[0]
        found = torch.full((self._reads.width, CHANNELS), torch.nan)
        for at in self._segments():
            sides = find_sides(self._arrays, at.start, at.stop - at.start, self._between)
            resample(
                self._arrays, y, at.start, table.numpy(), self._between, sides,
                found[at].numpy(), False, False,
            )  # fmt: skip
        return found

    def add_adjoint(self, table: Tensor, pixels: Tensor, start: int, stop: int) -> None:
        y = start - self._reads.strip[0]
        for at in self._segments():
            add_adjoint(self._arrays, y, at.start, table.numpy(), pixels[at].numpy())


RESAMPLERS = {
    "loops": lambda reads: Loops(reads, 64),
    "loops of 5 pixels": lambda reads: Loops(reads, 5),
    "gathering 1 row": lambda reads: GatheringResampler(reads, 1, torch.device("cpu")),
    "gathering 3 rows": lambda reads: GatheringResampler(reads, 3, torch.device("cpu")),
    "gathering all": lambda reads: GatheringResampler(reads, 99, torch.device("cpu")),
}


@pytest.fixture(params=["half_pixel", "align_corners"])
def geometry(request):
    return request.param


@pytest.fixture(params=sorted(RESAMPLERS))
def make(request):
    return RESAMPLERS[request.param]


@pytest.fixture(params=MAPS, ids=str)
def lying(request, geometry):
    """Give the image's size, maps, and what they are when resampled and added."""
    size, cells = request.param
    torch.manual_seed(0)
    maps = [torch.randn(CHANNELS, h, w) for h, w in cells]
    whole = hypercolumn_map(maps, size, geometry).unflatten(0, (-1, CHANNELS)).sum(dim=0)
    return size, maps, whole


def strips_of(height: int) -> list[tuple[int, int]]:
    return [(0, height), (height // 2, height), (height // 3, height // 3 + 1)]


def table_of(reads: Reads, maps: Sequence[Tensor]) -> Tensor:
    parts = [m.flatten(1)[:, span].T for m, span in zip(maps, reads.spans, strict=True)]
    return torch.cat(parts).contiguous()


def sizes_of(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(m.shape[1], m.shape[2]) for m in maps]


def test_pixels_are_the_sum_of_resampled_maps(make, lying, geometry):
    size, maps, whole = lying
    for strip in strips_of(size[0]):
        reads = Reads.of(sizes_of(maps), size, geometry, strip)
        resampler: Resampler = make(reads)
        table = table_of(reads, maps)
        covered = []
        for start, stop in resampler.blocks():
            found = resampler.pixels(table, start, stop)
            expected = whole[:, start:stop].flatten(1).T
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            covered += range(start, stop)
        assert covered == list(range(*strip))


def test_the_adjoint_is_the_transposed_product(make, lying, geometry):
    """<A x, y> = <x, A^T y> for the formula's A, each entry of x standing for itself."""
    size, maps, _ = lying
    for strip in strips_of(size[0]):
        reads = Reads.of(sizes_of(maps), size, geometry, strip)
        resampler: Resampler = make(reads)
        pixels = torch.randn(CHANNELS, strip[1] - strip[0], size[1])
        inputs = [m.clone().requires_grad_() for m in maps]
        whole = hypercolumn_map(inputs, size, geometry).unflatten(0, (-1, CHANNELS)).sum(dim=0)
        (whole[:, slice(*strip)] * pixels).sum().backward()
        expected = table_of(reads, [m.grad for m in inputs])
        found = torch.ones_like(expected)  # it adds to what is there
        for start, stop in resampler.blocks():
            of_block = pixels[:, start - strip[0] : stop - strip[0]].flatten(1).T.contiguous()
            resampler.add_adjoint(found, of_block, start, stop)
        torch.testing.assert_close(found - 1, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("rectifies", [False, True])
def test_what_loops_do_with_a_pixel_at_once(adds, rectifies):
    torch.manual_seed(0)
    m, there = torch.randn(PANEL, 1, 9), torch.randn(20, PANEL)
    m[3, 0, 4] = torch.nan  # has to be seen in the end
    reads = Reads.of([(1, 9)], (1, 20), "half_pixel", (0, 1))
    of = reads.first, reads.down, reads.across, reads.down_weights, reads.across_weights
    expected = hypercolumn_map([m], (1, 20))[:, 0].T + (there if adds else 0)
    expected = expected.relu() if rectifies else expected
    between = np.empty((9, PANEL), np.float32)
    found = there.clone()
    arrays = ReadArrays(*(tensor.numpy() for tensor in of))
    table = m[:, 0].T.contiguous().numpy()
    sides = find_sides(arrays, 0, 20, between)
    resample(arrays, 0, 0, table, between, sides, found.numpy(), adds, rectifies)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_a_strip_reads_no_more_than_it_needs():
    reads = Reads.of([(8, 5), (2, 3)], (64, 40), "half_pixel", (16, 24))
    # Rows 16 to 23 lie from 1.5 to 2.5 cells of 8 down, and from 0.01 to 0.2 of 2.
    assert reads.spans == (slice(1 * 5, 4 * 5), slice(0, 2 * 3))
    assert reads.rows == (slice(0, 15), slice(15, 21))
