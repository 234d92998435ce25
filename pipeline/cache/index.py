"""``index.h5``: links to every image of every shard, for browsing with h5py or HDFView."""

import h5py

from pipeline.cache.files import describe, written_whole
from pipeline.cache.reader import FeatureCache

INDEX_NAME = "index.h5"


def write_index(cache: FeatureCache) -> None:
    """Write external links ``/<split>/<image id>`` into the shards beside it.

    The pipeline itself never reads through the index.
    """
    with written_whole(cache.path / INDEX_NAME) as file:
        for name, split in cache.splits.items():
            group = file.create_group(name)
            for image_id, shard in split.where.items():
                group[image_id] = h5py.ExternalLink(shard.name, f"/{image_id}")
        describe(file, cache.identity, "index", {})
