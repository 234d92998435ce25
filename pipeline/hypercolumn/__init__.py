"""The mathematics of hypercolumns on tensors. Nothing here knows of files."""

from pipeline.hypercolumn.columns import Cells, hypercolumn_map, hypercolumns_at, read_columns
from pipeline.hypercolumn.features import Features
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.head import DenseHead, head_loss

__all__ = [
    "Cells",
    "DenseHead",
    "Features",
    "Geometry",
    "head_loss",
    "hypercolumn_map",
    "hypercolumns_at",
    "read_columns",
]
