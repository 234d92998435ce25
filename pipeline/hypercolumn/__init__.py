"""The mathematics of hypercolumns on tensors. Nothing here knows of files.

The names below are imported when they are first used: :class:`Features` describes a choice, and
what only reads that must not wait for torch, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.hypercolumn.columns import hypercolumn_map, hypercolumns_at
    from pipeline.hypercolumn.features import Features
    from pipeline.hypercolumn.first_convolution import FirstConvolution
    from pipeline.hypercolumn.geometry import Geometry
    from pipeline.hypercolumn.grid import MAX_GRID
    from pipeline.hypercolumn.head import DenseHead
    from pipeline.hypercolumn.labels import labels_of
    from pipeline.hypercolumn.loss import head_loss
    from pipeline.hypercolumn.sampling import read_columns
    from pipeline.hypercolumn.target import Target

_MODULES = {
    "columns": ("hypercolumn_map", "hypercolumns_at"),
    "features": ("Features",),
    "first_convolution": ("FirstConvolution",),
    "geometry": ("Geometry",),
    "grid": ("MAX_GRID",),
    "head": ("DenseHead",),
    "labels": ("labels_of",),
    "loss": ("head_loss",),
    "sampling": ("read_columns",),
    "target": ("Target",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "MAX_GRID",
    "DenseHead",
    "Features",
    "FirstConvolution",
    "Geometry",
    "Target",
    "head_loss",
    "hypercolumn_map",
    "hypercolumns_at",
    "labels_of",
    "read_columns",
]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name in _WHERE:
        return getattr(import_module(f"pipeline.hypercolumn.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'pipeline.hypercolumn' has no attribute '{name}'")
