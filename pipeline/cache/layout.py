"""What a shard looks like to whoever reads it without HDF5.

A shard begins with 512 bytes that HDF5 calls a userblock and leaves alone. They say where in the
file the identity, the details and the table lie, and vouch for the first two. The table has a row
for each array: where it lies, what it is, and a digest over the names of image and array, what it
is, and its bytes as they are stored. So the table needs no digest of its own: no row is of use in
the place of another, and one that leads elsewhere leads to other bytes.

All numbers are little-endian. To HDF5, the three parts are datasets, as the arrays are.
"""

import builtins
import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import xxhash

from pipeline.identity import FORMAT, FORMAT_VERSION, Identity

USERBLOCK = 512
IDENTITY, DETAILS, TABLE = "\\identity", "\\details", "\\table"
KERNEL, BIAS, VALUES = "\\kernel", "\\bias", "\\values"
"""Names of the datasets of a shard that are no images: no image has a backslash in its name."""

PLAIN, DEFLATED = 0, 1
MOST_DEFLATE = 1032
"""More bytes than this for one byte in the file deflating cannot give."""

_BEGIN = struct.Struct("<24sI4x")
_MAGIC = FORMAT.encode().ljust(24, b"\0")
_FRONT = struct.Struct("<QQQQQQQ16s")
_DIGEST = 16
_ROW = struct.Struct("<Q24s16s")
_FORM = struct.Struct("<QIII3sB")
_DTYPES = {dtype.str.encode(): dtype for dtype in map(np.dtype, ("u1", "i1", "f2", "f4"))}

ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("bytes", "<u8"),
        ("shape", "<u4", (3,)),
        ("dtype", "S3"),
        ("filter", "u1"),
        ("xxh3", "u1", (_DIGEST,)),
    ]
)
"""A row of the table as HDF5 sees it."""


class Extent(NamedTuple):
    """A part of a file."""

    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Front:
    """What the userblock says.

    Attributes
    ----------
    identity, details, table : Extent
        Where they lie.
    size : int
        Bytes of the whole file.
    header_digest : bytes
        See :func:`header_digest`.
    """

    identity: Extent
    details: Extent
    table: Extent
    size: int
    header_digest: bytes

    def pack(self) -> bytes:
        """Give the userblock."""
        fields = (*self.identity, *self.details, *self.table, self.size, self.header_digest)
        begin = _BEGIN.pack(_MAGIC, FORMAT_VERSION) + _FRONT.pack(*fields)
        begin = begin.ljust(USERBLOCK - _DIGEST, b"\0")
        return begin + xxhash.xxh3_128_digest(begin)

    @classmethod
    def unpack(cls, block: bytes) -> "Front":
        """Read a userblock of which :func:`version_of` said that it is of this version.

        Raises
        ------
        ValueError
            If it says what cannot be.
        """
        fields = _FRONT.unpack_from(block, _BEGIN.size)
        identity, details, table = (Extent(*fields[at : at + 2]) for at in (0, 2, 4))
        size, digest = fields[6:]
        for part in (identity, details, table):
            require_inside(*part, size)
        return cls(identity, details, table, size, digest)


def version_of(block: bytes) -> int | None:
    """Tell by its userblock which version of a shard a file is; None if it is none.

    Raises
    ------
    ValueError
        If it is damaged. Whatever else changes, the first two fields and the digest stay.
    """
    begin, digest = block[:-_DIGEST], block[-_DIGEST:]
    if len(block) != USERBLOCK or not block.startswith(_MAGIC):
        return None
    if xxhash.xxh3_128_digest(begin) != digest:
        raise ValueError("its first bytes do not match their digest")
    return int(_BEGIN.unpack_from(block)[1])


def header_digest(identity: bytes, details: bytes) -> bytes:
    """Digest what a shard says about itself."""
    hasher = xxhash.xxh3_128(struct.pack("<Q", len(identity)))
    hasher.update(identity)
    hasher.update(details)
    return hasher.digest()


def require_inside(offset: int, count: int, size: int) -> None:
    """Refuse a part that does not lie in a file of ``size`` bytes, behind the userblock.

    Raises
    ------
    ValueError
        If it does not.
    """
    if count and not USERBLOCK <= offset <= size - count:
        raise ValueError(f"{count} bytes at {offset} in a file of {size}")


class Form(NamedTuple):
    """What an array is.

    Attributes
    ----------
    bytes : int
        Of what is stored, which may be deflated.
    shape : tuple of int
        Of 1, 2 or 3 axes.
    dtype : dtype
    filter : int
        ``PLAIN`` or ``DEFLATED``.
    """

    bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    filter: int

    def pack(self) -> builtins.bytes:
        """Give the form as it lies in the table, with 0 for the axes that are not there."""
        axes = (*self.shape, 0, 0)[:3]
        return _FORM.pack(self.bytes, *axes, self.dtype.str.encode(), self.filter)

    @classmethod
    def unpack(cls, packed: builtins.bytes) -> "Form":
        """Read a form.

        Raises
        ------
        ValueError
            If it has a dtype that there is not.
        """
        size, x, y, z, name, filter_ = _FORM.unpack(packed)
        if (dtype := _DTYPES.get(name)) is None:
            raise ValueError(f"values of type {name!r}")
        return cls(size, (x, y, z) if z else (x, y) if y else (x,), dtype, filter_)


class Row(NamedTuple):
    """Where an array lies, its packed :class:`Form`, and its digest, see :func:`place_digest`."""

    offset: int
    form: bytes
    digest: bytes

    def pack(self) -> bytes:
        """Give the row as it lies in the table."""
        return _ROW.pack(*self)


def unpack_rows(table: bytes) -> list[Row]:
    """Read rows of the table."""
    return [Row(*fields) for fields in _ROW.iter_unpack(table)]


def place_digest(image_id: str, name: str, form: bytes) -> xxhash.xxh3_128:
    """Begin the digest of an array; its bytes, as they are stored, are still to come."""
    return xxhash.xxh3_128(f"{image_id}/{name}\0".encode() + form)


def array_names(identity: Identity) -> list[str]:
    """Name the arrays of an image in the order of the file: what training reads comes first."""
    taps = [tap.name for tap in identity.stored_taps]
    scales = ["scales"] if identity.dtype == "int8" and taps else []
    return [*taps, *scales, "label", "image", "label_original"]


def shard_names(identity: Identity) -> list[str]:
    """Name the arrays that belong to no image, in the order of their rows, behind all others."""
    return [] if identity.recompute_first is None else [KERNEL, BIAS, VALUES]
