"""Contexts pooled around single cells against whole pooled maps, to the last bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from pipeline.hypercolumn import Features, PooledCells

SCOPES = ["global", "1", "3", "5", "9", "99999"]


def values_of(channels: int, height: int, width: int) -> torch.Tensor:
    """Values of which sums are rounded: another order of adding them up shows."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.randn(channels, height, width, generator=generator)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("size", [(13, 13), (14, 9), (1, 1), (1, 6), (7, 1), (2, 3), (30, 23)])
@pytest.mark.parametrize("channels", [1, 17, 512])
def test_every_cell_equals_the_whole_map(scope: str, size: tuple[int, int], channels: int) -> None:
    values = values_of(channels, *size)
    expected = Features.pool(values, scope)
    cells = PooledCells(values).of(scope)
    assert cells.size == tuple(expected.shape[1:])
    ys, xs = (t.flatten() for t in torch.meshgrid(*map(torch.arange, cells.size), indexing="ij"))
    found = cells.at(ys, xs)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected.flatten(1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cells_in_any_order(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    values = values_of(data.draw(st.integers(1, 40)), height, width)
    pooled = PooledCells(values)
    for scope in data.draw(st.lists(st.sampled_from(SCOPES), min_size=1, max_size=3)):
        cells = pooled.of(scope)
        count = data.draw(st.integers(0, 30))
        ys, xs = (torch.randint(0, most, (count,)) for most in cells.size)
        assert torch.equal(cells.at(ys, xs), Features.pool(values, scope)[:, ys, xs])


def test_threads_change_no_bit() -> None:
    values = values_of(512, 30, 23)
    ys, xs = torch.arange(30).repeat(20), torch.arange(600) % 23
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(PooledCells(values).of("5").at(ys, xs))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_wide_windows_keep_and_take_little_memory(size: tuple[int, int]) -> None:
    """Every size of map that came by once kept tables of all its cells with all their windows."""
    values = values_of(4, *size)
    ys, xs = torch.arange(20), torch.arange(20)
    expected = Features.pool(values, "51")[:, ys, xs]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        found = PooledCells(values).of("51").at(ys, xs)
    taken = sum(e.self_cpu_memory_usage for e in events.events() if e.self_cpu_memory_usage > 0)
    assert taken < 5 * values.nbytes  # tables would be 2 * 51 * 12 bytes for 16 of values
    assert torch.equal(found, expected)
