"""How a two-layer perceptron is trained: initial weights, batches, steps, and when it is over."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from sklearn.utils import shuffle
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.adam import AdamW, cosine
from pipeline.classifiers.rows import Rows
from pipeline.errors import ClassifierError

_ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "identity": torch.clone,
}

_AT_ONCE = 1024
"""Samples that are in memory at a time, of batches that are larger."""


@dataclass(frozen=True, kw_only=True)
class PerceptronTraining:
    """The course of training one perceptron with Adam on cross-entropy.

    The attributes are what :class:`pipeline.classifiers.torch_mlp.TorchMLPClassifier` says of its
    parameters of the same names.
    """

    hidden: int
    activation: str
    epochs: int
    batch_size: int
    patience: int | None
    tol: float
    learning_rate: float
    schedule: str
    alpha: float
    dropout: float

    def run(
        self, X: Rows, codes: Tensor, class_weights: Tensor, random: RandomState
    ) -> tuple[list[Tensor], list[float]]:
        """Train from scratch, on the device of the class weights.

        Parameters
        ----------
        X : Rows of shape (n, n_features)
        codes : Tensor of int64, shape (n,)
            Numbers of the classes, on the CPU.
        class_weights : Tensor of float32, shape (n_classes,)
            Weights of the classes in the loss.
        random : RandomState
            Of the initial weights and of the order of the samples.

        Returns
        -------
        parameters : list of Tensor
            Of shapes (n_features, hidden), (hidden,), (hidden, n_classes) and (n_classes,).
        curve : list of float
            Mean training loss of each epoch.

        Raises
        ------
        ClassifierError
            If the weights stop being finite.
        """
        device = class_weights.device
        initial = self._initial(X.shape[1], len(class_weights), random)
        parameters = [p.to(device).requires_grad_() for p in initial]
        adam = AdamW([(parameters, 0.0)])
        order = np.arange(len(X))
        draws = torch.Generator(device)
        if self.dropout:  # else no number is drawn, so that the order is scikit-learn's
            draws.manual_seed(int(random.randint(2**31)))
        curve: list[float] = []
        while len(curve) < self.epochs and not self._is_over(curve):
            total = torch.zeros((), device=device)
            order = shuffle(order, random_state=random)
            for start in range(0, len(X), self.batch_size):
                batch = order[start : start + self.batch_size]
                adam.zero_grad()
                total += len(batch) * self._backward(
                    parameters, X, codes, class_weights, batch, draws
                )
                adam.step(self._learning_rate(len(curve) + start / len(X)))
            curve.append(float(total) / len(X))
            if not np.isfinite(curve[-1]):
                raise ClassifierError(
                    f"the perceptron diverged in epoch {len(curve)}; lower learning_rate from"
                    f" {self.learning_rate:g}, or scale the features"
                )
        return [p.detach() for p in parameters], curve

    def _initial(self, inputs: int, outputs: int, random: RandomState) -> list[Tensor]:
        """Draw weights and biases, uniformly as Glorot and Bengio (2010), on the CPU."""
        gain = 2.0 if self.activation == "logistic" else 6.0
        drawn = []
        for rows, columns in ((inputs, self.hidden), (self.hidden, outputs)):
            bound = (gain / (rows + columns)) ** 0.5
            for shape in ((rows, columns), (columns,)):
                values = random.uniform(-bound, bound, shape)
                drawn.append(torch.from_numpy(values.astype(np.float32)))
        return drawn

    def _backward(
        self,
        parameters: list[Tensor],
        X: Rows,
        codes: Tensor,
        class_weights: Tensor,
        batch: NDArray[np.int64],
        draws: torch.Generator,
    ) -> Tensor:
        """Add the gradients of a batch's loss, a piece of it at a time, and give the loss."""
        w1, b1, w2, b2 = parameters
        activate = _ACTIVATIONS[self.activation]
        penalty = 0.5 * self.alpha * (w1.square().sum() + w2.square().sum()) / len(batch)
        penalty.backward()  # type: ignore[no-untyped-call]
        total = penalty.detach()
        for start in range(0, len(batch), _AT_ONCE):
            piece = batch[start : start + _AT_ONCE]
            x, target = torch.from_numpy(X[piece]).to(w1.device), codes[piece].to(w1.device)
            hidden = activate(x @ w1 + b1)
            if self.dropout:
                kept = torch.empty_like(hidden).bernoulli_(1 - self.dropout, generator=draws)
                hidden = hidden * kept / (1 - self.dropout)
            logits = hidden @ w2 + b2
            losses = cross_entropy(logits, target, reduction="none") * class_weights[target]
            loss = losses.sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _learning_rate(self, epochs_done: float) -> float:
        if self.schedule == "constant":
            return self.learning_rate
        return cosine(self.learning_rate, epochs_done / self.epochs)

    def _is_over(self, curve: list[float]) -> bool:
        """Tell whether the loss has stood still for longer than ``patience`` allows."""
        if self.patience is None or self.schedule == "cosine":
            return False
        best, still = np.inf, 0
        for loss in curve:
            still = still + 1 if loss > best - self.tol else 0
            best = min(best, loss)
        return still > self.patience
