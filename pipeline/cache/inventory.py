"""What of a cache can stay when it is extracted again, and what is in the way.

Images are divided into shards anew whenever a split file or the shard size changes. No feature is
computed again for that: shards that do not fit the new division are set aside as ``*.retired``, and
their images are copied into the shards of the new one.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path

from pipeline.cache.cached_split import CachedSplit
from pipeline.cache.handles import Handles
from pipeline.cache.headers import ShardHeader, Sources, scan_shards, split_of
from pipeline.cache.session import remove_dead_locks
from pipeline.cache.shards import ShardPlan
from pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError
from pipeline.identity import Identity
from pipeline.wholefile import remove_leftovers

RETIRED = ".retired"


def refuse_other_cache(directory: Path, identity: Identity) -> None:
    """Refuse to write where a cache lies that was made otherwise.

    Raises
    ------
    CacheMismatchError
        Naming every field that differs, or a file that this version cannot read.
    """
    headers, problems = scan_shards(directory)
    # Those that were renamed or set aside hold somebody's features as well.
    for path in (*problems, *retired_shards(directory)):
        try:
            headers.append(ShardHeader.read(path))
        except CacheMismatchError:
            raise
        except CacheError:  # damaged, or gone by now
            continue
    for header in headers:
        if differences := header.identity.differences(identity):
            raise CacheMismatchError(
                f"{directory}: holds a cache made otherwise ({'; '.join(differences)}); "
                "give another --out, or --replace to overwrite it"
            )


def make_way(directory: Path, plans: Sequence[ShardPlan], identity: Identity) -> None:
    """Move out of the way what must not lie beside the planned shards; nothing else may run then.

    Shards of another identity, or that are damaged, are removed. Shards of the planned splits that
    hold other images than are planned for them are set aside, and so are renamed ones.

    Raises
    ------
    CacheError
        If a shard cannot be opened, so that nobody knows what is in it.
    """
    headers, problems = scan_shards(directory)
    for error in problems.values():
        if not isinstance(error, CacheDamagedError | CacheMismatchError):
            raise error
    for path in problems:
        if (renamed := _read_header(path, identity)) is None:
            path.unlink()
        else:
            _set_aside(renamed)
    for header in headers:
        if header.identity != identity:
            header.path.unlink()
    set_aside(directory, plans)
    remove_leftovers(directory / "*")
    remove_dead_locks(directory)


def set_aside(directory: Path, plans: Sequence[ShardPlan]) -> None:
    """Set aside the shards of the planned splits that hold other images than are planned for them.

    Nobody else may work on these splits then.
    """
    planned = {plan.path: set(plan.sources) for plan in plans}
    splits = {plan.split for plan in plans}
    for header in scan_shards(directory)[0]:
        details = header.details
        holds = {*details.images, *details.skipped}
        if details.split in splits and holds != planned.get(header.path):
            _set_aside(header)


def changed_images(directory: Path, plans: Sequence[ShardPlan], identity: Identity) -> list[str]:
    """Name the images of which the cache holds features of other files: ``"cow_1 (mask)"``."""
    planned: dict[str, dict[str, Sources]] = {}
    for plan in plans:
        planned.setdefault(plan.split, {}).update(plan.sources)
    changed = []
    for header in scan_shards(directory)[0]:
        now = planned.get(header.details.split, {})
        for image_id, before in header.details.images.items():
            after = now.get(image_id, before)
            if header.identity == identity and after != before:
                files = [key.removesuffix("_digest") for key in after if after[key] != before[key]]
                changed.append(f"{image_id} ({', '.join(files)})")
    return changed


def _set_aside(header: ShardHeader) -> None:
    # By its own name: one that was renamed is of the split it was made for.
    name = f"{header.details.name}.{secrets.token_hex(4)}{RETIRED}"
    header.path.rename(header.path.with_name(name))


def _read_header(path: Path, identity: Identity) -> ShardHeader | None:
    """Read a shard's header, if that can be done and it was made with this identity."""
    try:
        header = ShardHeader.read(path)
    except CacheError:
        return None
    return header if header.identity == identity else None


def retired_shards(directory: Path, split: str | None = None) -> list[Path]:
    """List the shards that were set aside, of one split or of all."""
    found = directory.glob(f"*{RETIRED}")
    return sorted(p for p in found if _is_shard(p.name.rsplit(".", 2)[0], split))


def shard_samples(directory: Path, split: str | None = None) -> list[Path]:
    """List the samples of single shards, which only lie there while an extraction lasts."""
    found = directory.glob("*-of-*-samples.h5")
    return sorted(p for p in found if _is_shard(p.name.removesuffix("-samples.h5") + ".h5", split))


def _is_shard(name: str, split: str | None) -> bool:
    found = split_of(name)
    return found is not None and split in (None, found)


class Stock:
    """Images that need not be computed again, wherever in the cache they lie.

    Parameters
    ----------
    directory : Path
        The cache.
    identity : Identity
        What the features are made with.
    """

    def __init__(self, directory: Path, identity: Identity) -> None:
        self._identity = identity
        self._handles = Handles()
        self._retired: dict[str, list[CachedSplit]] = {}
        for path in retired_shards(directory):
            if (header := _read_header(path, identity)) is not None:
                view = self._view(header)
                for image_id in header.details.images:
                    self._retired.setdefault(image_id, []).append(view)

    def of(self, plan: ShardPlan) -> dict[str, CachedSplit]:
        """Tell for a planned shard's images where those are that were made from the same files."""
        own = _read_header(plan.path, self._identity)
        views = [] if own is None else [self._view(own)]
        found = {}
        for image_id, sources in plan.sources.items():
            for view in (*views, *self._retired.get(image_id, ())):
                if view.sources.get(image_id) == sources:
                    found[image_id] = view
                    break
        return found

    def close(self) -> None:
        """Close all files."""
        self._handles.close()

    def _view(self, header: ShardHeader) -> CachedSplit:
        view = CachedSplit(header.details.split, self._identity, self._handles)
        view.append(header)
        return view
