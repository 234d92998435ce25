"""fit-boxes and evaluate-boxes as they are typed: in processes of their own, and with mistakes."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import VocDataset, load_box_head
from pipeline.cli import main
from pipeline.params import load_params

Run = Callable[..., subprocess.CompletedProcess[str]]
Mistake = Callable[..., str]
QUICK = ("--context", "none", "--grid", 2, "--points", 12, "--epochs", 1)


@pytest.mark.slow
def test_regions(run_pipeline: Run, cache: Path, scenes: VocDataset, tmp_path: Path) -> None:
    where = ("--cache", cache, "--dataset", scenes.root)
    done = run_pipeline("fit-boxes", *where, "--out", "h", *QUICK, "--taps", "fire5,conv1")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"h: 6 targets fitted on \d+ boxes, training loss 0\.\d{4}\n", done.stdout)
    assert "fitting 6 x 2 x 2 classifiers of 352 channels on " in done.stderr
    assert load_box_head(tmp_path / "h").info.features.taps == ("fire5", "conv1")

    done = run_pipeline("evaluate-boxes", *where, "--head", "h", "--out", "m.json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["class", "overlap", "AP^r", "0.5", "AP^r", "0.7"]
    assert [line.split()[0] for line in lines[1:8]] == [*scenes.classes[1:], "mean"]
    assert lines[8] == "6 images; ranked: true boxes"
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert lines[7].split()[1] == f"{metrics['mean_overlap']:.3f}"


@pytest.mark.slow
def test_keypoints_with_params(
    run_pipeline: Run, cache: Path, scenes: VocDataset, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(
        f"data: {{root: {scenes.root}}}\n"
        "features: {context: []}\n"
        "fit_boxes: {task: keypoints, epochs: 1, points: 12, grid: 3}\n"
        "evaluate_boxes: {split: train, alpha: 0.25}\n"
    )
    done = run_pipeline("fit-boxes", "--cache", cache, "--out", "h")
    assert done.returncode == 0, done.stderr
    assert load_box_head(tmp_path / "h").info.grid == 3
    done = run_pipeline("evaluate-boxes", "--cache", cache, "--head", "h", "--out", "m.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["keypoint", "PCK", "APK"]
    assert "quilt top left" in done.stdout
    assert done.stdout.endswith("12 images; ranked: true boxes\n")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert (metrics["alpha"], metrics["split"]) == (0.25, "train")


def test_without_a_data_set(mistake: Mistake, cache: Path, empty_folder: Path) -> None:
    assert mistake("fit-boxes", "--cache", cache, "--out", "h") == (
        "which data set? give --dataset, or data.root in params.yaml"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--grid 0", "options: grid: .*greater than or equal to 1"),
        ("--grid 51", "options: points: .*50 points cannot hold a grid of 51 cells"),
        ("--expansion 0.5", "options: expansion: .*greater than or equal to 1"),
        ("--learning-rate 0", "options: learning_rate: .*greater than 0"),
        ("--taps conv9", "no tap 'conv9' in this cache; it has conv1, fire3, fire5"),
        ("--context 4", "'4' is not a context"),
        ("--split test", "no split 'test'; it holds train, val"),
        ("--detections none.json", "none.json does not exist"),
    ],
)
def test_mistakes_of_fitting(
    mistake: Mistake,
    cache: Path,
    scenes: VocDataset,
    empty_folder: Path,
    options: str,
    expected: str,
) -> None:
    where = ("--cache", cache, "--dataset", scenes.root, "--out", "h")
    assert re.search(expected, mistake("fit-boxes", *where, *options.split()))
    assert list(empty_folder.iterdir()) == []


def test_mistakes_of_measuring(
    mistake: Mistake,
    cache: Path,
    scenes: VocDataset,
    sparse_head: Path,
    empty_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ("evaluate-boxes", "--cache", cache, "--dataset", scenes.root)
    assert "not a hypercolumn-box-head" in mistake(*where, "--head", sparse_head)
    assert "none: no such file" in mistake(*where, "--head", "none")
    said = mistake(*where, "--head", "none", "--threshold", 0)
    assert said.startswith("options: threshold: ")
    assert mistake(*where, "--head", "none", "--alpha", 0).startswith("options: alpha: ")

    fit = ["fit-boxes", "--cache", cache, "--dataset", scenes.root, "--out", "h", *QUICK]
    assert main([str(word) for word in fit]) == 0
    assert "pipeline fit-boxes" not in capsys.readouterr().out
    shutil.copytree(scenes.root, "other")
    first = scenes.image_ids("val")[0]
    Path("other/Annotations", f"{first}.xml").write_text("<!DOCTYPE a><annotation/>")
    said = mistake(*where[:-1], "other", "--head", "h")
    assert said.startswith(f"other/Annotations/{first}.xml declares a document type")


def test_params_are_those_of_the_library(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("fit_boxes: {grid: 10, learning_rate: 0.01}\n")
    chosen = load_params(path).fit_boxes
    assert (chosen.task, chosen.split, chosen.settings().grid) == ("figure-ground", "train", 10)
    assert chosen.settings().learning_rate == 0.01
