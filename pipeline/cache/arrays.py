"""Arrays of samples files with digests: what a file claims is checked before it is read."""

from typing import Any

import h5py
import numpy as np
import xxhash

from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import set_text

_DIGEST_LENGTH = 32


def write_array(group: h5py.Group, name: str, array: StoredArray) -> None:
    """Write an array and its digest."""
    set_digest(group.create_dataset(name, data=array.values), array.digest)


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
    if layout.get_nfilters():
        raise ValueError("values behind a filter")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > stored:
        raise ValueError(f"{dataset.shape} values in {stored} bytes")
    return dataset


def require_digest(dataset: h5py.Dataset, digest: str) -> None:
    """Compare the digest of values that were read in another way with the one in the file.

    Raises
    ------
    ValueError
        If they do not match.
    """
    if place_digest(dataset.name, digest).encode() != _stored_digest(dataset):
        raise ValueError("it does not match its digest")


def read_array(dataset: h5py.Dataset) -> StoredArray:
    """Read what :func:`own_array` gave, and check it against its digest.

    Raises
    ------
    ValueError, KeyError, OSError, RuntimeError, TypeError
        What :data:`pipeline.cache.files.UNREADABLE` lists, if it is damaged.
    """
    array = StoredArray(dataset[()])
    require_digest(dataset, array.digest)
    return array


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
