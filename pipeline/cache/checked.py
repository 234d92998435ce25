"""Arrays of a shard: none is handed out before all that is known of it has been checked."""

from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.cache.deflating import inflate
from pipeline.cache.encoding import StoredArray
from pipeline.cache.files import UNREADABLE, damaged
from pipeline.cache.forms import Forms
from pipeline.cache.handles import Part, ShardFile
from pipeline.cache.layout import DEFLATED, Form, Row, place_digest, require_inside
from pipeline.errors import CacheError


def read_arrays(
    path: Path,
    file: ShardFile,
    image_id: str,
    rows: Mapping[str, Row],
    forms: Forms,
    beside: Executor,
) -> dict[str, StoredArray]:
    """Read arrays by their rows in the table.

    Parameters
    ----------
    path : Path
        The shard, for the message of the error.
    file : ShardFile
    image_id : str
        Whose arrays they are; empty for those that belong to the shard.
    rows : mapping of name to Row
        In the order of the file.
    forms : Forms
        What they can be.
    beside : Executor
        As :meth:`ShardFile.digested` takes it.

    Raises
    ------
    CacheDamagedError
        If one is not what was written.
    """
    name = ""
    wanted: dict[str, Form] = {}
    arrays: dict[str, StoredArray] = {}
    try:
        parts = []
        for name, row in rows.items():
            wanted[name] = form = forms.of(name, row.form)
            require_inside(row.offset, form.bytes, file.front.size)
            digest = place_digest(image_id, name, row.form)
            parts.append(Part(row.offset, form.bytes, digest))
        contents = file.digested(parts, beside)
        for name, content, part in zip(rows, contents, parts, strict=True):
            if part.digest.digest() != rows[name].digest:
                raise ValueError("it does not match its digest")
            arrays[name] = stored = _stored(content, wanted[name])
            forms.require_values(name, stored.values)
    except CacheError:  # some of which are errors of the system as well
        raise
    except UNREADABLE as error:
        raise damaged(path, f"{image_id}/{name} is damaged".removeprefix("/"), error) from error
    return arrays


def _stored(content: NDArray[np.uint8], form: Form) -> StoredArray:
    """Make an array of its bytes as they are stored."""
    if form.filter == DEFLATED:
        return StoredArray(inflate(content.data, form.dtype, form.shape), deflated=content)
    return StoredArray(content.view(form.dtype).reshape(form.shape))
