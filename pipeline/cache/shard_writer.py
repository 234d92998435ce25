"""Writing shards.

Through HDF5's own interface rather than h5py's classes, and with as few calls as will do: those
took as long as a third of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray

from pipeline.cache.computed import arrays_of
from pipeline.cache.deflating import LEVEL, deflate
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import set_text
from pipeline.cache.headers import ShardDetails, Skipped
from pipeline.cache.interrupts import uninterrupted
from pipeline.cache.layout import (
    DEFLATED,
    DETAILS,
    IDENTITY,
    PLAIN,
    ROW,
    TABLE,
    Extent,
    Form,
    Front,
    Row,
    array_names,
    header_digest,
    place_digest,
)
from pipeline.cache.shards import ShardPlan, StoredImage
from pipeline.cache.whole_hdf5 import chunk_offset, written_hdf5
from pipeline.identity import FORMAT, FORMAT_VERSION, Identity

if TYPE_CHECKING:
    from pipeline.hypercolumn import FirstConvolution


@dataclass
class ShardWriter:
    """A shard in the making; :func:`written_shard` opens one.

    Attributes
    ----------
    skipped : dict of image id to reason
        To be filled by the caller.
    """

    file: h5py.File
    plan: ShardPlan
    identity: Identity
    compression: str | None
    first: FirstConvolution | None
    skipped: dict[str, str] = field(default_factory=dict)
    _written: list[str] = field(default_factory=list)
    _rows: list[bytes] = field(default_factory=list)

    @uninterrupted()
    def add(self, image: StoredImage) -> None:
        """Write an image; the images of a shard come in the order of its plan."""
        arrays = dict(image.arrays)
        names = array_names(self.identity)
        if "scales" in names:
            scales = (arrays[tap.name].scale for tap in self.identity.stored_taps)
            arrays["scales"] = StoredArray(np.concatenate([s for s in scales if s is not None]))
        # Masks shrink to a few per cent, and this one is read once per evaluation.
        deflated = names if self.compression else ["label_original"]
        layout = h5p.create(h5p.GROUP_CREATE)
        layout.set_obj_track_times(False)  # the same images give the same bytes
        group = h5g.create(self.file.id, image.image_id.encode(), gcpl=layout)
        for name in names:
            write = _write_deflated if name in deflated else _write_plain
            self._note(image.image_id, name, write(group, name, arrays[name]))
        self._written.append(image.image_id)

    def _note(self, image_id: str, name: str, written: _Written) -> None:
        offset, form, content = written
        digest = place_digest(image_id, name, form)
        digest.update(content)
        self._rows.append(Row(offset, form, digest.digest()).pack())

    @uninterrupted()
    def finish(self, dataset: str, software: Mapping[str, str]) -> Front:
        """Write what the shard says about itself, and where its arrays lie.

        Returns
        -------
        Front
            Of a file whose size is not known yet.
        """
        set_text(self.file.attrs, "format", FORMAT)
        self.file.attrs["format_version"] = FORMAT_VERSION
        set_text(self.file.attrs, "kind", "shard")
        set_text(self.file.attrs, "fingerprint", self.identity.fingerprint)
        if self.first is not None:
            root = h5g.open(self.file.id, b"/")
            for name, array in arrays_of(self.first).items():
                self._note("", name, _write_plain(root, name, array))
        identity = self.identity.model_dump_json().encode()
        details = self._details(dataset, software).model_dump_json().encode()
        table = np.frombuffer(b"".join(self._rows), ROW)
        return Front(
            self._put(IDENTITY, np.bytes_(identity)),
            self._put(DETAILS, np.bytes_(details)),
            self._put(TABLE, table),
            size=0,
            header_digest=header_digest(identity, details),
        )

    def _put(self, name: str, values: Any) -> Extent:
        dataset = self.file.create_dataset(name, data=values)
        return Extent(dataset.id.get_offset() or 0, values.nbytes)

    def _details(self, dataset: str, software: Mapping[str, str]) -> ShardDetails:
        sources = self.plan.sources
        return ShardDetails(
            split=self.plan.split,
            part=self.plan.part,
            parts=self.plan.parts,
            images={image_id: dict(sources[image_id]) for image_id in self._written},
            skipped={
                image_id: Skipped(reason=reason, sources=dict(sources[image_id]))
                for image_id, reason in self.skipped.items()
            },
            dataset=dataset,
            software=dict(software),
        )


@contextmanager
def written_shard(
    plan: ShardPlan,
    identity: Identity,
    *,
    dataset: str,
    software: Mapping[str, str],
    compression: str | None = None,
    first: FirstConvolution | None = None,
) -> Iterator[ShardWriter]:
    """Open a shard for writing that takes its place only when the block has ended well.

    What dead runs left of it stays: to look for that, the names of all shards are read, which is
    too much for each of very many.

    Parameters
    ----------
    plan : ShardPlan
        Where it shall be, and which images it is to hold.
    identity : Identity
        What the features were made with.
    dataset : str
        Name of the data set's folder.
    software : mapping
        Versions.
    compression : {None, "gzip"}
        HDF5 filter for all arrays.
    first : FirstConvolution, optional
        What gives the first tap, if the identity says that it is not stored.

    Raises
    ------
    SpaceError
        If the disk is full.
    """
    found: list[Front] = []
    with written_hdf5(
        plan.path, lambda size: replace(found[0], size=size).pack(), tidied=True
    ) as file:
        writer = ShardWriter(file, plan, identity, compression, first)
        yield writer
        found.append(writer.finish(dataset, software))


_Written: TypeAlias = tuple[int, bytes, Any]
"""The offset of an array in the file, its packed form, and what was written."""


def _write_plain(group: h5g.GroupID, name: str, array: StoredArray) -> _Written:
    values = np.ascontiguousarray(array.values)
    dataset = _create(group, name, values, PLAIN)
    dataset.write(h5s.ALL, h5s.ALL, values)
    form = Form(values.nbytes, values.shape, values.dtype, PLAIN)
    return dataset.get_offset(), form.pack(), values.data


def _write_deflated(group: h5g.GroupID, name: str, array: StoredArray) -> _Written:
    """Write an array as one chunk, which need not go through HDF5's filters."""
    values = array.values
    content = deflate(values) if array.deflated is None else array.deflated
    dataset = _create(group, name, values, DEFLATED)
    dataset.write_direct_chunk((0,) * values.ndim, content)
    form = Form(len(content), values.shape, values.dtype, DEFLATED)
    return chunk_offset(dataset), form.pack(), content


def _create(group: h5g.GroupID, name: str, values: NDArray[Any], filter_: int) -> h5d.DatasetID:
    layout = _layout()
    if filter_ == DEFLATED:
        layout = layout.copy()
        layout.set_chunk(values.shape)
        layout.set_deflate(LEVEL)
    space = h5s.create_simple(values.shape)
    return h5d.create(group, name.encode(), _kind(values.dtype), space, layout)


@cache
def _layout() -> h5p.PropDCID:
    layout = h5p.create(h5p.DATASET_CREATE)
    layout.set_obj_track_times(False)
    layout.set_fill_time(h5d.FILL_TIME_NEVER)
    return layout


@cache
def _kind(dtype: np.dtype[Any]) -> h5t.TypeID:
    return h5t.py_create(dtype)
