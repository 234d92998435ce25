"""A feature map that is not stored: the first convolution of the image that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.encoding import StoredArray
from pipeline.cache.layout import BIAS, KERNEL, VALUES
from pipeline.identity import ConvolutionIdentity

if TYPE_CHECKING:
    from pipeline.hypercolumn import FirstConvolution


@dataclass(frozen=True, eq=False)
class ComputedMap:
    """A map that is computed when it is asked for, in float32; it is used as a stored one is.

    Attributes
    ----------
    image : array of uint8, shape (H, W, 3)
    convolution : FirstConvolution
    """

    image: NDArray[np.uint8]
    convolution: FirstConvolution

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        return self.convolution.size(self.image.shape[0], self.image.shape[1])

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return len(self.convolution.kernel)

    @property
    def scale(self) -> None:
        """None: its values are what they are."""
        return None

    def decoded(self) -> NDArray[np.float32]:
        """Compute the float32 feature map (C, h, w)."""
        return self.convolution.map(self.image)

    def cells(self, places: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Compute the float32 values (C, n) of single cells, and no others; see `StoredMap`."""
        ys, xs = np.divmod(places, self.size[1])
        return self.convolution.cells(self.image, ys, xs), np.arange(len(places))

    def all_cells(self) -> NDArray[np.float32]:
        """Compute the float32 values (C, h * w) of all cells."""
        return self.decoded().reshape(self.channels, -1)


FeatureMap: TypeAlias = StoredArray | ComputedMap


def arrays_of(convolution: FirstConvolution) -> dict[str, StoredArray]:
    """Give what a shard holds of a convolution, whose geometry is part of the cache's identity."""
    kernel = convolution.kernel.reshape(len(convolution.kernel), 3, -1)
    arrays: dict[str, NDArray[Any]] = {
        KERNEL: kernel,
        BIAS: convolution.bias,
        VALUES: convolution.values,
    }
    return {name: StoredArray(array) for name, array in arrays.items()}


def convolution_of(
    arrays: dict[str, StoredArray], geometry: ConvolutionIdentity
) -> FirstConvolution:
    """Give the convolution that a shard holds.

    Raises
    ------
    ValueError
        If its map could be infinite.
    """
    from pipeline.hypercolumn import FirstConvolution  # imports torch, which takes seconds

    kernel, bias, values = (arrays[name].values for name in (KERNEL, BIAS, VALUES))
    kernel = kernel.reshape(len(kernel), 3, *geometry.kernel)
    found = FirstConvolution(kernel, bias, values, geometry.stride, geometry.padding)
    if not found.is_bounded:
        raise ValueError("it gives values that are not finite")
    return found
