"""Files of pixel samples."""

import random
import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np

from fuzz.hdf5_values import changed
from fuzz.steps import made, other_steps
from fuzz.targets.shards import DRAWING, identity_for, write_cache
from pipeline.cache import (
    count_samples,
    draw_samples,
    read_samples,
    samples_are_current,
    write_samples,
)

PACKAGES = "pipeline.cache pipeline.identity"


@cache
def sound() -> tuple[bytes, ...]:
    """Make the samples of a small cache, and no samples of the same."""
    with tempfile.TemporaryDirectory() as folder:
        opened, path = write_cache(Path(folder), "float16"), Path(folder) / "train-samples.h5"
        found = []
        for image_ids in (None, ()):
            samples = draw_samples(opened["train"], opened.identity, DRAWING, image_ids)
            sources = {name: {"image_digest": "0" * 32} for name in samples.image_ids}
            write_samples(path, samples, sources, opened.identity)
            found.append(path.read_bytes())
        opened.close()
    return tuple(found)


def seeds() -> list[bytes]:
    """Give every sound file."""
    return [bytes([nth]) for nth in range(len(sound()))]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the list of changes."""
    return other_steps(data, chance)


def check(data: bytes, folder: Path) -> None:
    """Read samples; what is read can be fitted on."""
    path = folder / "train-samples.h5"
    path.write_bytes(made(data, sound(), partial(changed, kind="samples")))
    assert samples_are_current(path, {}, identity_for("float16"), DRAWING) in (True, False)
    samples = read_samples(path)
    assert count_samples(path) == len(samples)
    assert samples.features.dtype == np.float32
    assert samples.features.ndim == 2
    assert len(samples.features) == len(samples.label) == len(samples.image)
    assert all(0 <= i < len(samples.image_ids) for i in samples.image)
