"""Opening a cache: what it holds, split by split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cache.cached_split import CachedSplit
from pipeline.cache.handles import Handles
from pipeline.cache.headers import ShardHeader, scan_shards
from pipeline.errors import CacheError, CacheMismatchError, CacheNotFoundError
from pipeline.identity import Identity


class FeatureCache:
    """A directory of shards that were all made in one way.

    Parameters
    ----------
    path : Path or str
        The cache's directory.
    headers : sequence of ShardHeader, optional
        Those of its shards that are to be read; all of them by default.

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

    def __init__(self, path: Path | str, headers: Sequence[ShardHeader] | None = None) -> None:
        self.path = Path(path)
        if headers is None:
            headers, problems = find_shards(self.path)
            if problems:
                raise next(iter(problems.values()))
        self._handles = Handles()
        self.identity = headers[0].identity
        self.splits: dict[str, CachedSplit] = {}
        for header in headers:
            if differences := header.identity.differences(self.identity):
                raise CacheMismatchError(
                    f"{header.path}: made otherwise than the shards beside it "
                    f"({'; '.join(differences)}); run 'pipeline extract --replace'"
                )
            name = header.details.split
            split = self.splits.setdefault(name, CachedSplit(name, self.identity, self._handles))
            split.append(header)

    def __getitem__(self, split: str) -> CachedSplit:
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
        found = self.splits[split]
        if missing := found.missing_parts:
            raise CacheNotFoundError(
                f"{self.path}: split '{split}' is not complete, {len(missing)} of "
                f"{found.parts} shards are missing; run 'pipeline extract' again"
            )
        return found

    def require(self, expected: Identity, *, what: str) -> None:
        """Refuse to be used for ``what`` unless this cache was made with ``expected``.

        Raises
        ------
        CacheMismatchError
            Naming every field that differs.
        """
        if differences := self.identity.differences(expected):
            raise CacheMismatchError(
                f"{self.path}: {what} needs a cache made otherwise ({'; '.join(differences)}); "
                "use the cache it was made from, or make it again from this one"
            )

    def close(self) -> None:
        """Close all files; they are opened again when needed."""
        self._handles.close()


def find_shards(directory: Path) -> tuple[list[ShardHeader], dict[Path, CacheError]]:
    """Read the headers of a cache, and say what is wrong with those that cannot be read.

    Raises
    ------
    CacheNotFoundError
        If there is no cache.
    """
    if not directory.is_dir():
        raise CacheNotFoundError(f"{directory}: no cache there; run 'pipeline extract' first")
    headers, problems = scan_shards(directory)
    if not headers and not problems:
        raise CacheNotFoundError(f"{directory}: holds no shards; run 'pipeline extract' first")
    return headers, problems
