"""The feature cache on disk. The only place that knows of HDF5."""

from pipeline.cache.encoding import BYTES_PER_VALUE
from pipeline.cache.index import write_index
from pipeline.cache.reader import CachedSplit, FeatureCache
from pipeline.cache.samples import (
    Drawing,
    Samples,
    draw_pixels,
    draw_samples,
    read_samples,
    samples_are_current,
    samples_path,
    write_samples,
)
from pipeline.cache.shards import (
    ImageRecord,
    ShardPlan,
    plan_shards,
    remove_other_shards,
    write_shard,
)

__all__ = [
    "BYTES_PER_VALUE",
    "CachedSplit",
    "Drawing",
    "FeatureCache",
    "ImageRecord",
    "Samples",
    "ShardPlan",
    "draw_pixels",
    "draw_samples",
    "plan_shards",
    "read_samples",
    "remove_other_shards",
    "samples_are_current",
    "samples_path",
    "write_index",
    "write_samples",
    "write_shard",
]
