"""Hypercolumns that stay on the disk: a classifier reads those of one batch at a time."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.cache.encoding import new_digest
from pipeline.cache.pixels import Drawing, Samples
from pipeline.errors import CacheDamagedError, cannot_write

_BLOCK_BYTES = 1 << 22


class FeatureRows:
    """Hypercolumns (n, D) of float32 in a file, of which only what is asked for is in memory.

    All rows are read once when this is made, and a digest of each is kept: every row that is read
    later is compared with its own.

    Parameters
    ----------
    file : binary file
        Unbuffered, and open for reading. It is closed with this.
    offset : int
        Where the first row begins.
    shape : tuple of int
        (n, D). The rows lie one behind the other.
    what : str
        The line of the error for rows that are not, or no longer, what they were.

    Attributes
    ----------
    shape : tuple of int
    digest : str
        Of all of them, as of a :class:`~pipeline.cache.encoding.StoredArray`.

    Raises
    ------
    CacheDamagedError
        If the file ends early or cannot be read.
    """

    def __init__(self, file: BinaryIO, offset: int, shape: tuple[int, int], *, what: str) -> None:
        self._file, self._offset, self._what = file, offset, what
        self.shape = shape
        self._digests = np.zeros(shape[0], np.uint64)
        whole = new_digest(np.dtype(np.float32), shape)
        for start, end in self._blocks(0, shape[0]):
            block = self._read(start, end)
            whole.update(block.data)
            self._digests[start:end] = _digests_of(block)
        self.digest = whole.hexdigest()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read rows.

        Parameters
        ----------
        index : array of int64, shape (k,)
            Which ones, in any order. Neighbours in a row are read in one go.

        Returns
        -------
        array of float32, shape (k, D)

        Raises
        ------
        CacheDamagedError
            If one of them is not what it was.
        """
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"rows from {index.min()} to {index.max()} of {len(self)}")
        rows = np.empty((len(index), self.shape[1]), np.float32)
        breaks = np.flatnonzero(np.diff(index) != 1) + 1
        for run in pairwise((0, *breaks.tolist(), len(index))):
            for start, end in self._blocks(*run):
                first = int(index[start])
                rows[start:end] = self._read(first, first + end - start)
        if not np.array_equal(_digests_of(rows), self._digests[index]):
            raise CacheDamagedError(self._what)
        return rows

    def _blocks(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        rows = max(1, _BLOCK_BYTES // (4 * self.shape[1]))
        return ((first, min(first + rows, end)) for first in range(start, end, rows))

    def _read(self, start: int, end: int) -> NDArray[np.float32]:
        stride = 4 * self.shape[1]
        size = (end - start) * stride
        try:
            data = os.pread(self._file.fileno(), size, self._offset + start * stride)
        except OSError as error:
            raise CacheDamagedError(f"{self._what} ({error.strerror})") from error
        if len(data) < size:
            raise CacheDamagedError(self._what)
        return np.frombuffer(data, np.float32).reshape(end - start, self.shape[1])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _digests_of(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    digests = (xxhash.xxh3_64_intdigest(row.data) for row in rows)
    return np.fromiter(digests, np.uint64, len(rows))


@dataclass(frozen=True)
class StoredSamples:
    """Pixel samples as :class:`~pipeline.cache.pixels.Samples`, their hypercolumns on the disk."""

    features: FeatureRows
    label: NDArray[np.uint8]
    image: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    image_ids: tuple[str, ...]
    drawing: Drawing

    def __len__(self) -> int:
        return len(self.label)

    def close(self) -> None:
        """Close the file of the hypercolumns."""
        self.features.close()


def put_aside(parts: Iterable[Samples], folder: Path) -> StoredSamples:
    """Keep samples for as long as they are needed, their hypercolumns in a file without a name.

    Parameters
    ----------
    parts : iterable of Samples
        One or more, drawn in the same way, of different images.
    folder : Path
        On the disk to write to.

    Raises
    ------
    SpaceError
        If the disk is full.
    WriteError
        If it cannot be written for another reason.
    """
    kept: list[Samples] = []
    with ExitStack() as opened:
        file = opened.enter_context(_nameless(folder))
        for part in parts:
            _write(file, part.features, folder)
            kept.append(_without_features(part))
        starts = np.cumsum([0, *(len(part.image_ids) for part in kept)])
        images = [part.image + start for part, start in zip(kept, starts[:-1], strict=True)]
        shape = (sum(map(len, kept)), kept[0].features.shape[1])
        what = f"{folder}: samples that were put there for now cannot be read again; run this again"
        samples = StoredSamples(
            features=FeatureRows(file, 0, shape, what=what),
            label=np.concatenate([part.label for part in kept]),
            image=np.concatenate(images),
            y=np.concatenate([part.y for part in kept]),
            x=np.concatenate([part.x for part in kept]),
            image_ids=tuple(image_id for part in kept for image_id in part.image_ids),
            drawing=kept[0].drawing,
        )
        opened.pop_all()
    return samples


def _nameless(folder: Path) -> BinaryIO:
    try:
        return cast(BinaryIO, tempfile.TemporaryFile(buffering=0, dir=folder))
    except OSError as error:
        raise cannot_write(folder, error) from error


def _write(file: BinaryIO, features: NDArray[np.float32], folder: Path) -> None:
    rest = np.ascontiguousarray(features).reshape(-1).view(np.uint8).data
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise cannot_write(folder, error) from error


def _without_features(samples: Samples) -> Samples:
    return replace(samples, features=np.empty((0, samples.features.shape[1]), np.float32))
