"""Stage two, second half: the classifier as 1x1 convolutions, trained on every pixel."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xxhash
from torch import Tensor

from pipeline.cache import CachedSplit, FeatureCache
from pipeline.errors import HeadError
from pipeline.heads import Head, HeadInfo, load_head, save_head
from pipeline.locks import sole_writer
from pipeline.progress import Progress, Silent
from pipeline.software import versions
from pipeline.stages.device import choose_device, memory_named
from pipeline.stages.training_images import HELD_OUT, Images, class_pixels, divided
from pipeline.stages.validation import validated
from pipeline.training import DenseTrainer, Team, TrainingRun, TrainSettings, joined_team


@dataclass(frozen=True)
class FitDenseResult:
    """What was trained.

    Attributes
    ----------
    head : Path
        The file that was written.
    history : dict of str to list
        Per epoch, the initial head as epoch 0: ``epoch``, ``train_loss``, ``val_loss``,
        ``val_pixel_accuracy``, ``val_mean_iou``; and ``best_epoch``, the one that was kept.
    rank : int
        Of several processes, which one this is; the first one, 0, has written the file.
    """

    head: Path
    history: dict[str, Any]
    rank: int = 0


def fit_dense(
    cache: Path | str,
    init: Path | str,
    out: Path | str,
    *,
    split: str = "train",
    settings: TrainSettings | None = None,
    validate_on: str | None = "val",
    keep: Literal["best", "last"] = "best",
    history: Path | str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> FitDenseResult:
    """Train a dense head on every pixel of every training image, from the cache alone.

    After every epoch a checkpoint is written beside ``out``; a run that was interrupted goes on
    from it to the same result, and it is removed at the end.

    Processes that ``torchrun`` has started divide every batch among them, and the validation
    images; up to rounding the result is that of one process. The first one writes.

    Parameters
    ----------
    cache : Path or str
        A cache's directory.
    init : Path or str
        The head to begin with.
    out : Path or str
        The head to write.
    split : str
        The training images.
    settings : TrainSettings, optional
        Epochs, optimiser, class weights, seed.
    validate_on : str or None
        What the metrics of every epoch are measured on: a split; or ``"held-out"``, the training
        images that the sparse classifier was not fitted on, and that are then not trained on
        either; or nothing.
    keep : {"best", "last"}
        Which epoch becomes the head: that of the best mean IoU in validation, or the last. Without
        validation it is the last.
    history : Path or str, optional
        Where to write the history as CSV.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    FitDenseResult

    Raises
    ------
    HeadError
        If ``init`` has no layers to train.
    CacheMismatchError
        If ``init`` was made from a cache of another identity.
    BusyError
        If another run is training ``out``.
    PeerLostError
        If another process of the same run has ended.
    """
    out, settings = Path(out), settings or TrainSettings()
    opened = FeatureCache(cache)
    begin = load_head(init)
    if begin.dense is None:
        raise HeadError(
            f"{init}: a {begin.info.estimator} predicts in blocks and cannot become a dense head; "
            "begin with mlp, logistic, svm or sgd"
        )
    opened.require(begin.info.identity, what=f"the head {init}")
    training, validation = divided(opened, begin, split, validate_on)
    if validation is None:
        keep = "last"
    with joined_team(choose_device(device)) as team, _sole_writer(out, team):
        progress = progress if progress is not None and team.leads else Silent()
        trainer = DenseTrainer(
            begin,
            settings,
            steps_per_epoch=-(-len(training.image_ids) // settings.batch_size),
            class_pixels=class_pixels(training, settings, team),
            device=team.device,
            team=team,
        )
        run = TrainingRun(
            trainer,
            checkpoint=out.with_name(out.name + ".checkpoint"),
            key=_run_key(begin, settings, training, validation, keep),
            keep_best=keep == "best",
        )
        if team.leads:
            if run.resume():
                progress.say(f"going on after epoch {run.epochs_done}, from {run.checkpoint}")
            elif (kept := run.set_aside()) is not None:
                progress.say(
                    f"{run.checkpoint} is of a run with other settings; beginning anew, "
                    f"it is kept as {kept.name}"
                )
        run.follow(team)
        if run.epochs_done < 0:
            run.record(train_loss=None, validation=validated(begin, trainer, validation, team))
            progress.say(_latest(run.history))
        for epoch in range(run.epochs_done + 1, settings.epochs + 1):
            loss = _train_epoch(begin, trainer, training, team, epoch, progress)
            run.record(train_loss=loss, validation=validated(begin, trainer, validation, team))
            if team.leads:
                run.save()
            progress.say(_latest(run.history))
        run.finish()

        info = HeadInfo(
            stage="dense",
            estimator=begin.info.estimator,
            identity=begin.info.identity,
            features=begin.info.features,
            activation=begin.info.activation,
            grid=begin.info.grid,
            settings={
                "sparse": begin.info.settings,
                **settings.model_dump(mode="json"),
                "split": split,
                "validate_on": validate_on,
                "keep": keep,
            },
            held_out=begin.info.held_out if validate_on == HELD_OUT else (),
            metrics={**begin.info.metrics, "history": run.history},
            selected_on=None if validation is None or keep == "last" else validation.name,
            software=versions(),
        )
        if team.leads:
            save_head(out, replace(begin, info=info, dense=trainer.dense()))
            if history is not None:
                run.write_history(Path(history))
            run.checkpoint.unlink(missing_ok=True)
        opened.close()
        return FitDenseResult(out, run.history, rank=team.rank)


def _sole_writer(out: Path, team: Team) -> AbstractContextManager[None]:
    return sole_writer(out) if team.leads else nullcontext()


def _run_key(
    begin: Head,
    settings: TrainSettings,
    training: Images,
    validation: Images | None,
    keep: str,
) -> str:
    """Hash everything that decides the outcome of a run."""
    hasher = xxhash.xxh3_128(begin.info.identity.fingerprint.encode())
    parts = [settings.model_dump_json(), keep, begin.info.features.model_dump_json()]
    for images in (training, validation):
        if images is not None:
            parts += [f"{i} {sorted(images.split.sources[i].items())}" for i in images.image_ids]
    hasher.update("\n".join(parts).encode())
    if begin.dense is not None:
        for parameter in begin.dense.parameters():
            hasher.update(parameter.detach().numpy().data)
    return hasher.hexdigest()


def _train_epoch(
    head: Head,
    trainer: DenseTrainer,
    images: Images,
    team: Team,
    epoch: int,
    progress: Progress,
) -> float:
    """Pass over all training images once, in an order of their own for every epoch."""
    settings = trainer.settings
    order = np.random.default_rng([settings.seed, epoch]).permutation(len(images.image_ids))
    shuffled = [images.image_ids[i] for i in order]
    losses: list[float] = []
    batch: list[str] = []
    for image_id in progress.track(
        shuffled, total=len(shuffled), unit="images", what=f"epoch {epoch}/{settings.epochs}"
    ):
        batch.append(image_id)
        if len(batch) == settings.batch_size or image_id == shuffled[-1]:
            share = team.share(batch)
            with memory_named(f"one of the images {', '.join(share)}"):
                losses.append(trainer.step(_load(head, images.split, share, settings)))
            batch = []
    return float(team.total(torch.tensor(np.mean(losses))))


def _load(
    head: Head,
    split: CachedSplit,
    image_ids: Sequence[str],
    settings: TrainSettings,
) -> list[tuple[list[Tensor], Tensor]]:
    loaded = []
    for image_id in image_ids:
        maps = [torch.from_numpy(m) for m in split.maps(image_id, head.taps)]
        label = split.label(image_id, void_as_background=settings.void_as_background)
        used = head.info.features.apply(maps, head.taps)
        loaded.append((used, torch.from_numpy(label)))
    return loaded


def _latest(history: dict[str, Any]) -> str:
    """Put the latest epoch into a line."""
    values = [
        (text, history[name][-1])
        for text, name in (
            ("training loss", "train_loss"),
            ("validation loss", "val_loss"),
            ("pixel accuracy", "val_pixel_accuracy"),
            ("mean IoU", "val_mean_iou"),
        )
    ]
    told = ", ".join(f"{text} {value:.4f}" for text, value in values if value is not None)
    return f"epoch {history['epoch'][-1]}: {told}" if told else f"epoch {history['epoch'][-1]}"
