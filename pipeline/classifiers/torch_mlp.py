"""A two-layer perceptron in torch with scikit-learn's interface, for samplings that want a GPU."""

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_is_fitted,
    validate_data,
)
from torch import Tensor
from torch.nn.functional import cross_entropy

from pipeline.classifiers.layers import ACTIVATIONS
from pipeline.errors import ClassifierError

_TORCH_ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
    "identity": torch.clone,
}


class TorchMLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Softmax perceptron with one hidden layer, trained with Adam on cross-entropy.

    Loss, penalty and initial weights are those of ``sklearn.neural_network.MLPClassifier``; two
    classes are two outputs, however. It predicts with numpy, so that a classifier fitted on a GPU
    works everywhere.

    Parameters
    ----------
    hidden : int
        Hidden units.
    activation : {"relu", "tanh", "logistic", "identity"}
        Of the hidden units.
    epochs : int
        Passes over the samples.
    batch_size : int
        Samples per step; all of them if there are fewer.
    learning_rate : float
        Of Adam.
    alpha : float
        Strength of the L2 penalty on the weights.
    class_weight : None, "balanced" or dict
        Weights of the classes in the loss; "balanced" is n / (n_classes * count).
    device : str
        ``"auto"`` takes CUDA where there is one; or a torch device.
    random_state : int, RandomState instance or None
        Seeds a generator of its own; torch's global one is left alone.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coefs_ : list of float32 ndarrays of shapes (n_features, hidden) and (hidden, n_classes)
    intercepts_ : list of float32 ndarrays of shapes (hidden,) and (n_classes,)
    loss_curve_ : list of float
        Mean training loss of each epoch.
    n_features_in_ : int
    n_iter_ : int
        Epochs run.
    """

    def __init__(
        self,
        hidden: int = 512,
        *,
        activation: str = "relu",
        epochs: int = 20,
        batch_size: int = 200,
        learning_rate: float = 1e-3,
        alpha: float = 1e-4,
        class_weight: Any = None,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.class_weight = class_weight
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train from scratch.

        Parameters
        ----------
        X : array-like of shape (n, n_features)
            Converted to float32.
        y : array-like of shape (n,)
            Class labels.

        Returns
        -------
        self

        Raises
        ------
        ClassifierError
            If the device does not exist, or the weights stop being finite.
        ValueError
            If X and y are not what a classifier can be fitted on.
        """
        X, y = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs samples of two classes, but there is one class")
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)

        device = self._torch_device()
        generator = torch.Generator()
        generator.manual_seed(int(check_random_state(self.random_state).randint(2**31 - 1)))
        parameters = [
            p.to(device).requires_grad_()
            for p in self._initial(X.shape[1], len(self.classes_), generator)
        ]
        self.loss_curve_ = self._train(
            parameters,
            torch.from_numpy(np.ascontiguousarray(X)),
            torch.from_numpy(codes.astype(np.int64)),
            torch.as_tensor(weights, dtype=torch.float32, device=device),
            generator,
        )
        self.n_iter_ = len(self.loss_curve_)
        arrays = [p.detach().cpu().numpy() for p in parameters]
        self.coefs_, self.intercepts_ = arrays[::2], arrays[1::2]
        return self

    def decision_function(self, X: Any) -> NDArray[np.float32]:
        """Score samples.

        Parameters
        ----------
        X : array-like of shape (n, n_features)

        Returns
        -------
        ndarray of float32, shape (n, n_classes)
            Logits; for two classes those of the second above the first, of shape (n,).
        """
        logits = self._logits(X)
        if len(self.classes_) == 2:
            return np.asarray(logits[:, 1] - logits[:, 0])
        return logits

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Give the softmax of the logits, of shape (n, n_classes)."""
        logits = self._logits(X)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def predict(self, X: Any) -> NDArray[Any]:
        """Give the label of the largest logit, of shape (n,)."""
        best = self._logits(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _logits(self, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False)
        hidden = ACTIVATIONS[self.activation](X @ self.coefs_[0] + self.intercepts_[0])
        return np.asarray(hidden @ self.coefs_[1] + self.intercepts_[1])

    def _initial(self, inputs: int, outputs: int, generator: torch.Generator) -> list[Tensor]:
        """Draw weights and biases, uniformly as Glorot and Bengio (2010), on the CPU."""
        gain = 2.0 if self.activation == "logistic" else 6.0
        drawn = []
        for rows, columns in ((inputs, self.hidden), (self.hidden, outputs)):
            bound = (gain / (rows + columns)) ** 0.5
            drawn += [
                torch.empty(shape).uniform_(-bound, bound, generator=generator)
                for shape in ((rows, columns), (columns,))
            ]
        return drawn

    def _train(
        self,
        parameters: list[Tensor],
        X: Tensor,
        codes: Tensor,
        class_weights: Tensor,
        generator: torch.Generator,
    ) -> list[float]:
        w1, b1, w2, b2 = parameters
        activate = _TORCH_ACTIVATIONS[self.activation]
        adam = torch.optim.Adam(parameters, lr=self.learning_rate)
        curve = []
        for _ in range(self.epochs):
            total = torch.zeros((), device=w1.device)
            order = torch.randperm(len(X), generator=generator)
            for start in range(0, len(X), self.batch_size):
                batch = order[start : start + self.batch_size]
                x, target = X[batch].to(w1.device), codes[batch].to(w1.device)
                logits = activate(x @ w1 + b1) @ w2 + b2
                losses = cross_entropy(logits, target, reduction="none") * class_weights[target]
                penalty = 0.5 * self.alpha * (w1.square().sum() + w2.square().sum())
                loss = losses.mean() + penalty / len(batch)
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                total += loss.detach() * len(batch)
            curve.append(float(total) / len(X))
            if not np.isfinite(curve[-1]):
                raise ClassifierError(
                    f"the perceptron diverged in epoch {len(curve)}; lower learning_rate from"
                    f" {self.learning_rate:g}, or scale the features"
                )
        return curve

    def _torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ClassifierError(
                f"device {self.device!r} cannot be used here; choose 'auto' or 'cpu'"
            ) from error
        return device
