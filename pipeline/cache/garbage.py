"""What lies in a cache's directory and is of no use any more."""

from collections.abc import Collection, Iterator
from pathlib import Path

from pipeline.cache.files import open_described
from pipeline.cache.headers import ShardHeader, split_of
from pipeline.cache.inventory import retired_shards, shard_samples
from pipeline.cache.manifest import read_manifest
from pipeline.cache.reader import find_shards
from pipeline.cache.samples import samples_path
from pipeline.errors import CacheError, CacheMismatchError
from pipeline.wholefile import leftovers


def find_garbage(directory: Path, keep: str | None = None) -> dict[Path, str]:
    """List the files of a cache that no fingerprint claims, and why; nothing else may run then.

    Files that are not called as those of a cache are none of its business, and damaged ones are not
    garbage: they are to be repaired. Those of another version stay too, set aside or not: as this
    one cannot read them, it has copied nothing of them.

    Parameters
    ----------
    directory : Path
        The cache.
    keep : str, optional
        The fingerprint whose files stay; by default the manifest's, or the only one there is.

    Raises
    ------
    CacheNotFoundError
        If there is no cache.
    CacheMismatchError
        If there are several fingerprints and nothing says which one counts.
    """
    headers, problems = find_shards(directory)
    fingerprint, parts = _claim(directory, headers, keep)
    garbage = dict.fromkeys(leftovers(directory / "*"), "half-written by a run that died")
    retired = retired_shards(directory)
    own: list[ShardHeader] = []
    for header in (*headers, *_readable(retired)):
        if header.identity.fingerprint != fingerprint:
            garbage[header.path] = f"of fingerprint {header.identity.fingerprint}"
        elif header.path not in retired:
            own.append(header)
    whole = _complete_divisions(own)
    for header in own:
        split, count = header.details.split, header.details.parts
        if count != parts.get(split, count) and (split, parts[split]) in whole:
            garbage[header.path] = f"of another division, in {count} parts"
    names = [path.name for path in (*problems, *(header.path for header in own))]
    names += [path.name.rsplit(".", 2)[0] for path in retired]
    splits = parts.keys() | {found for name in names if (found := split_of(name)) is not None}
    if not problems and splits <= {split for split, _ in whole}:
        # Until all shards are there, these hold what need not be computed again.
        copied = (path for path in retired if not _of_another_version(path))
        garbage = dict.fromkeys(copied, "set aside, and copied since") | garbage
        garbage |= dict.fromkeys(shard_samples(directory), "put together since")
    return garbage | _garbage_among_samples(directory, fingerprint, splits)


def _garbage_among_samples(
    directory: Path, fingerprint: str, splits: Collection[str]
) -> dict[Path, str]:
    garbage = {}
    claimed = {samples_path(directory, split) for split in splits}
    passing = shard_samples(directory)
    for path in directory.glob("*-samples.h5"):
        found = _fingerprint(path)
        if found is None or path in passing:
            continue
        if found != fingerprint:
            garbage[path] = f"of fingerprint {found}"
        elif path not in claimed:
            garbage[path] = "samples of a split that is not there"
    return garbage


def _claim(
    directory: Path, headers: list[ShardHeader], keep: str | None
) -> tuple[str, dict[str, int]]:
    """Find out which fingerprint counts, and in how many parts its splits are divided."""
    present = {header.identity.fingerprint for header in headers}
    try:
        manifest = read_manifest(directory)
    except CacheError:
        manifest = None
    if keep is None and manifest is not None and manifest.fingerprint in present:
        keep = manifest.fingerprint
    if keep is None and len(present) == 1:
        (keep,) = present
    if keep is None or keep not in present:
        raise CacheMismatchError(
            f"{directory}: holds {' and '.join(sorted(present)) or 'no readable shard'}; "
            "name the fingerprint that is to stay with --keep"
        )
    if manifest is None or manifest.fingerprint != keep:
        return keep, {}
    return keep, {name: split.shards for name, split in manifest.splits.items()}


def _complete_divisions(headers: list[ShardHeader]) -> set[tuple[str, int]]:
    """Give the splits, and the numbers of parts, of which every part is there."""
    present: dict[tuple[str, int], set[int]] = {}
    for header in headers:
        division = (header.details.split, header.details.parts)
        present.setdefault(division, set()).add(header.details.part)
    return {division for division, numbers in present.items() if len(numbers) == division[1]}


def _readable(paths: list[Path]) -> Iterator[ShardHeader]:
    for path in paths:
        try:
            yield ShardHeader.read(path)
        except CacheError:
            continue


def _of_another_version(path: Path) -> bool:
    try:
        ShardHeader.read(path)
    except CacheError as error:
        return isinstance(error, CacheMismatchError)
    return False


def _fingerprint(path: Path) -> str | None:
    try:
        file, identity, _ = open_described(path, "samples")
    except CacheError:
        return None
    file.close()
    return identity.fingerprint
