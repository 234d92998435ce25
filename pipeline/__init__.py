"""Semantic segmentation with hypercolumns, from a cache of frozen features.

Stage one runs a frozen backbone over a data set once::

    dataset = pipeline.VocDataset.open("data/scenes")
    backbone = pipeline.load_backbone("vgg11", weights="random")
    pipeline.extract(dataset, backbone, "cache/scenes")

Stage two reads only what it wrote::

    pipeline.fit_sparse("cache/scenes", "sparse.safetensors")
    pipeline.fit_dense("cache/scenes", "sparse.safetensors", "dense.safetensors")
    metrics = pipeline.evaluate("cache/scenes", "dense.safetensors")

The names below are the public interface; they are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.backbones import Backbone, Preprocessing, load_backbone
    from pipeline.boxes import BoxHead, BoxSettings, load_box_head, save_box_head
    from pipeline.cache import CachedSplit, Drawing, FeatureCache, Samples, draw_samples
    from pipeline.data import VocDataset, check_dataset, write_scenes
    from pipeline.errors import PipelineError
    from pipeline.heads import Head, load_head, save_head
    from pipeline.hypercolumn import DenseHead, Features, hypercolumn_map, hypercolumns_at
    from pipeline.metrics import ConfusionMatrix
    from pipeline.stages.evaluate import evaluate
    from pipeline.stages.evaluate_boxes import evaluate_boxes
    from pipeline.stages.extract import extract
    from pipeline.stages.fit_boxes import fit_boxes
    from pipeline.stages.fit_dense import fit_dense
    from pipeline.stages.fit_sparse import fit_sparse
    from pipeline.stages.parallel import Workers
    from pipeline.stages.predict import Segmenter, predict
    from pipeline.stages.report import report
    from pipeline.training import TrainSettings

_MODULES = {
    "pipeline.backbones": ("Backbone", "Preprocessing", "load_backbone"),
    "pipeline.boxes": ("BoxHead", "BoxSettings", "load_box_head", "save_box_head"),
    "pipeline.cache": ("CachedSplit", "Drawing", "FeatureCache", "Samples", "draw_samples"),
    "pipeline.data": ("VocDataset", "check_dataset", "write_scenes"),
    "pipeline.errors": ("PipelineError",),
    "pipeline.heads": ("Head", "load_head", "save_head"),
    "pipeline.hypercolumn": ("DenseHead", "Features", "hypercolumn_map", "hypercolumns_at"),
    "pipeline.metrics": ("ConfusionMatrix",),
    "pipeline.stages.evaluate": ("evaluate",),
    "pipeline.stages.extract": ("extract",),
    "pipeline.stages.evaluate_boxes": ("evaluate_boxes",),
    "pipeline.stages.fit_boxes": ("fit_boxes",),
    "pipeline.stages.fit_dense": ("fit_dense",),
    "pipeline.stages.fit_sparse": ("fit_sparse",),
    "pipeline.stages.parallel": ("Workers",),
    "pipeline.stages.predict": ("Segmenter", "predict"),
    "pipeline.stages.report": ("report",),
    "pipeline.training": ("TrainSettings",),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Backbone",
    "BoxHead",
    "BoxSettings",
    "CachedSplit",
    "ConfusionMatrix",
    "DenseHead",
    "Drawing",
    "FeatureCache",
    "Features",
    "Head",
    "PipelineError",
    "Preprocessing",
    "Samples",
    "Segmenter",
    "TrainSettings",
    "VocDataset",
    "Workers",
    "check_dataset",
    "draw_samples",
    "evaluate",
    "evaluate_boxes",
    "extract",
    "fit_boxes",
    "fit_dense",
    "fit_sparse",
    "hypercolumn_map",
    "hypercolumns_at",
    "load_backbone",
    "load_box_head",
    "load_head",
    "predict",
    "report",
    "save_box_head",
    "save_head",
    "write_scenes",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing torch takes seconds."""
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
