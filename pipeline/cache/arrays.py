"""Arrays in HDF5 files with digests: whatever a file claims is checked before it is read."""

from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import set_text

_DIGEST_LENGTH = 32
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF)
_MOST_DEFLATE = 1032
"""More bytes than this for one byte in the file none of these filters can give (zlib's limit)."""


def write_array(
    group: h5py.Group, name: str, stored: StoredArray, compression: str | None = None
) -> None:
    """Write an array and its digest."""
    dataset = group.create_dataset(name, data=stored.values, compression=compression)
    set_digest(dataset, stored.digest)
    if stored.scale is not None:
        dataset.attrs["scale"] = stored.scale


def set_digest(dataset: h5py.Dataset, digest: str) -> None:
    """Store the digest of a dataset's values, bound to its place."""
    set_text(dataset.attrs, "xxh3", place_digest(dataset.name, digest))


def place_digest(place: str, digest: str) -> str:
    """Bind a digest to the path of a dataset, since HDF5 does not notice swapped headers."""
    return xxhash.xxh3_128_hexdigest(f"{place} {digest}".encode())


def own_array(group: h5py.Group, name: str) -> h5py.Dataset:
    """Get a dataset that can be read without taking more memory than its file can fill.

    Raises
    ------
    ValueError, KeyError, OSError, RuntimeError, TypeError
        What ``UNREADABLE`` of :mod:`pipeline.cache.files` lists, if it is damaged, not stored in
        the file itself, or of no type of ours.
    """
    dataset = own_member(group, name, h5py.Dataset)
    layout = dataset.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise ValueError("its values lie in another file")
    if dataset.dtype.kind not in "iufS":
        raise ValueError(f"values of type {dataset.dtype}")
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    if filters and (len(filters) > 1 or filters[0] not in _FILTERS):
        raise ValueError(f"values behind the filters {filters}")
    chunk = layout.get_chunk() if filters else ()
    if any(c > d for c, d in zip(chunk, dataset.shape, strict=False)):
        raise ValueError(f"{dataset.shape} values in pieces of {chunk}")  # read as a whole
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored * (_MOST_DEFLATE if filters else 1):
        raise ValueError(f"{dataset.shape} values in {stored} bytes")
    return dataset


@dataclass(frozen=True)
class Unchecked:
    """An array as it was read, and the digest that its file has of it."""

    array: StoredArray
    place: str
    digest: bytes

    def check(self) -> None:
        """Compare the two; this may be done in another thread.

        Raises
        ------
        ValueError
            If they do not match.
        """
        if place_digest(self.place, self.array.digest).encode() != self.digest:
            raise ValueError("it does not match its digest")


def require_digest(dataset: h5py.Dataset, digest: str) -> None:
    """Compare the digest of values that were read in another way with the one in the file.

    Raises
    ------
    ValueError
        If they do not match.
    """
    if place_digest(dataset.name, digest).encode() != _stored_digest(dataset):
        raise ValueError("it does not match its digest")


def read_unchecked(dataset: h5py.Dataset) -> Unchecked:
    """Read what :func:`own_array` gave; it is not to be used before it has been checked.

    Raises
    ------
    ValueError, KeyError, OSError, RuntimeError, TypeError
        What :data:`pipeline.cache.files.UNREADABLE` lists, if it is damaged.
    """
    scale = _scale(dataset) if dataset.dtype == np.int8 else None
    return Unchecked(StoredArray(dataset[()], scale), dataset.name, _stored_digest(dataset))


def read_array(dataset: h5py.Dataset) -> StoredArray:
    """Read what :func:`own_array` gave, and check it against its digest.

    Raises
    ------
    ValueError, KeyError, OSError, RuntimeError, TypeError
        What :data:`pipeline.cache.files.UNREADABLE` lists, if it is damaged.
    """
    found = read_unchecked(dataset)
    found.check()
    return found.array


def _scale(dataset: h5py.Dataset) -> NDArray[np.float32]:
    attribute = dataset.attrs.get_id("scale")
    if attribute.dtype != np.float32 or attribute.shape != dataset.shape[:1]:
        raise ValueError("its scale is not one number for each channel")
    scale = np.zeros(attribute.shape, np.float32)
    attribute.read(scale)
    return scale


def _stored_digest(dataset: h5py.Dataset) -> bytes:
    """Read a digest the short way: the long one takes as long as the digest itself."""
    attribute = h5py.h5a.open(dataset.id, b"xxh3")
    if attribute.shape != ():
        raise ValueError("it has no digest")
    value = np.zeros((), f"S{_DIGEST_LENGTH}")
    attribute.read(value)
    return bytes(value[()])


def own_member(group: h5py.Group, name: str, kind: type[Any]) -> Any:
    """Get a member of a group that lies in the same file, not behind a link to elsewhere."""
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{name} is a link to elsewhere")
    member = group[name]
    if not isinstance(member, kind):
        raise ValueError(f"{name} is not a {kind.__name__.lower()}")
    return member
