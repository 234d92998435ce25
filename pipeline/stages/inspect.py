"""What a cache holds, and whether every value in it is the one that was written."""

from pathlib import Path
from typing import Any

from pipeline.cache import FeatureCache, read_samples, samples_path
from pipeline.errors import CacheError
from pipeline.progress import Progress, Silent


def inspect_cache(path: Path | str) -> dict[str, Any]:
    """Describe a cache.

    Parameters
    ----------
    path : Path or str
        A cache's directory.

    Returns
    -------
    dict
        ``fingerprint``, ``identity``, ``bytes`` (of all its files), and under ``splits`` for each
        split: ``images``, ``shards``, ``shards_expected``, ``skipped`` (image ids), ``samples`` (a
        count, or None where there are none).
    """
    cache = FeatureCache(path)
    splits = {}
    for name, split in cache.splits.items():
        samples = samples_path(cache.path, name)
        splits[name] = {
            "images": len(split),
            "shards": cache.parts[name] - len(split.missing_parts),
            "shards_expected": cache.parts[name],
            "skipped": list(split.skipped),
            "samples": len(read_samples(samples)) if samples.exists() else None,
        }
    return {
        "fingerprint": cache.identity.fingerprint,
        "identity": cache.identity.model_dump(mode="json"),
        "bytes": sum(file.stat().st_size for file in cache.path.iterdir() if file.is_file()),
        "splits": splits,
    }


def verify_cache(path: Path | str, *, progress: Progress | None = None) -> list[str]:
    """Read every value of a cache and compare it with its digest.

    Parameters
    ----------
    path : Path or str
        A cache's directory.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    list of str
        One line for everything that is damaged or missing.
    """
    progress = progress or Silent()
    cache = FeatureCache(path)
    problems = []
    for name, split in cache.splits.items():
        problems += [
            f"{cache.path}: shard {part} of split {name} is missing" for part in split.missing_parts
        ]
        for image_id in progress.track(
            split.image_ids, total=len(split), unit="images", what=f"verifying {name}"
        ):
            try:
                for _ in split.arrays(image_id):
                    pass
            except CacheError as error:
                problems.append(str(error))
        try:
            if samples_path(cache.path, name).exists():
                read_samples(samples_path(cache.path, name))
        except CacheError as error:
            problems.append(str(error))
    cache.close()
    return problems
