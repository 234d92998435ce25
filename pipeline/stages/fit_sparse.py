"""Stage two, first half: a pixel classifier on the cache's samples."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

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
from pipeline.classifiers import (
    FitResult,
    Layers,
    dump_estimator,
    fit_classifier,
    is_dense,
    make_estimator,
    to_layers,
)
from pipeline.classifiers.grid import Places, fit_grid, predict_grid
from pipeline.errors import ClassifierError, ParamsError
from pipeline.folders import make_folder
from pipeline.heads import Head, HeadInfo, save_head
from pipeline.hypercolumn import MAX_GRID
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
    grid: int = 1,
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
    grid : int
        K of a K x K grid of location-specific classifiers over the image, see
        :mod:`pipeline.classifiers.grid`; 1 for one classifier.
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
        If the estimator cannot be built or fitted on these samples, or cannot become a grid.
    WriteError
        If the head, or samples that are drawn anew, cannot be written.
    """
    out, progress = Path(out), progress or Silent()
    settings = dict(options or {})
    if not 1 <= grid <= MAX_GRID:
        raise ParamsError(f"a grid of {grid} x {grid} is none; give 1 to {MAX_GRID}")
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
            dense = is_dense(fit.estimator)
            layers, accuracy = None, fit.heldout_accuracy
            if dense:
                layers = to_layers(fit.estimator, len(identity.classes))
            if grid > 1:
                if layers is None:
                    raise ClassifierError(
                        f"{estimator} predicts in blocks and cannot become a grid of classifiers; "
                        "take mlp, logistic, svm or sgd"
                    )
                progress.say(f"fitting {grid} x {grid} of it")
                layers, accuracy = _on_grid(layers, samples, opened[split], fit, grid, seed)
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
        grid=grid,
        settings={
            "split": split,
            "options": settings,
            "grid": grid,
            "drawing": samples.drawing.model_dump(mode="json"),
            "holdout": holdout,
            "seed": seed,
            "max_samples": max_samples,
        },
        held_out=tuple(samples.image_ids[i] for i in fit.heldout_groups),
        metrics={
            "heldout_sample_accuracy": accuracy,
            "samples": len(samples),
            "fitted_samples": fit.n_train,
        },
        software=versions(),
    )
    if layers is not None:
        save_head(out, Head.from_layers(layers, info))
    else:
        stored = dump_estimator(fit.estimator, trusted=trusted)
        save_head(out, Head(info, estimator=fit.estimator), estimator_bytes=stored)
    return FitSparseResult(out, accuracy, len(samples), fit.n_train, dense)


def _on_grid(
    layers: Layers, samples: StoredSamples, split: CachedSplit, fit: FitResult, grid: int, seed: int
) -> tuple[Layers, float | None]:
    """Fit a grid of classifiers, and measure it on the images that were held out."""
    sizes = np.array([split.size(image_id) for image_id in samples.image_ids], np.int64)
    height, width = sizes[samples.image].T
    places = Places(samples.y, samples.x, height, width)
    rest = np.flatnonzero(np.isin(samples.image, fit.heldout_groups))
    X, y = samples.features, samples.label
    fitted = fit_grid(layers, X, y, places, fit.fitted_on, grid=grid, seed=seed)
    if not len(rest):
        return fitted, None
    predicted = predict_grid(fitted, X, places, rest, grid=grid)
    return fitted, float((predicted == y[rest]).mean())


def _samples(
    cache: FeatureCache, split: str, drawing: Drawing | None, folder: Path, progress: Progress
) -> StoredSamples:
    path, cached = samples_path(cache.path, split), cache[split]
    drawing = samples_drawing(path) if drawing is None else drawing
    if drawing is None or samples_are_current(path, cached.sources, cache.identity, drawing):
        return open_samples(path)  # or be told what is wrong with it
    drawing.features.select(cache.identity.tap_names)  # a misspelt tap fails at once
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
