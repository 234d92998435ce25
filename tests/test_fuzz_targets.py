"""The targets of the fuzzer: they run, and a few hundred changed inputs do no harm."""

import random
from pathlib import Path

import pytest
from PIL import Image

from fuzz.harness import load_target, mutate, run_one
from fuzz.targets import TARGETS
from pipeline.data import images


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    limits = images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS
    target, chance = load_target(name), random.Random(name)
    pool = target.seeds()
    for data in pool:
        run_one(target, data, tmp_path)
    for _ in range(60):
        data = mutate(target, chance.choice(pool), chance)
        run_one(target, data, tmp_path)
        pool.append(data)
    # What other tests in this process rely on is as it was.
    assert limits == (images.MAX_PIXELS, Image.MAX_IMAGE_PIXELS)


def test_a_reader_that_fails_is_found(tmp_path: Path) -> None:
    target = load_target("splits")

    class Failing:
        check = staticmethod(lambda data, folder: [target.check(data, folder), {}["missing"]])

    with pytest.raises(KeyError):
        run_one(Failing, b"a\n# void: 255\n", tmp_path)
