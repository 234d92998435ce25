"""Stage one: a frozen backbone over every image, its taps and a few pixel samples into HDF5."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as copy
from pathlib import Path
from typing import Literal

from pipeline.backbones import Backbone, Preprocessing, first_convolution
from pipeline.cache import Drawing, total_images
from pipeline.data import VocDataset
from pipeline.identity import ConvolutionIdentity, Identity, TapIdentity
from pipeline.locks import Lock
from pipeline.progress import Progress, Silent
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.parallel import Workers, shown
from pipeline.stages.part import Part
from pipeline.stages.shard_work import ShardWork
from pipeline.stages.worker import WorkerJob, portable_weights, written_since


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
    missing : int
        Shards that other parts have still to write.
    skipped : list of (split, image id, reason)
        Images, and lines of split files, that were left out, with ``on_error="skip"``.
    """

    cache: Path
    fingerprint: str
    images: int = 0
    computed: int = 0
    missing: int = 0
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
    recompute_first: bool = False,
    compression: Literal["gzip"] | None = None,
    images_per_shard: int = 64,
    batch_size: int | None = None,
    drawing: Drawing | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    replace: bool = False,
    thorough: bool = False,
    workers: Workers | int = 1,
    part: str | None = None,
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
    recompute_first : bool
        Whether the first tap is not stored but computed from the stored image by whoever reads it,
        in float32; for taps that begin with the network's first convolution.
    compression : {None, "gzip"}
        HDF5 filter for all that is stored of an image.
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
    workers : int or Workers
        How many processes of this machine do it, or which ones of a cluster. They load the backbone
        anew, and change no bit.
    part : str, optional
        ``"3/16"`` writes the third of sixteen parts of the shards and waits for no other part. The
        run with which a split becomes complete puts its samples together, and the run with which
        the last split does writes the manifest and the index.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    ExtractResult

    Raises
    ------
    DataError
        If an image, mask or split file cannot be used, and ``on_error`` is ``"stop"``.
    BackboneError
        If the first tap is to be computed from the image and cannot.
    CacheMismatchError
        If ``out`` holds a cache that was made otherwise, and ``replace`` is not set.
    CacheOverflowError
        If a value does not fit ``dtype``.
    BusyError
        If another process extracts something else into ``out``.
    SpaceError
        If there is not enough room.
    ParamsError
        If there is no such part, or the workers cannot be had.
    PeerLostError
        If a worker was killed.
    """
    out = Path(out)
    workers = Workers(workers) if isinstance(workers, int) else workers
    preprocessing = preprocessing or Preprocessing()
    drawing = drawing or Drawing()
    progress = progress or Silent()
    identity = identity_of(
        dataset,
        backbone,
        preprocessing,
        geometry=geometry,
        dtype=dtype,
        recompute_first=recompute_first,
    )
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
    work.plan(splits, Part() if part is None else Part.parse(part))
    with work.session(replace=replace, thorough=thorough):
        computed = 0
        if not workers.is_this_process:
            job = WorkerJob(
                out=out.absolute(),
                leash=out.absolute() / f".workers-{secrets.token_hex(4)}.lock",
                dataset=copy(dataset, root=dataset.root.absolute()),
                dataset_name=dataset.root.name,
                identity=identity,
                weights=portable_weights(backbone),
                seed=backbone.seed,
                device=str(backbone.device),
                preprocessing=preprocessing,
                drawing=drawing,
                plans=work.plans.moved_to(out.absolute()),
                images_per_shard=images_per_shard,
                compression=compression,
                batch_size=batch_size,
                skip=on_error == "skip",
                replace=replace,
                thorough=thorough,
                threads=workers.threads,
            )
            computed += _run(workers, job, work, progress)
        computed += work.write()  # what the workers have left to do: nothing
        missing = sum(work.missing(split) for split in splits)
        made_from = {
            "dataset": str(dataset.root),
            "weights": backbone.source,
            "seed": backbone.seed,
            "images_per_shard": images_per_shard,
            "compression": compression,
            "drawing": drawing.model_dump(mode="json"),
            "on_error": on_error,
        }
        found = work.found() if missing else work.write_lists(made_from).splits
    return ExtractResult(
        out,
        identity.fingerprint,
        images=sum(found[split].images for split in splits if split in found),
        computed=computed,
        missing=missing,
        skipped=[
            (split, what, reason)
            for split in splits
            if split in found
            for left_out in (found[split].bad_lines, found[split].skipped)
            for what, reason in left_out.items()
        ],
    )


def _run(workers: Workers, job: WorkerJob, work: ShardWork, progress: Progress) -> int:
    """Have workers do all there is to do; give how many images they computed."""
    left = work.left()
    lock = Lock.take(job.leash) if left else None
    if lock is None:
        return 0
    total = total_images(left)
    with lock, shown(progress, written_since(left), total=total, unit="images", what="extracting"):
        return sum(workers.run(job))


def identity_of(
    dataset: VocDataset,
    backbone: Backbone,
    preprocessing: Preprocessing,
    *,
    geometry: Literal["half_pixel", "align_corners"],
    dtype: Literal["float16", "float32", "int8"],
    recompute_first: bool = False,
) -> Identity:
    """Give the identity of the cache that :func:`extract` would write.

    Raises
    ------
    BackboneError
        If the first tap is to be computed from the image and cannot.
    """
    first = first_convolution(backbone, preprocessing) if recompute_first else None
    return Identity(
        backbone=backbone.name,
        weights=backbone.weights_digest,
        taps=tuple(
            TapIdentity(
                name=tap.name, modules=tap.modules, channels=tap.channels, stride=tap.stride
            )
            for tap in backbone.taps
        ),
        compute=backbone.compute,
        preprocessing=preprocessing.as_dict(),
        geometry=geometry,
        dtype=dtype,
        classes=dataset.classes,
        void=dataset.void,
        recompute_first=None
        if first is None
        else ConvolutionIdentity(
            kernel=first.kernel.shape[2:], stride=first.stride, padding=first.padding
        ),
    )
