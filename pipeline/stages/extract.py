"""Stage one: a frozen backbone over every image, its taps and a few pixel samples into HDF5."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.backbones import Backbone, Preprocessing
from pipeline.cache import Drawing, FeatureCache
from pipeline.data import VocDataset
from pipeline.errors import DataError
from pipeline.identity import Identity, TapIdentity
from pipeline.progress import Progress, Silent
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.shard_work import ShardWork
from pipeline.stages.split_samples import SplitSamples


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
        Images, and lines of split files, that were left out, with ``on_error="skip"``.
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
    thorough: bool = False,
    progress: Progress | None = None,
) -> ExtractResult:
    """Write the feature cache of a data set.

    Images that are there and were made from the same files in the same way are kept, so an
    extraction that was interrupted goes on where it stopped, and one that is complete costs
    seconds. Several processes that are given the same to do at one time divide it among them.

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
        Images in work at a time. On the CPU each goes through the backbone by itself and on one
        thread, so that no bit depends on the number: by default as many as torch has threads, 16
        at most. On a GPU those of one size go through together, 32 by default.
    drawing : Drawing, optional
        Which pixel samples to draw.
    on_error : {"stop", "skip"}
        What to do with an image that cannot be used.
    replace : bool
        Whether a cache that was made otherwise may be overwritten.
    thorough : bool
        Whether to read everything that is there, and to compute again what does not match its
        digest.
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
    BusyError
        If another process extracts something else into ``out``.
    SpaceError
        If there is not enough room.
    """
    out = Path(out)
    preprocessing = preprocessing or Preprocessing()
    drawing = drawing or Drawing()
    progress = progress or Silent()
    identity = identity_of(dataset, backbone, preprocessing, geometry=geometry, dtype=dtype)
    drawing.features.select(identity.tap_names)
    records = ImageRecords(
        dataset,
        backbone,
        preprocessing,
        batch_size=batch_size,
        skip=on_error == "skip",
        progress=progress,
    )
    work = ShardWork(
        out,
        identity,
        records,
        drawing,
        images_per_shard=images_per_shard,
        compression=compression,
        dataset=dataset.root.name,
        skip=on_error == "skip",
        progress=progress,
    )
    work.plan(splits)
    with work.session(replace=replace, thorough=thorough):
        computed = 0
        for split in splits:  # one after the other: each can be used as soon as it is there
            computed += work.write_shards(split)
            with closing(FeatureCache(out)) as cache:
                if not len(cache[split]):
                    raise DataError(
                        f"{dataset.root}: not one image of '{split}' can be used; "
                        "run 'pipeline data check'"
                    )
                SplitSamples(out, cache[split], drawing, progress).write()
        made_from = {
            "dataset": str(dataset.root),
            "weights": backbone.source,
            "seed": backbone.seed,
            "images_per_shard": images_per_shard,
            "compression": compression,
            "drawing": drawing.model_dump(mode="json"),
            "on_error": on_error,
        }
        manifest = work.write_lists(made_from)
    return ExtractResult(
        out,
        identity.fingerprint,
        images=sum(manifest.splits[split].images for split in splits),
        computed=computed,
        skipped=[
            (split, what, reason)
            for split in splits
            for found in (manifest.splits[split].bad_lines, manifest.splits[split].skipped)
            for what, reason in found.items()
        ],
    )


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
