"""What a stored estimator may take of memory and time, looked at before anything is built.

An estimator is a zip archive of arrays and of ``schema.json``, a tree of nodes. Packed bytes, an
array's header, a part that many nodes name, or a node that stands for a larger one could each make
gigabytes, or hours, of a few kilobytes. What :mod:`skops.io` writes does none of this.
"""

import json
from collections.abc import Hashable
from io import BytesIO
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from numpy.lib import format as npy

_SCHEMA = "schema.json"
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_archive(data: bytes) -> None:
    """Refuse an archive from which more would come than it holds.

    Raises
    ------
    ValueError
        If it does not hold its parts as they are, an array's header promises other numbers than
        follow, or a node or a part stands for another.
    Exception
        What :mod:`zipfile`, :mod:`json` and :mod:`numpy` raise if it is damaged.
    """
    with ZipFile(BytesIO(data)) as archive:
        parts = archive.infolist()
        if any(part.compress_type != ZIP_STORED for part in parts):
            raise ValueError("its parts are packed")
        if sum(part.file_size for part in parts) > len(data):
            raise ValueError("its parts overlap")
        for part in parts:
            _check_array(archive.read(part))
        _count(json.loads(archive.read(_SCHEMA)), {}, {})


def _check_array(content: bytes) -> None:
    if content.startswith(b"PK"):
        raise ValueError("it holds another archive")
    if not content.startswith(npy.MAGIC_PREFIX):
        return
    file = BytesIO(content)
    shape, _, dtype = _HEADERS[npy.read_magic(file)](file)
    count = 1
    for length in shape:
        count *= length
    if count * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"an array of shape {shape} is cut short")


def _count(value: Any, sizes: dict[Hashable, int], owners: dict[Hashable, Hashable]) -> int:
    """Count the nodes below a value; one that is named again must be written out again."""
    if isinstance(value, list):
        return sum(_count(item, sizes, owners) for item in value)
    if not isinstance(value, dict):
        return 0
    size = 1 + sum(_count(item, sizes, owners) for item in value.values())
    name = value.get("__id__")
    if name is not None and sizes.setdefault(name, size) != size:
        raise ValueError("a node stands for another")
    part = value.get("file")
    if isinstance(part, str) and (not name or owners.setdefault(part, name) != name):
        raise ValueError("several nodes name a part")
    return size
