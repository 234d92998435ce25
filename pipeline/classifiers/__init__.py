"""Sparse pixel classifiers: what is fitted on pixel samples, and how it becomes dense layers.

:class:`~pipeline.classifiers.torch_mlp.TorchMLPClassifier` is not exported here, because importing
it imports torch; everything that is exported imports numpy only.
"""

from pipeline.classifiers.estimators import ESTIMATORS, make_estimator
from pipeline.classifiers.fit import FitResult, fit_classifier
from pipeline.classifiers.layers import MISSING_CLASS_LOGIT, Layers, is_dense, to_layers
from pipeline.classifiers.storage import dump_estimator, load_estimator

__all__ = [
    "ESTIMATORS",
    "MISSING_CLASS_LOGIT",
    "FitResult",
    "Layers",
    "dump_estimator",
    "fit_classifier",
    "is_dense",
    "load_estimator",
    "make_estimator",
    "to_layers",
]
