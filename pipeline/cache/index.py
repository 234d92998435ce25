"""``index.h5``: links to every image of every shard, for browsing with h5py or HDFView."""

import h5py

from pipeline.cache.arrays import (
    own_member,
)
from pipeline.cache.files import (
    REMEDY,
    UNREADABLE,
    describe,
    open_described,
)
from pipeline.cache.interrupts import uninterrupted
from pipeline.cache.reader import FeatureCache
from pipeline.cache.whole_hdf5 import written_hdf5
from pipeline.errors import CacheDamagedError

INDEX_NAME = "index.h5"


@uninterrupted()
def write_index(cache: FeatureCache) -> None:
    """Write external links ``/<split>/<image id>`` into the shards beside it.

    The pipeline itself never reads through the index.
    """
    with written_hdf5(cache.path / INDEX_NAME) as file:
        for name, links in _links(cache).items():
            group = file.create_group(name)
            for image_id, shard in links.items():
                group[image_id] = h5py.ExternalLink(shard, f"/{image_id}")
        describe(file, cache.identity, "index", {})


def check_index(cache: FeatureCache, *, complete: bool = True) -> None:
    """Check that the index is there and leads to every image.

    Parameters
    ----------
    cache : FeatureCache
    complete : bool
        Whether all of the cache can be read. If not, the index need not be there, and is only
        checked for damage.

    Raises
    ------
    CacheError
        If it is missing, damaged, or leads elsewhere.
    """
    path = cache.path / INDEX_NAME
    if not path.exists():
        if complete:
            raise CacheDamagedError(f"{path}: is missing; {REMEDY}")
        return
    file, identity, _ = open_described(path, "index")
    with file:
        try:
            found = {name: _targets(own_member(file, name, h5py.Group)) for name in file}
        except UNREADABLE as error:
            raise CacheDamagedError(f"{path}: is damaged; {REMEDY}") from error
    if complete and (identity != cache.identity or found != _links(cache)):
        raise CacheDamagedError(f"{path}: does not lead to the images that are there; {REMEDY}")


def _links(cache: FeatureCache) -> dict[str, dict[str, str]]:
    return {
        name: {image_id: shard.name for image_id, shard in split.where.items()}
        for name, split in cache.splits.items()
    }


def _targets(group: h5py.Group) -> dict[str, str]:
    found = {}
    for image_id in group:
        link = group.get(image_id, getlink=True)
        if not isinstance(link, h5py.ExternalLink) or link.path != f"/{image_id}":
            raise ValueError(f"{image_id} is not a link to an image")
        found[image_id] = str(link.filename)
    return found
