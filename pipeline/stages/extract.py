"""Stage one: a frozen backbone over every image, its taps and a few pixel samples into HDF5."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from pipeline.backbones import Backbone, Preprocessing
from pipeline.cache import (
    Drawing,
    FeatureCache,
    ShardPlan,
    draw_samples,
    plan_shards,
    remove_other_shards,
    samples_are_current,
    samples_path,
    write_index,
    write_samples,
    write_shard,
)
from pipeline.data import VocDataset
from pipeline.errors import CacheMismatchError, DataError, SpaceError
from pipeline.identity import Identity, TapIdentity
from pipeline.progress import Progress, Silent
from pipeline.software import versions
from pipeline.stages.image_records import ImageRecords


@dataclass
class ExtractResult:
    """What an extraction did.

    Attributes
    ----------
    cache : Path
    fingerprint : str
    images : int
        Images the cache holds now, over all splits.
    computed : int
        Images the backbone was run on; the others were there already.
    skipped : list of (split, image id, reason)
        Images left out, with ``on_error="skip"``.
    """

    cache: Path
    fingerprint: str
    images: int = 0
    computed: int = 0
    skipped: list[tuple[str, str, str]] = field(default_factory=list)


def extract(
    dataset: VocDataset,
    backbone: Backbone,
    out: Path | str,
    *,
    splits: Sequence[str] = ("train", "val"),
    preprocessing: Preprocessing | None = None,
    geometry: Literal["half_pixel", "align_corners"] = "half_pixel",
    dtype: Literal["float16", "float32", "int8"] = "float16",
    compression: Literal["gzip", "lzf"] | None = None,
    images_per_shard: int = 64,
    batch_size: int | None = None,
    drawing: Drawing | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    replace: bool = False,
    progress: Progress | None = None,
) -> ExtractResult:
    """Write the feature cache of a data set.

    Shards that exist and were made from the same files in the same way are kept, so an extraction
    that was interrupted goes on where it stopped, and one that is complete costs seconds.

    Parameters
    ----------
    dataset : VocDataset
        Images, masks and splits.
    backbone : Backbone
        From :func:`pipeline.load_backbone`, on the device to be used.
    out : Path or str
        The cache's directory, made if need be.
    splits : sequence of str
        Splits to extract.
    preprocessing : Preprocessing, optional
        Normalisation and input size; ImageNet's at 224x224 by default.
    geometry : {"half_pixel", "align_corners"}
        How hypercolumns are read from the maps.
    dtype : {"float16", "float32", "int8"}
        How maps are stored.
    compression : {None, "gzip", "lzf"}
        HDF5 filter for the maps.
    images_per_shard : int
        Images in one file.
    batch_size : int, optional
        Images of one size that go through the backbone together: 1 on the CPU, where more gains
        nothing, and 32 on a GPU.
    drawing : Drawing, optional
        Which pixel samples to draw.
    on_error : {"stop", "skip"}
        What to do with an image that cannot be used.
    replace : bool
        Whether a cache that was made otherwise may be overwritten.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    ExtractResult

    Raises
    ------
    DataError
        If an image, mask or split file cannot be used, and ``on_error`` is ``"stop"``.
    CacheMismatchError
        If ``out`` holds a cache that was made otherwise, and ``replace`` is not set.
    CacheOverflowError
        If a value does not fit ``dtype``.
    SpaceError
        If there is not enough room.
    """
    out = Path(out)
    preprocessing = preprocessing or Preprocessing()
    drawing = drawing or Drawing()
    progress = progress or Silent()
    identity = identity_of(dataset, backbone, preprocessing, geometry=geometry, dtype=dtype)
    drawing.features.select(identity.tap_names)
    _refuse_other_cache(out, identity, replace=replace)

    result = ExtractResult(out, identity.fingerprint)
    source = ImageRecords(
        dataset=dataset,
        backbone=backbone,
        preprocessing=preprocessing,
        batch_size=batch_size or (1 if backbone.device.type == "cpu" else 32),
        skip=on_error == "skip",
        skipped=result.skipped,
    )
    sources = {split: source.sources(split) for split in splits}
    plans = {
        split: plan_shards(out, split, tuple(sources[split]), images_per_shard) for split in splits
    }
    todo = {
        split: [plan for plan in plans[split] if not plan.is_done(identity, sources[split])]
        for split in splits
    }
    _announce(progress, source, out, identity, plans, todo)

    out.mkdir(parents=True, exist_ok=True)
    details = {"dataset": dataset.root.name, "software": versions()}
    remove_other_shards(out, [plan for split in splits for plan in plans[split]], identity)
    for split in splits:
        waiting = [image_id for plan in todo[split] for image_id in plan.image_ids]
        tracked = iter(
            progress.track(waiting, total=len(waiting), unit="images", what=f"extracting {split}")
        )
        for plan in todo[split]:
            own = list(plan.image_ids)
            records = source.records(split, islice(tracked, len(own)), sources[split])
            result.computed += write_shard(
                plan, records, identity, compression=compression, details=details
            )
        for _ in tracked:  # lets the bar see its end
            pass

    cache = FeatureCache(out)
    for split in splits:
        if not len(cache[split]):
            raise DataError(
                f"{dataset.root}: not one image of '{split}' can be used; run 'pipeline data check'"
            )
        _refresh_samples(cache, split, drawing, progress)
        result.images += len(cache[split])
    write_index(cache)
    _write_manifest(cache)
    cache.close()
    return result


def identity_of(
    dataset: VocDataset,
    backbone: Backbone,
    preprocessing: Preprocessing,
    *,
    geometry: Literal["half_pixel", "align_corners"],
    dtype: Literal["float16", "float32", "int8"],
) -> Identity:
    """Give the identity of the cache that :func:`extract` would write."""
    return Identity(
        backbone=backbone.name,
        weights=backbone.weights_digest,
        taps=tuple(
            TapIdentity(
                name=tap.name, modules=tap.modules, channels=tap.channels, stride=tap.stride
            )
            for tap in backbone.taps
        ),
        preprocessing=preprocessing.as_dict(),
        geometry=geometry,
        dtype=dtype,
        classes=dataset.classes,
        void=dataset.void,
    )


def _refuse_other_cache(out: Path, identity: Identity, *, replace: bool) -> None:
    if replace or not any(out.glob("*-of-*.h5")):
        return
    present = FeatureCache(out).identity
    if differences := present.differences(identity):
        raise CacheMismatchError(
            f"{out}: holds a cache made otherwise ({'; '.join(differences)}); "
            "give another --out, or --replace to overwrite it"
        )


def _announce(
    progress: Progress,
    source: ImageRecords,
    out: Path,
    identity: Identity,
    plans: dict[str, list[ShardPlan]],
    todo: dict[str, list[ShardPlan]],
) -> None:
    """Say what is about to happen, and refuse if there is no room for it."""
    counts = {split: sum(len(p.image_ids) for p in plans[split]) for split in plans}
    images = ", ".join(f"{count} {split}" for split, count in counts.items())
    taps = ", ".join(f"{tap.name} ({tap.channels})" for tap in identity.taps)
    progress.say(f"images: {images}")
    progress.say(f"taps of {identity.backbone}: {taps}; {sum(identity.tap_channels)} channels")
    waiting = [i for split in todo for plan in todo[split] for i in plan.image_ids]
    done = sum(counts.values()) - len(waiting)
    if done:
        progress.say(f"{done} images are in the cache already and stay as they are")
    needed = sum(source.bytes_of(image_id, identity.dtype) for image_id in waiting)
    existing = next(p for p in (out, *out.resolve().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    progress.say(f"to write: {_size(needed)} to {out}; free: {_size(free)}")
    if needed > free:
        raise SpaceError(
            f"{out}: {_size(needed)} to write but only {_size(free)} free; "
            "make room, write elsewhere, or use --dtype int8"
        )


def _refresh_samples(cache: FeatureCache, name: str, drawing: Drawing, progress: Progress) -> None:
    path, split = samples_path(cache.path, name), cache[name]
    if samples_are_current(path, split, cache.identity, drawing):
        return
    tracked = progress.track(
        split.image_ids, total=len(split), unit="images", what=f"sampling {name}"
    )
    samples = draw_samples(split, cache.identity, drawing, tracked)
    write_samples(path, samples, split, cache.identity)


def _write_manifest(cache: FeatureCache) -> None:
    """Write ``manifest.json``: what the cache holds and what was skipped, for people to read."""
    manifest = {
        "fingerprint": cache.identity.fingerprint,
        "identity": cache.identity.model_dump(mode="json"),
        "splits": {
            name: {
                "images": len(split),
                "shards": cache.parts[name],
                "skipped": list(split.skipped),
            }
            for name, split in cache.splits.items()
        },
    }
    (cache.path / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
