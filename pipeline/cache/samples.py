"""Pixel samples: (hypercolumn, label) pairs drawn from a cached split.

The file ``<split>-samples.h5`` holds, for ``n`` samples of ``D`` channels::

    features   (n, D) float32    hypercolumns
    label      (n,) uint8        classes
    image      (n,) int64        position in image_ids
    y, x       (n,) int64        pixel, at the network's input size
    image_ids  (images,) str     ids of the split's images

and says in its attributes with which features, count and seed they were drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipeline.cache.encoding import digest
from pipeline.cache.files import REMEDY, describe, open_described, written_whole
from pipeline.cache.reader import CachedSplit
from pipeline.errors import CacheDamagedError, CacheError, CacheNotFoundError
from pipeline.hypercolumn import Features, hypercolumns_at
from pipeline.identity import Identity

_ARRAYS = ("features", "label", "image", "y", "x")


class Drawing(BaseModel):
    """How samples are drawn: everything that decides which pixels and which channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Features = Features()
    pixels_per_class: int = Field(default=3, ge=1)
    void_as_background: bool = False
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Samples:
    """Pixel samples of one split; see the module's text for shapes and dtypes."""

    features: NDArray[np.float32]
    label: NDArray[np.uint8]
    image: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    image_ids: tuple[str, ...]
    drawing: Drawing

    def __len__(self) -> int:
        return len(self.label)


def draw_pixels(
    label: NDArray[np.uint8], image_id: str, *, void: int, pixels_per_class: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose pixels of each class present in an image, without replacement.

    The choice depends on the label, the image's id and the seed alone, so neither the order of
    the images nor who draws them matters.

    Returns
    -------
    ys, xs : array of int64
        ``pixels_per_class`` pixels of each class, fewer where a class has fewer.
    """
    generator = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(image_id.encode())])
    chosen = []
    for value in np.unique(label[label != void]):
        pixels = np.flatnonzero(label == value)
        count = min(pixels_per_class, len(pixels))
        chosen.append(np.sort(generator.choice(pixels, count, replace=False)))
    flat = np.concatenate(chosen) if chosen else np.empty(0, np.int64)
    ys, xs = np.divmod(flat.astype(np.int64), label.shape[1])
    return ys, xs


def draw_samples(
    split: CachedSplit, identity: Identity, drawing: Drawing, image_ids: Iterable[str] | None = None
) -> Samples:
    """Draw samples from a cached split.

    Parameters
    ----------
    split : CachedSplit
        Where maps and labels are read from.
    identity : Identity
        Of the cache the split belongs to.
    drawing : Drawing
        What to draw.
    image_ids : iterable of str, optional
        The split's images, in order; for callers that show progress.

    Returns
    -------
    Samples
    """
    drawn: dict[str, list[NDArray[Any]]] = {name: [] for name in _ARRAYS}
    used = drawing.features.select(identity.tap_names)
    taps = [identity.tap_names[i] for i in used]
    for index, image_id in enumerate(split.image_ids if image_ids is None else image_ids):
        label = split.label(image_id, void_as_background=drawing.void_as_background)
        ys, xs = draw_pixels(
            label,
            image_id,
            void=identity.void,
            pixels_per_class=drawing.pixels_per_class,
            seed=drawing.seed,
        )
        maps = [torch.from_numpy(m) for m in split.maps(image_id, taps)]
        columns = hypercolumns_at(
            drawing.features.apply(maps),
            torch.from_numpy(ys),
            torch.from_numpy(xs),
            (label.shape[0], label.shape[1]),
            identity.geometry,
        )
        drawn["features"].append(columns.numpy())
        drawn["label"].append(label[ys, xs])
        drawn["image"].append(np.full(len(ys), index, np.int64))
        drawn["y"].append(ys)
        drawn["x"].append(xs)
    return Samples(
        **{name: np.concatenate(parts) for name, parts in drawn.items()},
        image_ids=split.image_ids,
        drawing=drawing,
    )


def samples_path(directory: Path, split: str) -> Path:
    """Give the path of a split's samples file."""
    return directory / f"{split}-samples.h5"


def samples_are_current(
    path: Path, split: CachedSplit, identity: Identity, drawing: Drawing
) -> bool:
    """Tell whether a samples file holds what :func:`draw_samples` would draw now."""
    try:
        file, found, details = open_described(path, "samples")
    except CacheError:
        return False
    with file:
        return (
            found == identity
            and details["drawing"] == drawing.model_dump(mode="json")
            and details["sources"] == _sources_digest(split)
        )


def write_samples(path: Path, samples: Samples, split: CachedSplit, identity: Identity) -> None:
    """Write samples to a file that exists whole or not at all."""
    with written_whole(path) as file:
        for name in _ARRAYS:
            array = getattr(samples, name)
            file.create_dataset(name, data=array).attrs["xxh3"] = digest(array)
        file["image_ids"] = list(samples.image_ids)
        file["image_ids"].attrs["xxh3"] = digest(_as_bytes(samples.image_ids))
        details = {
            "split": split.name,
            "drawing": samples.drawing.model_dump(mode="json"),
            "sources": _sources_digest(split),
        }
        describe(file, identity, "samples", details)


def read_samples(path: Path) -> Samples:
    """Read a samples file, checking every array against its digest.

    Raises
    ------
    CacheNotFoundError
        If there is none.
    CacheDamagedError
        If an array does not match its digest.
    """
    if not path.exists():
        raise CacheNotFoundError(f"{path}: no samples there; run 'pipeline extract' first")
    file, _, details = open_described(path, "samples")
    arrays = {}
    with file:
        for name in (*_ARRAYS, "image_ids"):
            try:
                dataset = file[name]
                if name == "image_ids":
                    image_ids = tuple(dataset.asstr()[()])
                    found = digest(_as_bytes(image_ids))
                else:
                    arrays[name] = dataset[()]
                    found = digest(arrays[name])
                expected = dataset.attrs["xxh3"]
            except (KeyError, OSError, RuntimeError, ValueError) as error:
                raise CacheDamagedError(f"{path}: {name} is damaged; {REMEDY}") from error
            if found != expected:
                raise CacheDamagedError(f"{path}: {name} is damaged; {REMEDY}")
    return Samples(**arrays, image_ids=image_ids, drawing=Drawing(**details["drawing"]))


def _as_bytes(image_ids: Iterable[str]) -> NDArray[np.uint8]:
    """Give ids in a form that has a digest."""
    return np.frombuffer("\n".join(image_ids).encode(), np.uint8)


def _sources_digest(split: CachedSplit) -> str:
    hasher = xxhash.xxh3_128()
    for image_id in split.image_ids:
        hasher.update(f"{image_id} {sorted(split.sources(image_id).items())}\n".encode())
    return hasher.hexdigest()
