"""Fitting a grid of location-specific classifiers on pixel samples.

They begin as copies of one classifier that was fitted on all samples. From there the last layer of
each is trained on the loss of the interpolated probability, see :mod:`pipeline.hypercolumn.grid`,
and held back by an L2 penalty on what it moves away: a cell of the grid sees few of the samples,
of some classes maybe none. The layers before it, if any, are shared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from pipeline.adam import AdamW
from pipeline.classifiers.layers import Layers
from pipeline.classifiers.rows import Rows
from pipeline.hypercolumn.grid import cross_entropy_gradient, grid_weights, log_probability

_EPOCHS = 10
_BATCH = 200
_LEARNING_RATE = 1e-4
_HOLD = 1e-3
"""Strength of the penalty, per sample."""


@dataclass(frozen=True)
class Places:
    """Where pixel samples lie.

    Attributes
    ----------
    y, x : ndarray of int64, shape (n,)
        Pixels.
    height, width : ndarray of int64, shape (n,)
        Sizes of their images.
    """

    y: NDArray[np.int64]
    x: NDArray[np.int64]
    height: NDArray[np.int64]
    width: NDArray[np.int64]

    def weights(self, chosen: NDArray[np.int64], grid: int) -> Tensor:
        """Give the weights of the grid's cells at some of the samples, (K * K, m)."""
        arrays = (self.y, self.x, self.height, self.width)
        y, x, height, width = (torch.from_numpy(a[chosen]) for a in arrays)
        return grid_weights(y, x, height, width, grid)


def fit_grid(
    layers: Layers,
    X: Rows,
    y: NDArray[np.integer[Any]],
    places: Places,
    chosen: NDArray[np.int64],
    *,
    grid: int,
    seed: int = 0,
) -> Layers:
    """Turn a fitted classifier into a grid of them.

    Parameters
    ----------
    layers : Layers
        The classifier that all of them begin as.
    X : ndarray or other Rows of float32, shape (n, D)
        Hypercolumns.
    y : ndarray of integers, shape (n,)
        Class indices.
    places : Places
        Of all samples.
    chosen : ndarray of int64
        The samples to fit on.
    grid : int
        K; with 1 the layers are given back as they are.
    seed : int
        Of the order of the samples.

    Returns
    -------
    Layers
        With ``K * K * n_classes`` outputs, one classifier after the other, row by row of the grid.
    """
    if grid == 1:
        return layers
    cells, n_classes = grid * grid, layers.n_classes
    begin = [torch.from_numpy(a).float() for a in (layers.weights[-1], layers.biases[-1])]
    weight, bias = (torch.cat([a] * cells) for a in begin)
    shared = weight.clone()
    optimizer = AdamW([([weight, bias], 0.0)])
    generator = np.random.default_rng(seed)
    for _ in range(_EPOCHS):
        for batch in _batches(generator.permutation(chosen)):
            inputs = torch.from_numpy(layers.last_inputs(X[batch])).float()
            target = one_hot(torch.from_numpy(y[batch].astype(np.int64)), n_classes).T.float()
            logits = torch.addmm(bias[:, None], weight, inputs.T)
            _, gradient = cross_entropy_gradient(logits, places.weights(batch, grid), target)
            gradient /= len(batch)
            weight.grad = torch.addmm(weight - shared, gradient, inputs, beta=_HOLD)
            bias.grad = gradient.sum(dim=1)
            optimizer.step(_LEARNING_RATE)
    return replace(
        layers,
        weights=(*layers.weights[:-1], weight.double().numpy()),
        biases=(*layers.biases[:-1], bias.double().numpy()),
    )


def predict_grid(
    layers: Layers,
    X: Rows,
    places: Places,
    chosen: NDArray[np.int64],
    *,
    grid: int,
) -> NDArray[np.int64]:
    """Classify some of the samples with what :func:`fit_grid` gives."""
    found = [np.empty(0, np.int64)]
    for batch in _batches(chosen):
        logits = torch.from_numpy(layers.logits(X[batch])).T.float()
        probability = log_probability(logits, places.weights(batch, grid))
        found.append(probability.argmax(dim=0).numpy())
    return np.concatenate(found)


def _batches(index: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Divide samples into batches, each in rising order: so they are read from a file."""
    for start in range(0, len(index), _BATCH):
        yield np.sort(index[start : start + _BATCH])
