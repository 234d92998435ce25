"""Context of named taps and refined predictions, as a person types them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import VocDataset, load_head

pytestmark = pytest.mark.slow


def test_the_whole_way(
    run_pipeline: Callable[..., "subprocess.CompletedProcess[str]"],
    cache: Path,
    scenes: VocDataset,
    tmp_path: Path,
) -> None:
    def run(*words: object) -> str:
        done = run_pipeline(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    context = "global,fire3:global,conv1:5"
    run("fit-sparse", "--cache", cache, "--out", "h", "--option", "hidden=16", "--context", context)
    info = load_head(tmp_path / "h").info
    assert info.features.context == tuple(context.split(","))
    assert info.channels == [96, 128, 256, 256, 128, 96]

    how = ("--refine", "guided:4:0.01")
    said = run("evaluate", "--cache", cache, "--head", "h", *how, "--out", "m.json")
    assert "at original resolution: mean IoU" in said
    assert json.loads((tmp_path / "m.json").read_text())["refine"] == how[1]

    pytest.importorskip("skimage", reason="needs the extra 'superpixels'")
    photo = scenes.image_path(scenes.image_ids("val")[0])
    how = ("--refine", "superpixels:20")
    run("predict", "--head", "h", "--weights", "random", *how, "--out", "masks", photo)
    with Image.open(tmp_path / "masks" / f"{photo.stem}.png") as mask, Image.open(photo) as image:
        assert mask.size == image.size
        labels = np.asarray(mask)
    # So few regions have few pieces of border between them.
    assert (labels[:, 1:] != labels[:, :-1]).mean() < 0.1
