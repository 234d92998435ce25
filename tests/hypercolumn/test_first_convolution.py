"""The first convolution from the stored image: what the network itself computes, in any process."""

import os
import signal

import numpy as np
import pytest
import torch

from pipeline.hypercolumn import FirstConvolution


def make(kernel, stride, padding, channels=5):
    rng = np.random.default_rng(3)
    return FirstConvolution(
        rng.normal(0, 1, (channels, 3, *kernel)).astype(np.float32),
        rng.normal(0, 1, channels).astype(np.float32),
        rng.normal(0, 1, (3, 256)).astype(np.float32),
        stride,
        padding,
    )


def image(height=13, width=10):
    return np.random.default_rng(4).integers(0, 256, (height, width, 3), dtype=np.uint8)


def slow(convolution, pixels):
    """Sum up every window in float64."""
    (sy, sx), (py, px) = convolution.stride, convolution.padding
    channels, _, kh, kw = convolution.kernel.shape
    inputs = np.array([[[convolution.values[c, v] for c, v in enumerate(p)] for p in row]
                       for row in pixels], np.float64)  # fmt: skip
    padded = np.pad(inputs, ((py, py), (px, px), (0, 0)))
    rows, columns = padded.shape[0] - kh, padded.shape[1] - kw
    found = np.empty((channels, rows // sy + 1, columns // sx + 1))
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            window = padded[i * sy : i * sy + kh, j * sx : j * sx + kw]
            for c in range(channels):
                products = convolution.kernel[c].transpose(1, 2, 0) * window
                found[c, i, j] = products.sum() + convolution.bias[c]
    return found


SHAPES = [
    ((3, 3), (1, 1), (1, 1)),
    ((7, 7), (2, 2), (0, 0)),
    ((7, 7), (2, 2), (3, 3)),
    ((2, 5), (3, 1), (0, 2)),
    ((1, 1), (1, 1), (0, 0)),
]


@pytest.mark.parametrize(("kernel", "stride", "padding"), SHAPES)
def test_the_map_and_its_cells_are_the_sums_over_every_window(kernel, stride, padding):
    convolution, pixels = make(kernel, stride, padding), image()
    expected = slow(convolution, pixels)
    found = convolution.map(pixels)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.shape[1:] == convolution.size(*pixels.shape[:2])
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    ys, xs = (i.ravel() for i in np.indices(found.shape[1:]))  # the border among them
    for some in (np.arange(len(ys)), *([i] for i in range(len(ys)))):
        cells = convolution.cells(pixels, ys[some], xs[some])
        assert cells.dtype == np.float32
        np.testing.assert_allclose(cells, expected[:, ys[some], xs[some]], rtol=0, atol=5e-5)
    assert convolution.cells(pixels, ys[:0], xs[:0]).shape == (5, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -3e38])
def test_a_map_that_could_be_infinite_is_known(value):
    assert make((3, 3), (1, 1), (1, 1)).is_bounded
    for name in ("kernel", "values", "bias"):
        convolution = make((3, 3), (1, 1), (1, 1))
        getattr(convolution, name).flat[2] = value
        assert convolution.is_bounded == (name == "bias" and value == -3e38)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_bits_do_not_depend_on_the_number_of_threads_which_stays(threads):
    convolution, pixels = make((3, 3), (1, 1), (1, 1), 64), image(100, 90)
    expected = convolution.map(pixels)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        np.testing.assert_array_equal(convolution.map(pixels), expected)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have():
    convolution, pixels = make((7, 7), (2, 2), (0, 0), 96), image(224, 224)
    expected = convolution.map(pixels)
    _ = torch.ones(500, 500) @ torch.ones(500, 500)  # starts torch's threads in this process
    _ = torch.ones(1 << 20).exp()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        os._exit(0 if np.array_equal(convolution.map(pixels), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
