"""What an extraction is going to need on the disk, told before it begins."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.cache import Drawing, ShardPlan, draw_pixels, scan_shards
from pipeline.errors import BackboneError, DataError, SpaceError
from pipeline.identity import Identity
from pipeline.stages.image_records import ImageRecords

_BYTES_PER_FILE = 2500
_MASKS_LOOKED_AT = 8
"""From how many masks of a split it is estimated how many samples will be drawn: nothing else is
done while they are read. With the default recipe samples take 37 % of the room that maps take, and
8 masks err by -17 to +14 % of that (50 would by -6 to +6 %): about 6 % of all room."""


def bytes_of_shards(plans: Sequence[ShardPlan], records: ImageRecords, identity: Identity) -> int:
    """Give the bytes that shards will take."""
    images = sum(records.bytes_of(i, identity) for plan in plans for i in plan.sources)
    return images + (_BYTES_PER_FILE + _bytes_of_first(identity)) * len(plans)


def _bytes_of_first(identity: Identity) -> int:
    """Give what every shard holds for a first tap that is not stored."""
    if identity.recompute_first is None:
        return 0
    height, width = identity.recompute_first.kernel
    return 4 * (identity.tap_channels[0] * (3 * height * width + 1) + 3 * 256)


def bytes_of_samples(
    image_ids: Sequence[str], records: ImageRecords, identity: Identity, drawing: Drawing
) -> int:
    """Give the bytes that the samples of a split will take, estimated from some of its masks."""
    if not image_ids:
        return 0
    count = min(_MASKS_LOOKED_AT, len(image_ids))
    chosen = [image_ids[int(i)] for i in np.linspace(0, len(image_ids) - 1, count)]
    drawn = sum(_drawn(image_id, records, identity, drawing) for image_id in chosen) / count
    channels = drawing.features.channels(identity.tap_names, identity.tap_channels)
    bytes_each = 4 * sum(channels) + 1 + 3 * 8  # the hypercolumn, the label; image, y and x
    return int(drawn * len(image_ids) * bytes_each) + _BYTES_PER_FILE


def _drawn(image_id: str, records: ImageRecords, identity: Identity, drawing: Drawing) -> int:
    try:
        label = records.label(image_id)
    except (DataError, BackboneError):
        return 0  # it will be reported when it is read
    if drawing.void_as_background:
        label = np.where(label == identity.void, np.uint8(0), label)
    ys, _ = draw_pixels(label, image_id, drawing, void=identity.void)
    return len(ys)


def require_room(directory: Path, lasting: int, passing: int, identity: Identity) -> str:
    """Refuse to begin where there is no room.

    Parameters
    ----------
    directory : Path
        The cache.
    lasting : int
        Bytes that are going to be written to stay.
    passing : int
        Bytes that are needed until the end as well.
    identity : Identity
        Of the cache that is to be; shards of another one make room.

    Returns
    -------
    str
        How much is to be written, and how much room there is.

    Raises
    ------
    SpaceError
        If it does not fit.
    """
    existing, *_ = [p for p in (directory, *directory.absolute().parents) if p.exists()]
    free = shutil.disk_usage(existing).free
    headers, _ = scan_shards(directory)
    freed = sum(h.path.stat().st_size for h in headers if h.identity != identity)
    if lasting + passing > free + freed:
        raise SpaceError(
            f"{directory}: {_size(lasting + passing)} to write but only {_size(free + freed)} "
            "free; make room, write elsewhere, or use --dtype int8"
        )
    return f"to write: {_size(lasting)} to {directory}; free: {_size(free)}"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
