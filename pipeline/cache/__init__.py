"""The feature cache on disk. The only place that knows of HDF5.

It is read without torch, which takes seconds to import; what draws samples imports it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.cache.cached_split import CachedSplit
from pipeline.cache.encoding import BYTES_PER_VALUE
from pipeline.cache.garbage import find_garbage
from pipeline.cache.headers import ShardDetails, ShardHeader, Sources, scan_shards
from pipeline.cache.index import check_index, write_index
from pipeline.cache.inventory import (
    Stock,
    changed_images,
    make_way,
    refuse_other_cache,
    retired_shards,
    set_aside,
    shard_samples,
)
from pipeline.cache.manifest import (
    MANIFEST_NAME,
    Manifest,
    SplitSummary,
    manifest_of,
    read_manifest,
    write_manifest,
)
from pipeline.cache.pixels import Drawing, Samples, draw_pixels
from pipeline.cache.reader import FeatureCache, find_shards
from pipeline.cache.rows import FeatureRows, StoredSamples, put_aside
from pipeline.cache.samples import (
    count_samples,
    merge_samples,
    open_samples,
    read_samples,
    samples_are_current,
    samples_drawing,
    samples_path,
    shard_samples_path,
    write_samples,
)
from pipeline.cache.session import alone_in, in_turn, joint_session, remove_dead_locks, writing
from pipeline.cache.shard_writer import written_shard
from pipeline.cache.shards import (
    RESERVED,
    ImageRecord,
    ShardPlan,
    StoredImage,
    plan_shards,
    total_images,
)
from pipeline.cache.structure import check_structure

if TYPE_CHECKING:
    from pipeline.cache.drawing import Drawn, SampleDrawer, draw_samples

__all__ = [
    "BYTES_PER_VALUE",
    "MANIFEST_NAME",
    "RESERVED",
    "CachedSplit",
    "Drawing",
    "Drawn",
    "FeatureCache",
    "FeatureRows",
    "ImageRecord",
    "Manifest",
    "SampleDrawer",
    "Samples",
    "ShardDetails",
    "ShardHeader",
    "ShardPlan",
    "Sources",
    "SplitSummary",
    "Stock",
    "StoredImage",
    "StoredSamples",
    "alone_in",
    "changed_images",
    "check_index",
    "check_structure",
    "count_samples",
    "draw_pixels",
    "draw_samples",
    "find_garbage",
    "find_shards",
    "in_turn",
    "joint_session",
    "make_way",
    "manifest_of",
    "merge_samples",
    "open_samples",
    "plan_shards",
    "put_aside",
    "read_manifest",
    "read_samples",
    "refuse_other_cache",
    "remove_dead_locks",
    "retired_shards",
    "samples_are_current",
    "samples_drawing",
    "samples_path",
    "scan_shards",
    "set_aside",
    "shard_samples",
    "shard_samples_path",
    "total_images",
    "write_index",
    "write_manifest",
    "write_samples",
    "writing",
    "written_shard",
]


def __getattr__(name: str) -> Any:
    """Import what draws samples when it is first used."""
    if name in ("Drawn", "SampleDrawer", "draw_samples"):
        return getattr(import_module("pipeline.cache.drawing"), name)
    raise AttributeError(f"module 'pipeline.cache' has no attribute '{name}'")
