"""The commands as they are spelt in the README, one after the other.

They run in this process: tests/test_readme.py and tests/test_dvc.py start each as a user would.
"""

import json
import re
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import FeatureCache, VocDataset, load_head
from pipeline.cli import main
from pipeline.data import VOC_PALETTE

pytestmark = pytest.mark.slow

SUMMARY = {"pixel_accuracy", "mean_class_accuracy", "mean_iou", "classes_counted", "iou"}

COMMANDS = {
    "scenes": "data scenes --out scenes --images 9 --seed 5",
    "check": "data check scenes",
    "extract": "extract --backbone squeezenet1_0 --weights random --dataset scenes "
    "--split train --split val --out cache --input-size 96 --dtype float16",
    "fit-sparse": "fit-sparse --cache cache --out sparse.safetensors --estimator mlp",
    "fit-dense": "fit-dense --cache cache --init sparse.safetensors --out dense.safetensors "
    "--epochs 1",
    "evaluate": "evaluate --cache cache --split val --head dense.safetensors --out metrics.json",
    "predict": "predict --head dense.safetensors --weights random --out masks scenes/JPEGImages",
    "report": "report --cache cache --head dense=dense.safetensors --metrics dense=metrics.json "
    "--out report",
}


@dataclass(frozen=True)
class Said:
    """What a command has written on stdout and stderr."""

    stdout: str
    stderr: str


Done = dict[str, Said]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="module")
def done(folder: Path) -> Done:
    """Run every command, in an empty folder without params.yaml."""
    results: Done = {}
    for name, command in COMMANDS.items():
        with (
            chdir(folder),
            redirect_stdout(StringIO()) as out,
            redirect_stderr(StringIO()) as err,
        ):
            code = main(command.split())
        assert code == 0, err.getvalue()
        results[name] = Said(out.getvalue(), err.getvalue())
    return results


def test_data(done: Done, folder: Path) -> None:
    assert done["scenes"].stdout == "scenes: 9 scenes, 7 classes\n"
    assert done["check"].stdout.splitlines()[0] == "scenes: no problems"
    assert "train (6 images)" in done["check"].stdout
    assert len(VocDataset.open(folder / "scenes").image_ids("val")) == 3


def test_extract(done: Done, folder: Path) -> None:
    """What will happen is said before it does; what happened is said afterwards."""
    said = done["extract"].stderr.splitlines()
    assert said[0] == "images: 6 train, 3 val"
    assert said[1].endswith("; 1504 channels")
    assert re.fullmatch(r"to write: [\d.]+ MB to cache; free: [\d.]+ [GM]B", said[2])
    assert any(re.fullmatch(r"extracting train: 6 images in .*images/s\)", line) for line in said)
    cache = FeatureCache(folder / "cache")
    assert done["extract"].stdout == (
        f"cache: 9 images, 9 computed now, 0 skipped, fingerprint {cache.identity.fingerprint}\n"
    )
    assert cache.identity.preprocessing["input_size"] == "96"
    assert cache.identity.dtype == "float16"
    assert cache["val"].size(cache["val"].image_ids[0]) == (96, 96)
    promised, unit = said[2].split()[2:4]
    assert unit == "MB"
    written = sum(path.stat().st_size for path in (folder / "cache").iterdir())
    assert written == pytest.approx(float(promised) * 1e6, rel=0.05)


def test_heads(done: Done, folder: Path) -> None:
    assert re.fullmatch(
        r"sparse\.safetensors: fitted on \d+ pixel samples, held-out accuracy 0\.\d{4}\n",
        done["fit-sparse"].stdout,
    )
    assert done["fit-dense"].stdout in {
        "dense.safetensors: epoch 0 kept\n",
        "dense.safetensors: epoch 1 kept\n",
    }
    said = done["fit-dense"].stderr
    assert "epoch 0: validation loss" in said
    assert "epoch 1: training loss" in said
    sparse, dense = (load_head(folder / f"{name}.safetensors") for name in ("sparse", "dense"))
    assert (sparse.info.stage, dense.info.stage) == ("sparse", "dense")
    assert dense.info.metrics["history"]["epoch"] == [0, 1]
    assert not list(folder.glob("*.checkpoint"))


def test_metrics(done: Done, folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    classes = list(VocDataset.open(folder / "scenes").classes)
    for summary in (metrics, metrics["cache_resolution"]):
        assert summary.keys() >= SUMMARY
        assert list(summary["iou"]) == classes
        counted = [value for value in summary["iou"].values() if value is not None]
        assert summary["classes_counted"] == len(counted)
        assert summary["mean_iou"] == pytest.approx(np.mean(counted))
        assert 0 < summary["pixel_accuracy"] < 1
        assert 0 < summary["mean_class_accuracy"] < 1
    pixels = sum(
        int((VocDataset.open(folder / "scenes").read_mask(i) != 255).sum())
        for i in VocDataset.open(folder / "scenes").image_ids("val")
    )
    assert np.sum(metrics["confusion_matrix"]) == pixels  # at the images' own sizes

    told = done["evaluate"].stdout.splitlines()
    assert [line.split()[0] for line in told[: len(classes)]] == classes
    assert f"mean IoU {metrics['mean_iou']:.4f} over {metrics['classes_counted']}" in told[-2]
    assert f"mean IoU {metrics['cache_resolution']['mean_iou']:.4f}" in told[-1]
    assert "was chosen on 'val', which flatters" in done["evaluate"].stderr


def test_predict(done: Done, folder: Path) -> None:
    assert done["predict"].stdout == "masks: 9 masks\n"
    images = sorted((folder / "scenes" / "JPEGImages").iterdir())
    for path in images:
        with Image.open(path) as image, Image.open(folder / "masks" / f"{path.stem}.png") as mask:
            assert (mask.mode, mask.size) == ("P", image.size)
            palette = np.array(mask.getpalette("RGB")).reshape(-1, 3)
            assert np.array_equal(palette, VOC_PALETTE[: len(palette)])
            assert np.asarray(mask).max() < 7
    assert len(list((folder / "masks").iterdir())) == len(images) == 9


def test_report(done: Done, folder: Path) -> None:
    assert done["report"].stdout == f"{Path('report', 'index.html')}\n"
    page = (folder / "report" / "index.html").read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{metrics['mean_iou']:.3f}" in page
    assert (folder / "report" / "comparison.png").exists()


def test_cache_info_and_verify(
    done: Done, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = folder / "cache"
    assert main(["cache", "info", str(cache)]) == 0
    told = capsys.readouterr().out.splitlines()
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in told)
    assert rows["backbone"].startswith("squeezenet1_0, weights ")
    assert rows["taps"].endswith("; 1504 channels")
    assert rows["stored as"] == "float16"
    assert rows["split val"].startswith("3 images, 1 of 1 shards (")

    assert main(["cache", "info", str(cache), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fingerprint"] == rows["fingerprint"] == FeatureCache(cache).identity.fingerprint
    assert found["splits"]["train"]["images"] == 6
    assert f"{found['bytes'] / 1e6:.1f} MB" == rows["size"]

    assert main(["cache", "verify", str(cache)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{cache}: sound\n"
    assert "verifying train: 6 images" in captured.err


def test_extracting_again_computes_nothing(
    done: Done,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = {path.name: path.stat().st_mtime_ns for path in Path("cache").glob("*-of-*.h5")}
    assert main(COMMANDS["extract"].split()) == 0
    captured = capsys.readouterr()
    assert "9 images are in the cache already" in captured.err
    assert "9 images, 0 computed now" in captured.out
    assert before == {p.name: p.stat().st_mtime_ns for p in Path("cache").glob("*-of-*.h5")}


def test_the_same_seed_gives_the_same_metrics(
    done: Done,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stage two once more, with images and network out of reach: the same to the last digit."""
    (tmp_path / "cache").symlink_to(folder / "cache")
    monkeypatch.chdir(tmp_path)
    for name in ("fit-sparse", "fit-dense", "evaluate"):
        assert main(COMMANDS[name].split()) == 0
    assert Path("metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()
