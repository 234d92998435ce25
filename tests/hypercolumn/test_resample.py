"""Resampling a strip of an image: every implementation against the plain formula."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.hypercolumn import hypercolumn_map
from pipeline.hypercolumn.gathered import GatheringResampler
from pipeline.hypercolumn.reads import Reads
from pipeline.hypercolumn.resample import CompiledResampler, Resampler, resampler

MAPS = [
    ((33, 47), [(17, 23), (9, 12), (1, 1)]),
    ((1, 37), [(1, 19), (2, 5)]),
    ((16, 24), [(40, 31), (16, 24)]),
    ((5, 1), [(2, 3)]),
]
RESAMPLERS = {
    "compiled": CompiledResampler,
    "gathering": lambda reads: GatheringResampler(reads, torch.device("cpu")),
}


@pytest.fixture(params=["half_pixel", "align_corners"])
def geometry(request):
    return request.param


@pytest.fixture(params=sorted(RESAMPLERS))
def make(request):
    return RESAMPLERS[request.param]


@pytest.fixture(params=MAPS, ids=str)
def lying(request, geometry):
    """Give the image's size, maps of 6 channels, and what they are when resampled and added."""
    size, cells = request.param
    torch.manual_seed(0)
    maps = [torch.randn(6, h, w) for h, w in cells]
    whole = hypercolumn_map(maps, size, geometry).unflatten(0, (-1, 6)).sum(dim=0)
    return size, maps, whole


def strips_of(height: int) -> list[tuple[int, int]]:
    return [(0, height), (height // 2, height), (height // 3, height // 3 + 1)]


def table_of(reads: Reads, maps: Sequence[Tensor]) -> Tensor:
    parts = [m.flatten(1)[:, span].T for m, span in zip(maps, reads.spans, strict=True)]
    return torch.cat(parts).contiguous()


def sizes_of(maps: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(m.shape[1], m.shape[2]) for m in maps]


@pytest.mark.parametrize("height", [1, 3, 99])
def test_pixels_are_the_sum_of_resampled_maps(make, lying, geometry, height):
    size, maps, whole = lying
    for strip in strips_of(size[0]):
        plan: Resampler = make(Reads.of(sizes_of(maps), size, geometry, strip, height))
        table = table_of(plan.reads, maps)
        covered = []
        for start, stop in plan.reads.blocks():
            assert 0 < stop - start <= height
            found = plan.pixels(table, start, stop)
            expected = whole[:, start:stop].flatten(1).T
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            covered += range(start, stop)
        assert covered == list(range(*strip))


@pytest.mark.parametrize("height", [1, 3, 99])
def test_the_adjoint_is_the_transposed_product(make, lying, geometry, height):
    """<A x, y> = <x, A^T y> for the formula's A, each entry of x standing for itself."""
    size, maps, _ = lying
    for strip in strips_of(size[0]):
        plan: Resampler = make(Reads.of(sizes_of(maps), size, geometry, strip, height))
        pixels = torch.randn(6, strip[1] - strip[0], size[1])
        inputs = [m.clone().requires_grad_() for m in maps]
        whole = hypercolumn_map(inputs, size, geometry).unflatten(0, (-1, 6)).sum(dim=0)
        (whole[:, slice(*strip)] * pixels).sum().backward()
        expected = table_of(plan.reads, [m.grad for m in inputs])
        found = torch.ones_like(expected)  # it adds to what is there
        for start, stop in plan.reads.blocks():
            of_block = pixels[:, start - strip[0] : stop - strip[0]].flatten(1).T.contiguous()
            plan.add_adjoint(found, of_block, start, stop)
        torch.testing.assert_close(found - 1, expected, rtol=1e-5, atol=1e-5)


def test_a_strip_reads_no_more_than_it_needs():
    reads = Reads.of([(8, 5), (2, 3)], (64, 40), "half_pixel", (16, 24), 4)
    # Rows 16 to 23 lie from 1.5 to 2.5 cells of 8 down, and from 0.01 to 0.2 of 2.
    assert reads.spans == (slice(1 * 5, 4 * 5), slice(0, 2 * 3))
    assert reads.rows == (slice(0, 15), slice(15, 21))


def test_what_the_compiled_loops_are_not_for_is_gathered():
    lying = ((2, 2),), (4, 4), "half_pixel", (0, 4), 2
    cpu = torch.device("cpu")
    for width, dtype, kind in (
        (512, torch.float32, CompiledResampler),
        (21, torch.float32, GatheringResampler),
        (512, torch.bfloat16, GatheringResampler),
        (512, torch.float64, GatheringResampler),
    ):
        assert type(resampler(*lying, width, cpu, dtype)) is kind
