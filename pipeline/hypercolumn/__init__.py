"""The mathematics of hypercolumns on tensors. Nothing here knows of files."""

from pipeline.hypercolumn.columns import Cells, hypercolumn_map, hypercolumns_at, read_columns
from pipeline.hypercolumn.features import Features
from pipeline.hypercolumn.geometry import Geometry
from pipeline.hypercolumn.grid import MAX_GRID
from pipeline.hypercolumn.head import DenseHead
from pipeline.hypercolumn.labels import labels_of
from pipeline.hypercolumn.loss import Target, head_loss

__all__ = [
    "MAX_GRID",
    "Cells",
    "DenseHead",
    "Features",
    "Geometry",
    "Target",
    "head_loss",
    "hypercolumn_map",
    "hypercolumns_at",
    "labels_of",
    "read_columns",
]
