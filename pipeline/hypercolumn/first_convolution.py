"""A network's very first convolution, computed again from the image that it was applied to.

Its map is the largest of all, and the image that it comes from has 20 times fewer values: who holds
the image and the kernel need not keep the map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_VALUES = 256


@dataclass(frozen=True, eq=False)
class FirstConvolution:
    """A convolution of images of uint8, which are normalised by looking values up.

    Attributes
    ----------
    kernel : array of float32, shape (C, 3, kh, kw)
    bias : array of float32, shape (C,)
    values : array of float32, shape (3, 256)
        What each value of each channel of an image is to the network.
    stride, padding : tuple of int
        Of rows and of columns. What is padded is 0 to the network.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    values: NDArray[np.float32]
    stride: tuple[int, int]
    padding: tuple[int, int]

    @property
    def is_bounded(self) -> bool:
        """Whether its map is finite for every image."""
        with np.errstate(over="ignore", invalid="ignore"):
            largest = np.abs(self.values).max(axis=1)[:, None, None]
            sums = (np.abs(self.kernel) * largest).sum(axis=(1, 2, 3)) + np.abs(self.bias)
        return bool(np.isfinite(sums).all())

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Give the size (h, w) of the map of an image."""
        (kh, kw), (sy, sx), (py, px) = self.kernel.shape[2:], self.stride, self.padding
        return (height + 2 * py - kh) // sy + 1, (width + 2 * px - kw) // sx + 1

    def map(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the map (C, h, w) of an image (H, W, 3)."""
        inputs = np.stack([self.values[c][image[:, :, c]] for c in range(3)])
        return self._convolved(inputs[None], self.padding).squeeze(0)

    def cells(
        self, image: NDArray[np.uint8], ys: NDArray[np.int64], xs: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Compute single cells (C, n) of the map of an image (H, W, 3)."""
        (height, width), (kh, kw) = image.shape[:2], self.kernel.shape[2:]
        h, w = self.size(height, width)
        if len(ys) * kh * kw > h * w:  # more values than the image has, and no sooner done
            return np.ascontiguousarray(self.map(image)[:, ys, xs])
        rows = (ys[:, None] * self.stride[0] - self.padding[0] + np.arange(kh))[:, :, None]
        columns = (xs[:, None] * self.stride[1] - self.padding[1] + np.arange(kw))[:, None, :]
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        pixels = image[rows.clip(0, height - 1), columns.clip(0, width - 1)]  # (n, kh, kw, 3)
        patches = np.stack([self.values[c][pixels[..., c]] for c in range(3)], axis=1)
        patches[np.broadcast_to(outside[:, None], patches.shape)] = 0
        return np.ascontiguousarray(self._convolved(patches, (0, 0))[:, :, 0, 0].T)

    def _convolved(
        self, inputs: NDArray[np.float32], padding: tuple[int, int]
    ) -> NDArray[np.float32]:
        import torch
        from torch.nn import functional

        from pipeline.threads import on_one_thread

        kernel, bias = torch.from_numpy(self.kernel), torch.from_numpy(self.bias)
        with on_one_thread(), torch.no_grad():
            found = functional.conv2d(
                torch.from_numpy(inputs), kernel, bias, stride=self.stride, padding=padding
            )
            array: NDArray[np.float32] = found.contiguous().numpy()
        return array
