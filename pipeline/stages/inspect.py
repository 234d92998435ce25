"""What a cache holds, and whether every value in it is the one that was written."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import (
    CachedSplit,
    FeatureCache,
    ShardHeader,
    check_index,
    check_structure,
    count_samples,
    find_shards,
    manifest_of,
    open_samples,
    read_manifest,
    samples_are_current,
    samples_path,
)
from pipeline.errors import CacheError, CacheMismatchError, CacheNotFoundError
from pipeline.identity import Identity
from pipeline.progress import Progress, Silent


@dataclass(frozen=True)
class Problem:
    """Something in a cache that is damaged or missing.

    Attributes
    ----------
    split : str or None
    image_id : str or None
        The image, where it is one image that is damaged.
    what : str
        One line: the file, what is wrong with it, and what to do.
    """

    split: str | None
    image_id: str | None
    what: str


def inspect_cache(path: Path | str) -> dict[str, Any]:
    """Describe a cache, as far as it can be read.

    Parameters
    ----------
    path : Path or str
        A cache's directory.

    Returns
    -------
    dict
        ``fingerprint``, ``identity``, ``bytes`` (of all its files), ``complete``, ``made_from``
        (where data set and weights lay), ``problems`` (one line for every file whose header cannot
        be used), and under ``splits`` for each split: ``images``, ``shards``, ``shards_expected``,
        ``bytes`` (of its shards), ``skipped`` (image id and reason), ``samples`` (a count, or None
        where there are none), ``dataset`` and ``software``.

    Raises
    ------
    CacheNotFoundError
        If there is no cache.
    CacheError
        If no shard can be read.
    """
    path = Path(path)
    headers, unreadable = find_shards(path)
    problems = [str(error) for error in unreadable.values()]
    if not headers:
        raise next(iter(unreadable.values()))
    made_from, claimed = {}, ""
    try:
        manifest = read_manifest(path)
        made_from, claimed = manifest.made_from, manifest.fingerprint
    except CacheError as error:
        problems.append(str(error))
    identity = _identity(headers, claimed)
    splits: dict[str, dict[str, Any]] = {}
    for header in headers:
        if differences := header.identity.differences(identity):
            problems.append(_made_otherwise(header, differences))
            continue
        details = header.details
        state = splits.setdefault(details.split, _empty_state(header))
        state["images"] += len(details.images)
        state["shards"] += 1
        state["bytes"] += header.path.stat().st_size
        state["skipped"] |= {i: s.reason for i, s in details.skipped.items()}
    for name, state in splits.items():
        samples = samples_path(path, name)
        try:
            state["samples"] = count_samples(samples) if samples.exists() else None
        except CacheError as error:
            problems.append(str(error))
    return {
        "fingerprint": identity.fingerprint,
        "identity": identity.model_dump(mode="json"),
        "bytes": sum(file.stat().st_size for file in path.iterdir() if file.is_file()),
        "complete": not problems
        and all(s["shards"] == s["shards_expected"] for s in splits.values()),
        "made_from": made_from,
        "problems": problems,
        "splits": splits,
    }


def _identity(headers: list[ShardHeader], claimed: str) -> Identity:
    """Give the identity that the manifest claims, or, where it claims none of them, the first."""
    found = (h.identity for h in headers if h.identity.fingerprint == claimed)
    return next(found, headers[0].identity)


def _made_otherwise(header: ShardHeader, differences: list[str]) -> str:
    return (
        f"{header.path}: made otherwise ({'; '.join(differences)}); "
        "remove it with 'pipeline cache gc'"
    )


def _empty_state(header: ShardHeader) -> dict[str, Any]:
    return {
        "images": 0,
        "shards": 0,
        "shards_expected": header.details.parts,
        "bytes": 0,
        "skipped": {},
        "samples": None,
        "dataset": header.details.dataset,
        "software": header.details.software,
    }


def verify_cache(path: Path | str, *, progress: Progress | None = None) -> list[Problem]:
    """Read every value of a cache, compare it with its digest, and see whether HDF5 finds it.

    Parameters
    ----------
    path : Path or str
        A cache's directory.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    list of Problem
        Everything that is damaged or missing.

    Raises
    ------
    CacheNotFoundError
        If there is no cache.
    CacheMismatchError
        If another version wrote all of it.
    """
    path, progress = Path(path), progress or Silent()
    headers, unreadable = find_shards(path)
    problems = [Problem(None, None, str(error)) for error in unreadable.values()]
    if not headers:
        if all(isinstance(error, CacheMismatchError) for error in unreadable.values()):
            raise next(iter(unreadable.values()))
        return problems
    try:
        claimed = read_manifest(path).fingerprint
    except CacheError:  # told of below
        claimed = ""
    identity = _identity(headers, claimed)
    problems += [
        Problem(h.details.split, None, _made_otherwise(h, differences))
        for h in headers
        if (differences := h.identity.differences(identity))
    ]
    try:
        cache = FeatureCache(path, [h for h in headers if h.identity == identity])
    except CacheError as error:
        return [*problems, Problem(None, None, str(error))]
    for name, split in cache.splits.items():
        problems += [
            Problem(name, None, f"{path}: shard {part} of split {name} is missing or unreadable")
            for part in split.missing_parts
        ]
        for image_id in progress.track(
            split.image_ids, total=len(split), unit="images", what=f"verifying {name}"
        ):
            try:
                split.stored(image_id)
            except CacheError as error:
                problems.append(Problem(name, image_id, str(error)))
        problems += _samples_problems(path, split)
    problems += _structure_problems([h for h in headers if h.identity == identity])
    readable = not unreadable and all(header.identity == identity for header in headers)
    complete = readable and not any(split.missing_parts for split in cache.splits.values())
    problems += _list_problems(cache, complete=complete)
    cache.close()
    return problems


def _structure_problems(headers: list[ShardHeader]) -> Iterator[Problem]:
    for header in headers:
        try:
            check_structure(header)
        except CacheError as error:
            yield Problem(header.details.split, None, str(error))


def _samples_problems(path: Path, split: CachedSplit) -> Iterator[Problem]:
    file = samples_path(path, split.name)
    if split.missing_parts and not file.exists():
        return
    try:
        with closing(open_samples(file)) as samples:  # which reads all of it
            drawing = samples.drawing
        current = samples_are_current(file, split.sources, split.identity, drawing)
        if not current and not split.missing_parts:
            what = f"{file}: drawn from other images; run 'pipeline extract' again"
            yield Problem(split.name, None, what)
    except CacheError as error:
        yield Problem(split.name, None, str(error))


def _list_problems(cache: FeatureCache, *, complete: bool) -> Iterator[Problem]:
    """Check the index and the manifest; what they list can only be checked if all of it is read."""
    try:
        check_index(cache, complete=complete)
    except CacheError as error:
        yield Problem(None, None, str(error))
    try:
        manifest = read_manifest(cache.path)
        lines = {name: split.bad_lines for name, split in manifest.splits.items()}
        if complete and manifest != manifest_of(cache, manifest.made_from, lines):
            what = f"{cache.path}: the manifest describes something else; run 'pipeline extract'"
            yield Problem(None, None, what)
    except CacheNotFoundError as error:
        if complete:
            yield Problem(None, None, str(error))
    except CacheError as error:
        yield Problem(None, None, str(error))
