"""Pixel samples: (hypercolumn, label) pairs drawn from a cached split.

The file ``<split>-samples.h5`` holds, for ``n`` samples of ``D`` channels::

    features   (n, D) float32    hypercolumns
    label      (n,) uint8        classes
    image      (n,) int64        position in image_ids
    y, x       (n,) int64        pixel, at the network's input size
    image_ids  (images,) str     ids of the split's images

and says in its attributes with which features, count and seed they were drawn. While an extraction
lasts, the samples of every shard lie in a file of their own, ``<shard>-samples.h5``; at the end
they are put together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.cache.arrays import (
    own_array,
    read_array,
    require_digest,
    set_digest,
    write_array,
)
from pipeline.cache.encoding import StoredArray, new_digest
from pipeline.cache.files import (
    REMEDY,
    UNREADABLE,
    describe,
    open_described,
)
from pipeline.cache.headers import Sources
from pipeline.cache.interrupts import uninterrupted
from pipeline.cache.pixels import Drawing, Samples
from pipeline.cache.rows import FeatureRows, StoredSamples
from pipeline.cache.whole_hdf5 import written_hdf5
from pipeline.errors import CacheDamagedError, CacheError, CacheNotFoundError
from pipeline.identity import Identity
from pipeline.names import is_plain

_ARRAYS = ("features", "label", "image", "y", "x")


class _Details(BaseModel):
    """What a samples file says about itself beside its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=0)
    drawing: Drawing
    sources: str


def samples_path(directory: Path, split: str) -> Path:
    """Give the path of a split's samples file."""
    return directory / f"{split}-samples.h5"


def shard_samples_path(shard: Path) -> Path:
    """Give the path of the samples of one shard."""
    return samples_path(shard.parent, shard.stem)


def samples_are_current(
    path: Path, sources: Mapping[str, Sources], identity: Identity, drawing: Drawing
) -> bool:
    """Tell whether a file holds what would be drawn now from images of these sources."""
    try:
        with _opened(path) as (_, found, details):
            pass
    except CacheError:
        return False
    return (found, details.drawing, details.sources) == (
        identity,
        drawing,
        _sources_digest(sources),
    )


def write_samples(
    path: Path, samples: Samples, sources: Mapping[str, Sources], identity: Identity
) -> None:
    """Write samples to a file that exists whole or not at all.

    As with a shard, what dead runs left of it stays.

    Parameters
    ----------
    path : Path
        Where to.
    samples : Samples
    sources : mapping of image id to digests
        Of every image of ``samples``: what they were drawn from.
    identity : Identity
        Of the cache.
    """
    _write(path, len(samples), [lambda: samples], sources, identity, tidied=True)


def merge_samples(
    path: Path, parts: Sequence[Path], sources: Mapping[str, Sources], identity: Identity
) -> None:
    """Put the samples of several files, in order, into one; only one is in memory at a time.

    Raises
    ------
    CacheError
        If one of them cannot be read.
    """
    count = sum(count_samples(part) for part in parts)
    readers = [lambda part=part: read_samples(part) for part in parts]
    _write(path, count, readers, sources, identity)


@uninterrupted()
def _write(
    path: Path,
    count: int,
    parts: Sequence[Callable[[], Samples]],
    sources: Mapping[str, Sources],
    identity: Identity,
    *,
    tidied: bool = False,
) -> None:
    with written_hdf5(path, tidied=tidied) as file:
        start, images, drawing = 0, 0, Drawing()
        digests = {}
        for part in parts:
            samples = part()
            drawing = samples.drawing
            for name in _ARRAYS:
                array = getattr(samples, name)
                shape = (count, *array.shape[1:])
                if name not in file:
                    file.create_dataset(name, shape=shape, dtype=array.dtype)
                    digests[name] = new_digest(array.dtype, shape)
                array = array + images if name == "image" else array
                file[name][start : start + len(array)] = array
                digests[name].update(np.ascontiguousarray(array).data)
            start, images = start + len(samples), images + len(samples.image_ids)
        for name, hasher in digests.items():
            set_digest(file[name], hasher.hexdigest())
        names = np.array([i.encode() for i in sources], np.bytes_)
        write_array(file, "image_ids", StoredArray(names))
        details = _Details(count=count, drawing=drawing, sources=_sources_digest(sources))
        describe(file, identity, "samples", details.model_dump(mode="json"))


def count_samples(path: Path) -> int:
    """Say how many samples a file holds, from its header alone.

    Raises
    ------
    CacheError
        If it cannot be read.
    """
    with _opened(path) as (_, _, details):
        return details.count


def samples_drawing(path: Path) -> Drawing | None:
    """Say how the samples in a file were drawn, from its header alone; None if it has none."""
    try:
        with _opened(path) as (_, _, details):
            return details.drawing
    except CacheError:
        return None


def open_samples(path: Path) -> StoredSamples:
    """Check every array of a samples file against its digest, and leave hypercolumns in the file.

    Close what is returned after use.

    Raises
    ------
    CacheNotFoundError
        If there is none.
    CacheDamagedError
        If an array does not match its digest.
    """
    if not path.exists():
        raise CacheNotFoundError(f"{path}: no samples there; run 'pipeline extract' first")
    with _opened(path) as (file, identity, details), ExitStack() as opened:
        name = ""
        try:
            arrays: dict[str, NDArray[Any]] = {}
            for name, (dtype, shape) in _forms(identity, details).items():
                dataset = own_array(file, name)
                of_type = np.issubdtype(dataset.dtype, dtype) and dataset.dtype.isnative
                of_shape = dataset.ndim == 1 if shape is None else dataset.shape == shape
                if not of_type or not of_shape:
                    raise ValueError(f"{dataset.dtype} values of shape {dataset.shape}")
                if name == "features":
                    features = _features(path, dataset)
                    opened.callback(features.close)
                else:
                    arrays[name] = read_array(dataset).values
            image_ids = tuple(i.decode() for i in arrays.pop("image_ids"))
            samples = StoredSamples(
                features, **arrays, image_ids=image_ids, drawing=details.drawing
            )
            _require_sense(samples, identity)
        except UNREADABLE as error:
            raise CacheDamagedError(f"{path}: {name} is damaged; {REMEDY}") from error
        opened.pop_all()
    return samples


def _features(path: Path, dataset: h5py.Dataset) -> FeatureRows:
    """Give hypercolumns by their place in the file, which HDF5 is not asked for again."""
    offset = dataset.id.get_offset()
    if offset is None and len(dataset):
        raise ValueError("its values do not lie in one piece")
    file = path.open("rb", buffering=0)
    try:
        rows = FeatureRows(
            file, offset or 0, dataset.shape, what=f"{path}: features is damaged; {REMEDY}"
        )
        require_digest(dataset, rows.digest)
    except BaseException:
        file.close()
        raise
    return rows


def read_samples(path: Path) -> Samples:
    """Read a samples file as a whole; raises as :func:`open_samples` does."""
    with closing(open_samples(path)) as stored:
        features = stored.features[np.arange(len(stored))]
        arrays = {name: getattr(stored, name) for name in ("label", "image", "y", "x")}
        return Samples(features, **arrays, image_ids=stored.image_ids, drawing=stored.drawing)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[h5py.File, Identity, _Details]]:
    file, identity, details = open_described(path, "samples")
    with file:
        try:
            checked = _Details.model_validate(details)
            checked.drawing.features.select(identity.tap_names)
        except ValueError as error:
            raise CacheDamagedError(f"{path}: its header is damaged; {REMEDY}") from error
        yield file, identity, checked


def _forms(
    identity: Identity, details: _Details
) -> dict[str, tuple[type[Any], tuple[int, ...] | None]]:
    """Give the types and shapes that the arrays must have; of image ids there is any number."""
    features, count = details.drawing.features, details.count
    channels = sum(features.channels(identity.tap_names, identity.tap_channels))
    return {
        "features": (np.float32, (count, channels)),
        "label": (np.uint8, (count,)),
        **dict.fromkeys(("image", "y", "x"), (np.int64, (count,))),
        "image_ids": (np.bytes_, None),
    }


def _require_sense(samples: StoredSamples, identity: Identity) -> None:
    """Refuse what can be no samples of this cache, whatever its digests say."""
    image_ids, image = samples.image_ids, samples.image
    if len(set(image_ids)) < len(image_ids) or not all(map(is_plain, image_ids)):
        raise ValueError("ids that are none")
    if not len(samples):
        return
    if not 0 <= image.min() <= image.max() < len(image_ids):
        raise ValueError("samples of images that are not listed")
    if samples.label.max() >= len(identity.classes):
        raise ValueError("labels that are no classes")
    if min(samples.y.min(), samples.x.min()) < 0:
        raise ValueError("pixels that are none")


def _sources_digest(sources: Mapping[str, Sources]) -> str:
    hasher = xxhash.xxh3_128()
    for image_id, digests in sources.items():
        hasher.update(f"{image_id} {sorted(digests.items())}\n".encode())
    return hasher.hexdigest()
