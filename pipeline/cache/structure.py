"""Whether HDF5 finds in a shard what the table says: for those who open it with other programs.

Nothing is read here but what HDF5 keeps of its own; the values are compared with their digests by
whoever reads them.
"""

from collections.abc import Iterator

import h5py
import numpy as np
from h5py import h5, h5d, h5z

from pipeline.cache.arrays import own_member
from pipeline.cache.files import (
    UNREADABLE,
    damaged,
    get_number,
    get_text,
    open_readable,
)
from pipeline.cache.forms import Forms
from pipeline.cache.handles import ShardFile
from pipeline.cache.headers import ShardHeader
from pipeline.cache.layout import DEFLATED, DETAILS, IDENTITY, ROW, TABLE, Extent, Form, shard_names
from pipeline.cache.whole_hdf5 import chunk_offset
from pipeline.errors import CacheError
from pipeline.identity import FORMAT, FORMAT_VERSION


def check_structure(header: ShardHeader) -> None:
    """Compare what HDF5 finds in a shard with its table.

    Raises
    ------
    CacheDamagedError
        If it is not the same, or HDF5 cannot read it.
    CacheError
        If the file cannot be opened, or is another one by now.
    """
    path, place = header.path, "/"
    try:
        with open_readable(path) as file:
            _require_root(file, header)
            for image_id, forms in _forms(header):
                place = image_id
                group = own_member(file, image_id, h5py.Group) if image_id else file
                if image_id and {*group} != {*forms}:
                    raise ValueError("it has other members")
                for name, (offset, form) in forms.items():
                    place = f"{image_id}/{name}".removeprefix("/")
                    _require_array(own_member(group, name, h5py.Dataset), offset, form)
    except CacheError:
        raise
    except UNREADABLE as error:
        raise damaged(path, f"{place} is damaged for HDF5", error) from error


def _forms(header: ShardHeader) -> Iterator[tuple[str, dict[str, tuple[int, Form]]]]:
    """Give the offsets and forms of every image's arrays, by their names, and those of no image."""
    file, forms = ShardFile(header.path), Forms(header.identity)
    if file.front != header.front:
        raise ValueError("it has been written anew")
    start = 0
    owners = [*((i, forms.names) for i in header.details.images), ("", forms.of_shard)]
    for image_id, names in owners:
        rows = zip(names, file.rows(start, len(names)), strict=True)
        yield image_id, {name: (row.offset, forms.of(name, row.form)) for name, row in rows}
        start += len(names)


def _require_root(file: h5py.File, header: ShardHeader) -> None:
    texts = {"format": FORMAT, "kind": "shard", "fingerprint": header.identity.fingerprint}
    for name, text in texts.items():
        if get_text(file.attrs, name) != text:
            raise ValueError(f"its attribute {name} is another one")
    if get_number(file.attrs, "format_version") != FORMAT_VERSION:
        raise ValueError("its attribute format_version is another one")
    front = header.front
    parts = {IDENTITY: front.identity, DETAILS: front.details, TABLE: front.table}
    expected = {*parts, *shard_names(header.identity), *header.details.images}
    in_order: list[bytes] = []  # of which HDF5 keeps another index
    file.id.links.iterate(in_order.append, idx_type=h5.INDEX_CRT_ORDER, order=h5.ITER_NATIVE)
    if {*file} != expected or {name.decode() for name in in_order} != expected:
        raise ValueError("it has other members")
    for name, part in parts.items():
        dataset = own_member(file, name, h5py.Dataset)
        kind = ROW if name == TABLE else np.dtype(f"S{part.bytes}")
        shape = (header.rows,) if name == TABLE else ()
        if dataset.dtype != kind or dataset.shape != shape:
            raise ValueError(f"{name} is something else")
        if part.bytes and _contiguous(dataset.id) != part:
            raise ValueError(f"{name} lies elsewhere")


def _require_array(dataset: h5py.Dataset, offset: int, form: Form) -> None:
    if dataset.dtype != form.dtype or dataset.shape != form.shape:
        raise ValueError(f"{dataset.dtype} values of shape {dataset.shape}")
    found = _only_chunk if form.filter == DEFLATED else _contiguous
    if found(dataset.id) != Extent(offset, form.bytes):
        raise ValueError("it lies elsewhere")


def _contiguous(dataset: h5d.DatasetID) -> Extent:
    layout = dataset.get_create_plist()
    if layout.get_layout() != h5d.CONTIGUOUS or layout.get_external_count():
        raise ValueError("its values lie in another way")
    return Extent(dataset.get_offset() or 0, dataset.get_storage_size())


def _only_chunk(dataset: h5d.DatasetID) -> Extent:
    layout = dataset.get_create_plist()
    if layout.get_layout() != h5d.CHUNKED or layout.get_chunk() != dataset.shape:
        raise ValueError("its values lie in another way")
    if layout.get_nfilters() != 1 or layout.get_filter(0)[0] != h5z.FILTER_DEFLATE:
        raise ValueError("its values lie behind another filter")
    if dataset.get_num_chunks() != 1:
        raise ValueError("it is not one chunk")
    return Extent(chunk_offset(dataset), dataset.get_chunk_info(0).size)
