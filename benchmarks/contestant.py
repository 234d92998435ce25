"""One tool in a process of its own: fit on labelled pixels, then segment whenever it is told to.

``python -m benchmarks.contestant TOOL FOLDER THREADS`` reads ``image.npy`` (H, W, 3) uint8,
``scribbles.npy`` (H, W) uint8 with 0 where there is no label, and ``vgg16.pth``. When it is ready
it says so; for every line of input it segments the image once and writes the seconds; at the end of
the input it writes the bytes of memory that segmenting took beyond its imports. It runs with
whatever interpreter has the tool, so only the pipeline's own contestants import the pipeline.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peak import Peak

Call = Callable[[], Any]
Fit = Callable[[], Call]

LAYERS = (0, 2, 5, 8, 11)
"""Of VGG-16's convolutions; the modules below are the same."""
TAPS = ("features.0", "features.5", "features.12", "features.19", "features.26")


def _convpaint(
    folder: Path, *, layers: tuple[int, ...] | None, scalings: tuple[int, ...], tiled: bool
) -> Fit:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    import catboost  # noqa: F401
    import napari_convpaint.feature_extractors.nnlayers as networks
    from napari_convpaint.convpaint_model import ConvpaintModel

    def fit() -> Call:
        # It would download ImageNet's weights; both get the same random ones.
        networks.guided_model_download = lambda *_: str(folder / "vgg16.pth")
        chosen = {} if layers is None else {"fe_layers": list(layers)}
        model = ConvpaintModel(fe_name="vgg16", fe_scalings=list(scalings), **chosen)
        # Around every single labelled pixel it would cut out a tile of its own, for fitting only.
        model.set_params(channel_mode="rgb", tile_image=tiled, tile_annotations=False)
        image = np.moveaxis(np.load(folder / "image.npy"), 2, 0)
        model.train(image, np.load(folder / "scribbles.npy"))
        return lambda: model.segment(image)

    return fit


def _scikit_image(folder: Path) -> Fit:
    """Follow scikit-image's example "Trainable segmentation using local features"."""
    from skimage import feature, future
    from sklearn.ensemble import RandomForestClassifier

    features = partial(
        feature.multiscale_basic_features,
        intensity=True,
        edges=False,
        texture=True,
        sigma_min=1,
        sigma_max=16,
        channel_axis=-1,
    )

    def fit() -> Call:
        image, labels = np.load(folder / "image.npy"), np.load(folder / "scribbles.npy")
        forest = RandomForestClassifier(
            n_estimators=50, n_jobs=-1, max_depth=10, max_samples=0.05, random_state=0
        )
        fitted = future.fit_segmenter(labels, features(image), forest)
        return lambda: future.predict_segmenter(features(image), fitted)

    return fit


def _pipeline(folder: Path, *, input_size: str, estimator: str) -> Fit:
    import torch

    from benchmarks.subjects import identity_for
    from pipeline import (
        Features,
        Head,
        Preprocessing,
        Segmenter,
        VocDataset,
        hypercolumns_at,
        load_backbone,
        save_head,
    )
    from pipeline.classifiers import make_estimator, to_layers
    from pipeline.heads import HeadInfo

    unfitted = make_estimator(estimator, seed=0)  # imports scikit-learn

    def fit() -> Call:
        image, scribbles = np.load(folder / "image.npy"), np.load(folder / "scribbles.npy")
        weights = folder / "vgg16.pth"
        backbone = load_backbone("vgg16", weights=weights, taps=TAPS)
        preprocessing = Preprocessing(input_size=input_size)
        classes = tuple(f"class {n}" for n in range(scribbles.max() + 1))
        dataset = VocDataset(folder, classes, 255)
        identity = identity_for(dataset, backbone, preprocessing)
        features = Features(context=())
        resized = preprocessing.resize_image(image)
        maps = [m[0] for m in backbone(torch.from_numpy(preprocessing.normalize(resized))[None])]
        ys, xs = np.nonzero(scribbles)
        height, width = resized.shape[:2]
        rows, columns = ys * height // len(image), xs * width // image.shape[1]
        used = features.apply(maps, identity.tap_names)
        samples = hypercolumns_at(
            used, torch.from_numpy(rows), torch.from_numpy(columns), (height, width)
        )
        fitted = unfitted.fit(samples.numpy(), scribbles[ys, xs])
        info = HeadInfo(stage="sparse", estimator=estimator, identity=identity, features=features)
        path = folder / f"{estimator}-{input_size}.safetensors"
        save_head(path, Head.from_layers(to_layers(fitted, len(classes)), info))
        segment = Segmenter(path, weights=weights)
        return lambda: segment(image)

    return fit


PYRAMID = (1, 2, 4)
OWN: dict[str, Callable[[Path], Fit]] = {
    "pipeline": partial(_pipeline, input_size="native", estimator="mlp"),
    "pipeline, input 224": partial(_pipeline, input_size="224", estimator="mlp"),
}
OTHERS: dict[str, Callable[[Path], Fit]] = {
    "convpaint": partial(_convpaint, layers=LAYERS, scalings=(1,), tiled=False),
    "convpaint, tiled": partial(_convpaint, layers=LAYERS, scalings=(1,), tiled=True),
    "convpaint, pyramid": partial(_convpaint, layers=LAYERS, scalings=PYRAMID, tiled=False),
    "convpaint, as it comes": partial(_convpaint, layers=None, scalings=PYRAMID, tiled=False),
    "scikit-image": _scikit_image,
}


def _go_first_when_memory_is_short() -> None:
    score = Path("/proc/self/oom_score_adj")
    if score.exists():
        score.write_text("1000")


def main(tool: str, folder: Path, threads: int) -> None:
    """Be a tool."""
    # What tools print goes to stderr, so that only the answers are on stdout.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _go_first_when_memory_is_short()
    fit = (OWN | OTHERS)[tool](folder)
    import torch

    torch.set_num_threads(threads)
    peak = Peak()
    segment = fit()
    labels = np.asarray(segment())
    peak.reset()
    answers.write(json.dumps({"shape": labels.shape}) + "\n")
    for _ in sys.stdin:
        start = time.perf_counter()
        segment()
        answers.write(json.dumps({"seconds": time.perf_counter() - start}) + "\n")
    answers.write(json.dumps({"peak": peak.bytes}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
