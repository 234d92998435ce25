"""What changes a feature is noticed, named, and done again; what does not costs nothing."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fuzz.shard_values import of_later_identity
from pipeline import Drawing, FeatureCache, Features, Preprocessing, VocDataset, load_backbone
from pipeline.errors import CacheMismatchError

IMAGES, VAL = 7, 2
TAPS = ["conv1", "fire3", "fire5"]
CHANGED = 3
"""Which of the five images of train is changed."""


def repaint(path: Path) -> None:
    """Change one pixel of an image or a mask, keeping its labels valid."""
    with Image.open(path) as image:
        palette, pixels = image.getpalette(), np.array(image)
    pixels[0, 0] = pixels[0, 0] == 0
    changed = Image.fromarray(pixels)
    if palette:
        changed.putpalette(palette)
    changed.save(path)


def resave(path: Path) -> None:
    """Write the same pixels in other bytes."""
    with Image.open(path) as image:
        image.load()
        image.save(path, compress_level=0)


def other_taps(taps: list[str]) -> dict[str, Any]:
    return {"backbone": load_backbone("squeezenet1_0", weights="random", taps=taps)}


def otherwise(name: str, dataset: VocDataset) -> dict[str, Any]:
    """Give what is to be said to extract so that a feature becomes another."""
    changes: dict[str, Callable[[], dict[str, Any]]] = {
        "weights": lambda: {
            "backbone": load_backbone("squeezenet1_0", weights="random", taps=TAPS, seed=1)
        },
        "network": lambda: {
            "backbone": load_backbone(
                "squeezenet1_1", weights="random", taps=["features.0", "features.3"]
            )
        },
        "fewer taps": lambda: other_taps(TAPS[:2]),
        "another order of taps": lambda: other_taps(TAPS[::-1]),
        "another layer under the name of a tap": lambda: other_taps(
            [*TAPS[:2], "fire5=features.4"]
        ),
        "normalisation": lambda: {"preprocessing": Preprocessing("raw", "native")},
        "size": lambda: {"preprocessing": Preprocessing(input_size="short:48")},
        "geometry": lambda: {"geometry": "align_corners"},
        "dtype": lambda: {"dtype": "float32"},
        "what is stored": lambda: {"recompute_first": True},
        "class names": lambda: {
            "dataset": replace(dataset, classes=(*dataset.classes[:-1], "worm"))
        },
        "void": lambda: {"dataset": replace(dataset, void=254)},
    }
    return changes[name]()


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("weights", "weights: "),
        ("network", "backbone: squeezenet1_0, not squeezenet1_1; weights: .*; taps: "),
        (
            "fewer taps",
            r'weights: .*; taps: \["conv1", "fire3", "fire5"\], not \["conv1", "fire3"\]',
        ),
        ("another order of taps", r'taps: .*, not \["fire5", "fire3", "conv1"\]'),
        (
            "another layer under the name of a tap",
            r"weights: .*; taps: .*features\.7\..*features\.4",
        ),
        ("normalisation", 'preprocessing: .*"imagenet".*, not .*"raw"'),
        ("size", 'preprocessing: .*"native".*, not .*"short:48"'),
        ("geometry", "geometry: half_pixel, not align_corners"),
        ("dtype", "dtype: float16, not float32"),
        ("what is stored", "recompute_first: false, not true"),
        ("class names", 'classes: .*"snake"], not .*"worm"]'),
        ("void", "void: 255, not 254"),
    ],
)
def test_what_changes_every_feature_is_refused_by_name_until_told_to_replace(
    run: Any,
    dataset: VocDataset,
    values: Any,
    backbone_runs: Callable[[], int],
    tmp_path: Path,
    what: str,
    named: str,
) -> None:
    run = partial(run, splits=["val"])
    if what == "void":  # some of the scenes have the label 255
        for image_id in dataset.image_ids("val"):
            mask = np.where(dataset.read_mask(image_id) == 255, 0, 1).astype(np.uint8)
            Image.fromarray(mask).save(dataset.mask_path(image_id))
    run()
    before = values(tmp_path / "cache", ["val"])
    changes = otherwise(what, dataset)
    backbone_runs()
    with pytest.raises(
        CacheMismatchError, match=rf"cache made otherwise \({named}.*--replace"
    ) as e:
        run(**changes)
    assert "\n" not in str(e.value)
    assert backbone_runs() == 0
    assert values(tmp_path / "cache", ["val"]) == before
    assert run(**changes, replace=True).computed == backbone_runs() == VAL
    run(**changes, out=tmp_path / "fresh")
    assert values(tmp_path / "cache", ["val"]) == values(tmp_path / "fresh", ["val"])


@pytest.mark.parametrize("changes", [{}, {"thorough": True}, {"images_per_shard": 3}])
def test_a_cache_of_a_later_version_is_kept_until_told_to_replace(
    run: Any,
    extracted: Path,
    values: Any,
    backbone_runs: Callable[[], int],
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    before = values(extracted)
    (path, *_) = sorted(extracted.glob("*-of-?????.h5"))
    path.write_bytes(of_later_identity(path.read_bytes(), tiles=4))
    contents = {file.name: file.read_bytes() for file in extracted.glob("[!.]*")}
    with pytest.raises(CacheMismatchError, match=r"by a newer version.*--replace \(tiles"):
        run(**changes)
    assert backbone_runs() == 0
    assert {file.name: file.read_bytes() for file in extracted.glob("[!.]*")} == contents
    run(**changes, replace=True)
    assert values(extracted) == before


@pytest.mark.parametrize(
    ("kinds", "change"),
    [
        (("image",), repaint),
        (("mask",), repaint),
        (("image", "mask"), repaint),
        (("image",), resave),
    ],
)
def test_a_changed_file_has_its_image_alone_done_again_and_named(
    run: Any,
    dataset: VocDataset,
    values: Any,
    listening: Any,
    backbone_runs: Callable[[], int],
    extracted: Path,
    tmp_path: Path,
    kinds: tuple[str, ...],
    change: Callable[[Path], None],
) -> None:
    before = values(extracted)
    shards = {path.name: path.stat().st_ino for path in (extracted).glob("*-of-?????.h5")}
    changed = dataset.image_ids("train")[CHANGED]
    for kind in kinds:
        change(getattr(dataset, f"{kind}_path")(changed))
    assert run(progress=listening).computed == backbone_runs() == 1
    named = f"1 images have changed and are done again: {changed} ({', '.join(kinds)})"
    assert named in listening.lines
    after = {path.name: path.stat().st_ino for path in (extracted).glob("*-of-?????.h5")}
    assert {name for name in after if after[name] != shards[name]} == {"train-00001-of-00003.h5"}
    run(out=tmp_path / "fresh")
    assert values(extracted) == values(tmp_path / "fresh")  # the samples too
    assert (values(extracted) == before) == (change is resave)


def test_many_changed_images_are_counted_and_some_named(
    run: Any, dataset: VocDataset, listening: Any, extracted: Path
) -> None:
    ids = (*dataset.image_ids("train"), *dataset.image_ids("val"))
    for image_id in ids:
        repaint(dataset.mask_path(image_id))
    assert run(progress=listening).computed == IMAGES
    (line,) = (line for line in listening.lines if "have changed" in line)
    assert line.startswith("7 images have changed and are done again: ")
    assert sum(image_id in line for image_id in ids) == 5
    assert line.endswith(", ...")


def moved(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    root = tmp_path / "another" / "name"
    root.parent.mkdir()
    shutil.move(dataset.root, root)
    return {"dataset": VocDataset.open(root)}


def copied_with_other_times(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    for path in dataset.root.rglob("*.png"):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        os.utime(path, (1, 1))
    return {}


def other_blanks(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    path = dataset.split_path("train")
    ids = dataset.image_ids("train")
    path.write_bytes(b"\xef\xbb\xbf\r\n  " + "  \r\n\t\r\n".join(ids).encode() + b"\n\n\n")
    return {}


def moved_cache(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    return {"out": (tmp_path / "cache").rename(tmp_path / "elsewhere")}


def loaded_again(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    return {"backbone": load_backbone("squeezenet1_0", weights="random", taps=TAPS)}


def more_files(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    """Add what no split lists, and a listing of classes as they are known anyway."""
    ids = dataset.image_ids("train")
    shutil.copy(dataset.image_path(ids[0]), dataset.root / "JPEGImages" / "another.png")
    (dataset.root / "ImageSets" / "Segmentation" / "test.txt").write_text(ids[0])
    (dataset.root / "README.txt").write_text("about these scenes")
    return {}


def more_threads(dataset: VocDataset, tmp_path: Path) -> dict[str, Any]:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return {}


@pytest.mark.parametrize(
    "change",
    [
        {"images_per_shard": 1},
        {"images_per_shard": 3},
        {"images_per_shard": 64},
        {"batch_size": 4},
        {"compression": "gzip"},
        {"compression": "gzip", "images_per_shard": 4},
        {"on_error": "skip"},
        {"thorough": True},
        {"replace": True},
        {"splits": ["val", "train"]},
        moved,
        copied_with_other_times,
        other_blanks,
        moved_cache,
        loaded_again,
        more_files,
        more_threads,
    ],
    ids=lambda change: change.__name__ if callable(change) else str(change),
)
def test_what_changes_no_feature_computes_nothing(
    run: Any,
    dataset: VocDataset,
    values: Any,
    listening: Any,
    backbone_runs: Callable[[], int],
    extracted: Path,
    tmp_path: Path,
    change: Any,
) -> None:
    fingerprint = FeatureCache(extracted).identity.fingerprint
    before = values(extracted)
    threads = torch.get_num_threads()
    changes = change(dataset, tmp_path) if callable(change) else change
    try:
        result = run(**changes, progress=listening)
    finally:
        torch.set_num_threads(threads)
    assert backbone_runs() == 0
    assert (result.images, result.computed) == (IMAGES, 0)
    assert result.fingerprint == fingerprint
    assert "changed" not in listening.text
    assert values(result.cache) == before


@pytest.mark.parametrize(
    "drawing",
    [
        Drawing(features=Features(context=()), pixels_per_class=3),
        Drawing(features=Features(context=()), pixels_per_class=2, seed=1),
        Drawing(features=Features(context=("global",)), pixels_per_class=2),
        Drawing(features=Features(context=(), activation="none"), pixels_per_class=2),
    ],
)
def test_other_samples_are_drawn_without_the_backbone(
    run: Any,
    values: Any,
    backbone_runs: Callable[[], int],
    extracted: Path,
    tmp_path: Path,
    drawing: Drawing,
) -> None:
    before = values(extracted)
    assert run(drawing=drawing).computed == backbone_runs() == 0
    after = values(extracted)
    run(drawing=drawing, out=tmp_path / "fresh")
    assert after == values(tmp_path / "fresh")
    assert after["train", "features"] != before["train", "features"]
