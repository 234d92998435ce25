"""Reading a cache: what it holds, and values that have been checked against their digests."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pipeline.cache.encoding import decode, digest
from pipeline.cache.files import REMEDY, UNREADABLE, open_described
from pipeline.errors import CacheDamagedError, CacheMismatchError, CacheNotFoundError
from pipeline.identity import Identity

_SHARD_NAME = re.compile(r"(?P<split>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.h5")
_OPEN_FILES = 8


@dataclass
class _Handles:
    """A few open files, reopened in every process: HDF5 handles survive neither fork nor pickle."""

    files: "OrderedDict[Path, h5py.File]" = field(default_factory=OrderedDict)
    process: int = field(default_factory=os.getpid)

    def get(self, path: Path) -> h5py.File:
        if self.process != os.getpid():
            self.files, self.process = OrderedDict(), os.getpid()
        if path in self.files:
            self.files.move_to_end(path)
        else:
            self.files[path] = open_described(path, "shard")[0]
            if len(self.files) > _OPEN_FILES:
                self.files.popitem(last=False)[1].close()
        return self.files[path]

    def close(self) -> None:
        if self.process == os.getpid():
            for file in self.files.values():
                file.close()
        self.files.clear()

    def __reduce__(self) -> tuple[type["_Handles"], tuple[()]]:
        return _Handles, ()


class FeatureCache:
    """A directory of shards that were all made in one way.

    Parameters
    ----------
    path : Path or str
        The cache's directory.

    Attributes
    ----------
    identity : Identity
        What its features were made with.
    splits : dict of str to CachedSplit

    Raises
    ------
    CacheNotFoundError
        If there is no cache at ``path``.
    CacheMismatchError
        If shards of different identities, or parts of different divisions, lie side by side.
    CacheDamagedError
        If a shard's header cannot be trusted.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.parts, found = _find_shards(self.path)
        opened = {split: [_ShardHeader.read(file) for file in found[split]] for split in found}
        self.identity = next(iter(opened.values()))[0].identity
        self._handles = _Handles()
        self.splits: dict[str, CachedSplit] = {}
        for split, shards in opened.items():
            for shard in shards:
                if differences := shard.identity.differences(self.identity):
                    raise CacheMismatchError(
                        f"{shard.path}: made otherwise than the shards beside it "
                        f"({'; '.join(differences)}); {REMEDY}"
                    )
            present = {int(shard.path.name.split("-")[-3]) for shard in shards}
            self.splits[split] = CachedSplit(
                name=split,
                where={i: shard.path for shard in shards for i in shard.image_ids},
                skipped=tuple(i for shard in shards for i in shard.details["skipped"]),
                missing_parts=tuple(sorted(set(range(self.parts[split])) - present)),
                details=shards[-1].details,
                identity=self.identity,
                _handles=self._handles,
            )

    def __getitem__(self, split: str) -> "CachedSplit":
        """Give a split that is complete.

        Raises
        ------
        CacheNotFoundError
            If the cache does not hold the split, or not all of it yet.
        """
        if split not in self.splits:
            raise CacheNotFoundError(
                f"{self.path}: no split '{split}'; it holds {', '.join(self.splits)}"
            )
        if missing := self.splits[split].missing_parts:
            raise CacheNotFoundError(
                f"{self.path}: split '{split}' is not complete, {len(missing)} of "
                f"{self.parts[split]} shards are missing; run 'pipeline extract' again"
            )
        return self.splits[split]

    def require(self, expected: Identity, *, what: str) -> None:
        """Refuse to be used for ``what`` unless this cache was made with ``expected``.

        Raises
        ------
        CacheMismatchError
            Naming every field that differs.
        """
        if differences := self.identity.differences(expected):
            raise CacheMismatchError(
                f"{self.path}: {what} needs a cache made otherwise ({'; '.join(differences)})"
            )

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        self._handles.close()


@dataclass(frozen=True)
class _ShardHeader:
    """What a shard says about itself, and the images it holds."""

    path: Path
    identity: Identity
    details: dict[str, Any]
    image_ids: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "_ShardHeader":
        file, identity, details = open_described(path, "shard")
        with file:
            return cls(path, identity, details, tuple(file))


def _find_shards(directory: Path) -> tuple[dict[str, int], dict[str, list[Path]]]:
    """Give for each split in how many parts it was divided, and the parts that are there."""
    if not directory.is_dir():
        raise CacheNotFoundError(f"{directory}: no cache there; run 'pipeline extract' first")
    parts: dict[str, int] = {}
    shards: dict[str, list[Path]] = {}
    for file in sorted(directory.glob("*-of-*.h5")):
        if not (match := _SHARD_NAME.fullmatch(file.name)):
            continue
        split, expected = match["split"], int(match["parts"])
        if parts.setdefault(split, expected) != expected:
            raise CacheMismatchError(
                f"{file}: split {split} lies there in {parts[split]} parts as well; "
                "run 'pipeline extract --replace' to remove the other division"
            )
        shards.setdefault(split, []).append(file)
    if not shards:
        raise CacheNotFoundError(f"{directory}: holds no shards; run 'pipeline extract' first")
    return parts, shards


@dataclass
class CachedSplit:
    """The images of one split, in the order of the split file.

    Every read checks the value against its digest and raises :class:`CacheDamagedError` rather than
    return a wrong one.
    """

    name: str
    where: dict[str, Path]
    skipped: tuple[str, ...]
    missing_parts: tuple[int, ...]
    details: dict[str, Any]
    identity: Identity
    _handles: _Handles

    @property
    def image_ids(self) -> tuple[str, ...]:
        """Ids of the images, in order."""
        return tuple(self.where)

    def __len__(self) -> int:
        return len(self.where)

    def maps(self, image_id: str, taps: Sequence[str]) -> list[NDArray[np.float32]]:
        """Read feature maps (C, h, w), in float32."""
        return [decode(*self._read(image_id, tap)) for tap in taps]

    def label(self, image_id: str, *, void_as_background: bool = False) -> NDArray[np.uint8]:
        """Read the label (H, W) at the network's input size, with void as class 0 if asked for."""
        label: NDArray[np.uint8] = self._read(image_id, "label")[0]
        if void_as_background:
            label[label == self.identity.void] = 0
        return label

    def label_original(self, image_id: str) -> NDArray[np.uint8]:
        """Read the label (H0, W0) at the image's original size."""
        return self._read(image_id, "label_original")[0]

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """Read the network's input (H, W, 3) before normalisation."""
        return self._read(image_id, "image")[0]

    def size(self, image_id: str) -> tuple[int, int]:
        """Give an image's size (H, W) as the backbone saw it."""
        with self._damage_named(image_id, "label") as group:
            height, width = group["label"].shape
        return int(height), int(width)

    def sources(self, image_id: str) -> dict[str, str]:
        """Give the digests of the files an image was made from."""
        with self._damage_named(image_id) as group:
            return {key: str(value) for key, value in group.attrs.items()}

    def arrays(self, image_id: str) -> Iterator[tuple[str, NDArray[Any]]]:
        """Read everything that is stored for an image: names and arrays, as stored."""
        with self._damage_named(image_id) as group:
            names = tuple(group)
        for name in names:
            yield name, self._read(image_id, name)[0]

    def _read(self, image_id: str, name: str) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        with self._damage_named(image_id, name) as group:
            dataset = group[name]
            stored, scale = dataset[()], dataset.attrs.get("scale")
            if digest(stored, scale) != dataset.attrs["xxh3"]:
                raise ValueError("another digest")
        return stored, scale

    @contextmanager
    def _damage_named(self, image_id: str, name: str = "") -> Iterator[h5py.Group]:
        """Give an image's group; what h5py raises becomes an error that says where."""
        if image_id not in self.where:
            raise CacheNotFoundError(f"split '{self.name}' of the cache has no image '{image_id}'")
        path = self.where[image_id]
        file = self._handles.get(path)
        try:
            yield file[image_id]
        except UNREADABLE as error:
            what = f"{image_id}/{name}" if name else image_id
            raise CacheDamagedError(f"{path}: {what} is damaged; {REMEDY}") from error
