"""A small data set to spoil, and commands that must refuse what was spoilt."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.data import write_mask

# The tests of this folder share corpus.py, which pytest would not find.
sys.path.insert(0, str(Path(__file__).parent))

SIZE = (24, 32)
IDS = ("first", "odd", "last")


@dataclass(frozen=True)
class DataSet:
    """A data set in the VOC layout; the image ``odd`` is the one to spoil."""

    root: Path

    @property
    def split(self) -> Path:
        return self.root / "ImageSets" / "Segmentation" / "train.txt"

    @property
    def mask(self) -> Path:
        return self.root / "SegmentationClass" / "odd.png"

    def image(self, suffix: str) -> Path:
        """Remove the image and say where one with that suffix belongs."""
        (self.root / "JPEGImages" / "odd.png").unlink(missing_ok=True)
        return self.root / "JPEGImages" / f"odd{suffix}"

    def add(self, image_id: str) -> None:
        with self.split.open("a") as file:
            file.write(f"{image_id}\n")


@pytest.fixture(scope="session")
def sound_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three images of 24x32 pixels with masks of three classes."""
    root = tmp_path_factory.mktemp("sound") / "set"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for number, image_id in enumerate(IDS):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(image).save(root / "JPEGImages" / f"{image_id}.png")
        mask = rng.choice([0, 1, 2, 255], SIZE).astype(np.uint8)
        write_mask(root / "SegmentationClass" / f"{image_id}.png", mask)
    listing = "".join(f"{image_id}\n" for image_id in IDS)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text(listing)
    (root / "classes.txt").write_text("ground\ncat\ndog\n")
    return root


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder: without params.yaml."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def data_set(sound_set: Path, workplace: Path) -> DataSet:
    shutil.copytree(sound_set, workplace / "set")
    return DataSet(Path("set"))


@pytest.fixture
def extraction() -> list[str]:
    """Give the words of a cheap extraction of ``set`` that would work."""
    words = "extract --backbone squeezenet1_0 --weights random --tap conv1 --tap fire3"
    words += " --dataset set --split train --input-size 32 --out out"
    return words.split()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must refuse its input, and give the one line that says why."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert [line for line in lines if line.startswith(("Error", "Traceback"))] == lines[-1:]
        assert lines[-1].startswith("Error: ")
        return lines[-1].removeprefix("Error: ")

    return run


@pytest.fixture
def problems(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Run ``data check`` on a data set that is not in order, and give what it lists."""

    def run(root: Path, *words: object) -> list[str]:
        assert main(["data", "check", str(root), *map(str, words)]) == 1
        captured = capsys.readouterr()
        *listed, count = captured.out.splitlines()
        assert count == f"{len(listed)} problem{'s' if len(listed) > 1 else ''}"
        assert "Error" not in captured.err
        return listed

    return run
