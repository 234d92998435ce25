"""Stage two, first half: a pixel classifier on the cache's samples."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.cache import (
    CachedSplit,
    Drawing,
    FeatureCache,
    Samples,
    StoredSamples,
    draw_samples,
    open_samples,
    put_aside,
    samples_are_current,
    samples_drawing,
    samples_path,
)
from pipeline.classifiers import dump_estimator, fit_classifier, is_dense, make_estimator, to_layers
from pipeline.folders import make_folder
from pipeline.heads import Head, HeadInfo, save_head
from pipeline.progress import Progress, Silent
from pipeline.software import versions

_AT_ONCE = 64
"""Images whose samples are in memory while they are drawn."""


@dataclass(frozen=True)
class FitSparseResult:
    """What was fitted.

    Attributes
    ----------
    head : Path
        The file that was written.
    heldout_accuracy : float or None
        Share of right predictions on sampled pixels of images that were not fitted on; None if
        none were held out.
    samples : int
        Pixel samples, held-out ones included.
    fitted_samples : int
        Those that were fitted on.
    dense : bool
        Whether the classifier can become a dense head.
    """

    head: Path
    heldout_accuracy: float | None
    samples: int
    fitted_samples: int
    dense: bool


def fit_sparse(
    cache: Path | str,
    out: Path | str,
    *,
    split: str = "train",
    estimator: str = "mlp",
    options: Mapping[str, Any] | None = None,
    drawing: Drawing | None = None,
    holdout: float = 0.1,
    seed: int = 0,
    max_samples: int | None = None,
    trusted: Sequence[str] = (),
    progress: Progress | None = None,
) -> FitSparseResult:
    """Fit a pixel classifier and write it as a head.

    Parameters
    ----------
    cache : Path or str
        A cache's directory.
    out : Path or str
        The head to write, ``*.safetensors``.
    split : str
        Whose samples to fit on.
    estimator : str
        A name in :data:`pipeline.classifiers.ESTIMATORS`, or ``package.module:Class``.
    options : mapping, optional
        The estimator's settings, see :func:`pipeline.classifiers.make_estimator`.
    drawing : Drawing, optional
        Which samples to use. Those in the cache are, if they were drawn in this way or if nothing
        is asked for; otherwise they are drawn anew, into a nameless file beside ``out``.
    holdout : float
        Share of the images whose samples are held out for the reported accuracy.
    seed : int
        Of the estimator, and of the choice of held-out images and of samples.
    max_samples : int, optional
        Most samples to fit on, see :func:`pipeline.classifiers.fit_classifier`. What there is more
        is left out at random.
    trusted : sequence of str
        Full names of types outside scikit-learn that the head may store.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    FitSparseResult

    Raises
    ------
    CacheError
        If the cache cannot be used.
    ClassifierError
        If the estimator cannot be built or fitted on these samples.
    WriteError
        If the head, or samples that are drawn anew, cannot be written.
    """
    out, progress = Path(out), progress or Silent()
    settings = dict(options or {})
    unfitted = make_estimator(estimator, seed=seed, **settings)  # a misspelt option fails at once
    with closing(FeatureCache(cache)) as opened:
        identity = opened.identity
        with closing(_samples(opened, split, drawing, out.parent, progress)) as samples:
            channels = samples.features.shape[1]
            progress.say(f"fitting {estimator} on {len(samples)} samples of {channels} channels")
            fit = fit_classifier(
                samples.features,
                samples.label,
                groups=samples.image,
                estimator=unfitted,
                n_classes=len(identity.classes),
                holdout=holdout,
                seed=seed,
                max_samples=max_samples,
            )
    if fit.n_unused:
        progress.say(
            f"{fit.n_unused} samples were left out at random, {fit.n_train} were fitted on; "
            "--max-samples says how many"
        )
    info = HeadInfo(
        stage="sparse",
        estimator=estimator,
        identity=identity,
        features=samples.drawing.features,
        settings={
            "split": split,
            "options": settings,
            "drawing": samples.drawing.model_dump(mode="json"),
            "holdout": holdout,
            "seed": seed,
            "max_samples": max_samples,
        },
        held_out=tuple(samples.image_ids[i] for i in fit.heldout_groups),
        metrics={
            "heldout_sample_accuracy": fit.heldout_accuracy,
            "samples": len(samples),
            "fitted_samples": fit.n_train,
        },
        software=versions(),
    )
    dense = is_dense(fit.estimator)
    if dense:
        save_head(out, Head.from_layers(to_layers(fit.estimator, len(identity.classes)), info))
    else:
        stored = dump_estimator(fit.estimator, trusted=trusted)
        save_head(out, Head(info, estimator=fit.estimator), estimator_bytes=stored)
    return FitSparseResult(out, fit.heldout_accuracy, len(samples), fit.n_train, dense)


def _samples(
    cache: FeatureCache, split: str, drawing: Drawing | None, folder: Path, progress: Progress
) -> StoredSamples:
    path, cached = samples_path(cache.path, split), cache[split]
    drawing = samples_drawing(path) if drawing is None else drawing
    if drawing is None or samples_are_current(path, cached.sources, cache.identity, drawing):
        return open_samples(path)  # or be told what is wrong with it
    progress.say(f"{path} was drawn otherwise or from other maps; drawing samples anew")
    make_folder(folder)
    tracked = progress.track(
        cached.image_ids, total=len(cached), unit="images", what=f"sampling {split}"
    )
    return put_aside(_drawn(cached, drawing, iter(tracked)), folder)


def _drawn(split: CachedSplit, drawing: Drawing, image_ids: Iterator[str]) -> Iterator[Samples]:
    """Draw samples of some images at a time."""
    while some := tuple(islice(image_ids, _AT_ONCE)):
        yield draw_samples(split, split.identity, drawing, some)
