"""A two-layer perceptron in torch with scikit-learn's interface.

It reads its samples one batch at a time, so that there may be any number of them, and takes a GPU
where there is one.
"""

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

from pipeline.classifiers.layers import ACTIVATIONS
from pipeline.classifiers.perceptron import PerceptronTraining
from pipeline.classifiers.rows import Rows
from pipeline.errors import ClassifierError


class TorchMLPClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Softmax perceptron with one hidden layer, trained with Adam on cross-entropy.

    Loss, penalty, initial weights, the order of the samples and the rule for stopping are those of
    ``sklearn.neural_network.MLPClassifier``: with the same seed it learns the same, up to rounding,
    as long as nothing is dropped.
    Two classes are two outputs, however. It predicts with numpy, so that a classifier fitted on a
    GPU works everywhere.

    Parameters
    ----------
    hidden : int
        Hidden units, of each member.
    members : int
        How many perceptrons are trained, each from other initial weights and with the samples in
        another order (deep ensembles: Lakshminarayanan et al., NeurIPS 2017). The mean of their
        logits is one perceptron of ``members * hidden`` units, which is what comes out.
    activation : {"relu", "tanh", "logistic", "identity"}
        Of the hidden units.
    epochs : int
        Passes over the samples, at most.
    batch_size : int
        Samples per step; all of them if there are fewer.
    patience : int or None
        Stop after so many epochs and one more in which the loss has not become smaller than the
        smallest before by more than ``tol``; None runs all epochs, as does a cosine schedule.
    tol : float
    learning_rate : float
        Of Adam, in the first step.
    schedule : {"constant", "cosine"}
        How the learning rate goes on: as it is, or to zero along half a cosine, over all epochs.
    alpha : float
        Strength of the L2 penalty on the weights.
    dropout : float
        Share of the hidden units that a training sample does without, another choice of them for
        each (Srivastava et al., JMLR 2014, section 4); the others count 1 / (1 - dropout) times.
    class_weight : None, "balanced" or dict
        Weights of the classes in the loss; "balanced" is n / (n_classes * count).
    device : str
        ``"auto"`` takes CUDA where there is one; or a torch device.
    random_state : int, RandomState instance or None
        Of the initial weights and of the order of the samples.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coefs_ : list of float32 ndarrays of shapes (n_features, units) and (units, n_classes)
        With ``units = members * hidden``.
    intercepts_ : list of float32 ndarrays of shapes (units,) and (n_classes,)
    loss_curve_ : list of float
        Mean training loss of each epoch, of the last member.
    n_features_in_ : int
    n_iter_ : int
        Epochs run, by the last member.
    """

    def __init__(
        self,
        hidden: int = 512,
        *,
        members: int = 1,
        activation: str = "relu",
        epochs: int = 20,
        batch_size: int = 200,
        patience: int | None = None,
        tol: float = 1e-3,
        learning_rate: float = 1e-3,
        schedule: str = "constant",
        alpha: float = 1e-4,
        dropout: float = 0.0,
        class_weight: Any = None,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.members = members
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.patience = patience
        self.tol = tol
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.alpha = alpha
        self.dropout = dropout
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
        return self.fit_rows(X, y)

    def fit_rows(self, X: Rows, y: NDArray[Any]) -> Self:
        """Train from scratch on samples that are read batch by batch, and not checked.

        Parameters
        ----------
        X : Rows of shape (n, n_features)
            Finite.
        y : array of shape (n,)
            Class labels.

        Returns
        -------
        self

        Raises
        ------
        ClassifierError, ValueError
            As :meth:`fit` raises them.
        """
        self.n_features_in_ = X.shape[1]
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs samples of two classes, but there is one class")
        weights = compute_class_weight(self.class_weight, classes=self.classes_, y=y)

        device = self._torch_device()
        random = check_random_state(self.random_state)
        targets = torch.from_numpy(codes.astype(np.int64))
        class_weights = torch.as_tensor(weights, dtype=torch.float32, device=device)
        training = PerceptronTraining(
            hidden=self.hidden,
            activation=self.activation,
            epochs=self.epochs,
            batch_size=self.batch_size,
            patience=self.patience,
            tol=self.tol,
            learning_rate=self.learning_rate,
            schedule=self.schedule,
            alpha=self.alpha,
            dropout=self.dropout,
        )
        members: list[list[NDArray[np.float32]]] = []
        for _ in range(self.members):
            parameters, self.loss_curve_ = training.run(X, targets, class_weights, random)
            members.append([p.cpu().numpy() for p in parameters])
        self.n_iter_ = len(self.loss_curve_)
        w1, b1, w2, b2 = zip(*members, strict=True)
        self.coefs_ = [np.concatenate(w1, axis=1), np.concatenate(w2) / np.float32(self.members)]
        self.intercepts_ = [np.concatenate(b1), np.mean(b2, axis=0)]
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
