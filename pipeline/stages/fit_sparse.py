"""Stage two, first half: a pixel classifier on the cache's samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import (
    Drawing,
    FeatureCache,
    Samples,
    draw_samples,
    read_samples,
    samples_are_current,
    samples_path,
)
from pipeline.classifiers import dump_estimator, fit_classifier, is_dense, make_estimator, to_layers
from pipeline.heads import Head, HeadInfo, save_head
from pipeline.progress import Progress, Silent
from pipeline.software import versions


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
    dense : bool
        Whether the classifier can become a dense head.
    """

    head: Path
    heldout_accuracy: float | None
    samples: int
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
        is asked for; otherwise they are drawn anew, in memory.
    holdout : float
        Share of the images whose samples are held out for the reported accuracy.
    seed : int
        Of the estimator and of the choice of held-out images.
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
    """
    out, progress = Path(out), progress or Silent()
    opened = FeatureCache(cache)
    identity = opened.identity
    settings = dict(options or {})
    unfitted = make_estimator(estimator, seed=seed, **settings)  # a misspelt option fails at once
    samples = _samples(opened, split, drawing, progress)
    progress.say(
        f"fitting {estimator} on {len(samples)} samples of {samples.features.shape[1]} channels"
    )
    fit = fit_classifier(
        samples.features,
        samples.label,
        groups=samples.image,
        estimator=unfitted,
        n_classes=len(identity.classes),
        holdout=holdout,
        seed=seed,
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
        },
        held_out=tuple(samples.image_ids[i] for i in fit.heldout_groups),
        metrics={"heldout_sample_accuracy": fit.heldout_accuracy, "samples": len(samples)},
        software=versions(),
    )
    dense = is_dense(fit.estimator)
    if dense:
        save_head(out, Head.from_layers(to_layers(fit.estimator, len(identity.classes)), info))
    else:
        stored = dump_estimator(fit.estimator, trusted=trusted)
        save_head(out, Head(info, estimator=fit.estimator), estimator_bytes=stored)
    opened.close()
    return FitSparseResult(out, fit.heldout_accuracy, len(samples), dense)


def _samples(
    cache: FeatureCache, split: str, drawing: Drawing | None, progress: Progress
) -> Samples:
    path, cached = samples_path(cache.path, split), cache[split]
    if drawing is None:
        drawing = read_samples(path).drawing
    if samples_are_current(path, cached.sources, cache.identity, drawing):
        return read_samples(path)
    progress.say(f"{path} was drawn otherwise or from other maps; drawing samples anew")
    tracked = progress.track(
        cached.image_ids, total=len(cached), unit="images", what=f"sampling {split}"
    )
    return draw_samples(cached, cache.identity, drawing, tracked)
