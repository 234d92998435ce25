"""Keeping a cache sound: damaged images computed again, useless files removed.

Only the former needs torch, and what runs a backbone is imported for that alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.backbones import Preprocessing
from pipeline.cache import (
    Drawing,
    Manifest,
    ShardHeader,
    alone_in,
    find_garbage,
    find_shards,
    read_manifest,
    remove_dead_locks,
    samples_drawing,
    samples_path,
)
from pipeline.data import VocDataset
from pipeline.errors import CacheDamagedError, CacheError, CacheMismatchError, ParamsError
from pipeline.progress import Progress, Silent

if TYPE_CHECKING:
    from pipeline.stages.extract import ExtractResult


def repair_cache(
    path: Path | str,
    *,
    dataset: Path | str | None = None,
    weights: Path | str | None = None,
    seed: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> "ExtractResult":
    """Read everything in a cache, and make anew what is damaged or missing, and nothing else.

    Parameters
    ----------
    path : Path or str
        A cache's directory.
    dataset : Path or str, optional
        The data set; by default where it lay when the cache was made.
    weights : Path or str, optional
        The backbone's weights; by default what they were loaded from then.
    seed : int, optional
        Of random weights; by default the one they had.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    ExtractResult

    Raises
    ------
    CacheNotFoundError
        If there is no cache.
    CacheDamagedError
        If nothing readable is left that says how it was made.
    CacheMismatchError
        If what would be extracted now differs from what is there, or another version wrote that.
    ParamsError
        If the manifest does not say where data set and weights are, and nor does the caller.
    """
    from pipeline.stages.device import choose_device
    from pipeline.stages.extract import extract
    from pipeline.stages.restore import restore_backbone

    path, progress = Path(path), progress or Silent()
    headers, problems = find_shards(path)
    for error in problems.values():
        if isinstance(error, CacheMismatchError):
            raise error
    manifest = _manifest(path)
    known = [h.identity for h in headers] + ([] if manifest is None else [manifest.identity])
    if not known:
        raise CacheDamagedError(
            f"{path}: no shard and no manifest can be read; run 'pipeline extract' again"
        )
    identity = known[0]
    for other in known:
        if differences := identity.differences(other):
            raise CacheMismatchError(
                f"{path}: holds files that were made otherwise ({'; '.join(differences)}); "
                "remove the wrong ones with 'pipeline cache gc --keep'"
            )
    made_from: dict[str, Any] = {} if manifest is None else manifest.made_from
    given = {"dataset": dataset, "weights": weights, "seed": seed}
    made_from = made_from | {name: value for name, value in given.items() if value is not None}
    for name in ("dataset", "weights"):
        if name not in made_from:
            raise ParamsError(f"{path}: its manifest cannot be read; give --{name}")
    splits = {header.details.split for header in headers}
    splits |= set() if manifest is None else manifest.splits.keys()
    return extract(
        VocDataset.open(made_from["dataset"], classes=identity.classes, void=identity.void),
        restore_backbone(
            identity,
            weights=made_from["weights"],
            seed=made_from.get("seed", 0),
            device=choose_device(device),
            what=str(path),
        ),
        path,
        splits=sorted(splits),
        preprocessing=Preprocessing.from_dict(identity.preprocessing),
        geometry=identity.geometry,
        dtype=identity.dtype,
        recompute_first=identity.recompute_first is not None,
        compression=made_from.get("compression"),
        images_per_shard=made_from.get("images_per_shard", _images_per_shard(headers)),
        drawing=_drawing(path, splits, made_from),
        on_error=made_from.get("on_error", _on_error(headers)),
        thorough=True,
        progress=progress,
    )


def _manifest(path: Path) -> Manifest | None:
    try:
        return read_manifest(path)
    except CacheError:
        return None


def _drawing(path: Path, splits: set[str], made_from: dict[str, Any]) -> Drawing:
    """Find out how the samples were drawn: from a samples file, if the manifest is lost."""
    if "drawing" in made_from:
        return Drawing.model_validate(made_from["drawing"])
    found = (samples_drawing(samples_path(path, split)) for split in sorted(splits))
    return next((drawing for drawing in found if drawing is not None), Drawing())


def _images_per_shard(headers: list[ShardHeader]) -> int:
    return max(len(h.details.images) + len(h.details.skipped) for h in headers) if headers else 64


def _on_error(headers: list[ShardHeader]) -> Literal["stop", "skip"]:
    """Where images were skipped, the same ones stop nobody now."""
    return "skip" if any(header.details.skipped for header in headers) else "stop"


@dataclass(frozen=True)
class Garbage:
    """A file of no use: why, and how large it is."""

    path: Path
    why: str
    bytes: int


def collect_garbage(
    path: Path | str, *, keep: str | None = None, dry_run: bool = False
) -> list[Garbage]:
    """Remove from a cache what no fingerprint claims: see :func:`pipeline.cache.find_garbage`.

    Parameters
    ----------
    path : Path or str
        A cache's directory.
    keep : str, optional
        The fingerprint whose files stay; by default that of the manifest.
    dry_run : bool
        Whether to name the files only.

    Returns
    -------
    list of Garbage
        What was removed.

    Raises
    ------
    BusyError
        If an extraction is writing into the cache.
    CacheMismatchError
        If there are several fingerprints and nothing says which one counts.
    """
    path = Path(path)
    find_shards(path)  # nothing, not even a lock, is written where there is no cache
    with alone_in(path):
        found = [
            Garbage(file, why, file.stat().st_size)
            for file, why in sorted(find_garbage(path, keep).items())
        ]
        if not dry_run:
            for garbage in found:
                garbage.path.unlink()
            remove_dead_locks(path)
    return found
