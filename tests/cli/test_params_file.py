"""params.yaml says what options leave out; options win; neither is needed where the other is."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline import Features, TrainSettings, VocDataset, load_head
from pipeline.cache import read_samples
from pipeline.cli import main
from pipeline.data import SCENE_CLASSES, read_note
from pipeline.stages.inspect import inspect_cache

PARAMS = """
data:
  root: {root}
  scenes: {{images: 4, seed: 2}}
extract:
  backbone: squeezenet1_0
  weights: random
  seed: 3
  taps: [conv1, fire2]
  splits: [val]
  input_size: 32
  dtype: int8
features: {{activation: none, context: [global]}}
samples: {{pixels_per_class: 2}}
fit_sparse:
  split: val
  estimator: sgd
  options: {{epochs: 2, alpha: 1e-2}}
  holdout: 0.4
fit_dense: {{split: val, epochs: 2, batch_size: 3, validate_on: null}}
evaluate: {{split: val, refine: guided:3:0.01}}
report: {{title: From the file, images: 2}}
"""


@pytest.fixture
def folder(empty_folder: Path, scenes: VocDataset) -> Path:
    """Work in a folder with a params.yaml."""
    Path("params.yaml").write_text(PARAMS.format(root=scenes.root))
    return empty_folder


@pytest.fixture
def pipeline(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run commands that must succeed, and give what they print."""

    def run(command: str) -> str:
        code = main(command.split())
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return run


def test_every_stage_reads_the_file(
    folder: Path, pipeline: Callable[..., str], scenes: VocDataset
) -> None:
    pipeline("extract --out cache")
    info = inspect_cache("cache")
    assert list(info["splits"]) == ["val"]
    assert info["identity"]["dtype"] == "int8"
    assert info["identity"]["preprocessing"]["input_size"] == "32"
    assert [tap["name"] for tap in info["identity"]["taps"]] == ["conv1", "fire2"]
    drawing = read_samples(Path("cache/val-samples.h5")).drawing
    assert drawing.features == Features(activation="none", context=("global",))
    assert drawing.pixels_per_class == 2

    pipeline("fit-sparse --cache cache --out sparse")
    sparse = load_head("sparse").info
    assert (sparse.estimator, len(sparse.held_out)) == ("sgd", 2)
    assert sparse.settings["options"] == {"epochs": 2, "alpha": 0.01}
    assert sparse.settings["drawing"] == drawing.model_dump(mode="json")

    pipeline("fit-dense --cache cache --init sparse --out dense --history history.csv")
    dense = load_head("dense").info
    asked = TrainSettings(epochs=2, batch_size=3).model_dump(mode="json")
    assert dense.settings.items() >= (asked | {"split": "val", "validate_on": None}).items()
    assert len(Path("history.csv").read_text().splitlines()) == 4

    pipeline("evaluate --cache cache --head dense --out metrics.json")
    metrics = json.loads(Path("metrics.json").read_text())
    assert (metrics["split"], metrics["images"]) == ("val", 6)
    assert metrics["refine"] == "guided:3:0.01"
    pipeline("report --cache cache --head a=dense --metrics a=metrics.json --out report")
    assert "<h1>From the file</h1>" in Path("report/index.html").read_text()
    assert "guided:3:0.01" in Path("report/index.html").read_text()
    image = scenes.image_path(scenes.image_ids("val")[0])
    assert pipeline(f"predict --head dense --out masks {image}") == "masks: 1 masks\n"
    note = read_note(Path(f"masks/{image.stem}.png"))
    assert note is not None
    assert note.endswith("refined by guided:3:0.01")
    with Image.open(image) as original, Image.open(f"masks/{image.stem}.png") as mask:
        assert mask.size == original.size


def test_options_win(folder: Path, pipeline: Callable[..., str]) -> None:
    pipeline(
        "extract --out cache --tap conv1 --split train --input-size 24 --dtype float32 "
        "--activation relu --context none --pixels-per-class 4 --sample-seed 5"
    )
    info = inspect_cache("cache")
    assert list(info["splits"]) == ["train"]
    assert info["identity"]["dtype"] == "float32"
    assert info["identity"]["preprocessing"]["input_size"] == "24"
    assert [tap["name"] for tap in info["identity"]["taps"]] == ["conv1"]
    drawing = read_samples(Path("cache/train-samples.h5")).drawing
    assert drawing.features == Features(activation="relu", context=())
    assert (drawing.pixels_per_class, drawing.seed) == (4, 5)

    pipeline(
        "fit-sparse --cache cache --out sparse --split train --estimator mlp --holdout 0 "
        "--option hidden=8 --option alpha=1e-3 --context global,3 --seed 6"
    )
    sparse = load_head("sparse").info
    assert (sparse.estimator, sparse.held_out) == ("mlp", ())
    assert sparse.settings["options"] == {"hidden": 8, "epochs": 2, "alpha": 0.001}
    assert sparse.settings["seed"] == 6
    # What an option does not say is as in the file, even where the cache was drawn otherwise.
    assert sparse.features == Features(activation="none", context=("global", "3"))

    pipeline("fit-dense --cache cache --init sparse --out dense --split train --epochs 1")
    dense = load_head("dense").info
    assert (dense.settings["epochs"], dense.settings["batch_size"]) == (1, 3)
    pipeline("evaluate --cache cache --head dense --split train --refine none --out metrics.json")
    metrics = json.loads(Path("metrics.json").read_text())
    assert (metrics["images"], metrics["refine"]) == (12, None)


def test_data_reads_the_file_too(folder: Path, pipeline: Callable[..., str], capsys) -> None:
    assert pipeline("data scenes --out a") == "a: 4 scenes, 7 classes\n"
    assert pipeline("data scenes --out b --images 3 --seed 2") == "b: 3 scenes, 7 classes\n"
    assert pipeline("data scenes --out c --images 3 --seed 0") == "c: 3 scenes, 7 classes\n"
    pictures = [Path(name, "JPEGImages/scene_0000.png").read_bytes() for name in "abc"]
    assert pictures[0] == pictures[1] != pictures[2]  # the file's seed is 2
    assert "(void: 255)" in pipeline("data check a")
    Path("params.yaml").write_text("data: {classes: [ground, thing], void: 254}")
    assert main(["data", "check", "a"]) == 1
    assert "there are 2 classes and void is 254" in capsys.readouterr().out
    names = ",".join(SCENE_CLASSES)  # the annotation files name them too
    assert f"classes: {names.replace(',', ', ')} (void: 255)" in pipeline(
        f"data check a --classes {names} --void 255"
    )


def test_another_params_file(folder: Path, pipeline: Callable[..., str]) -> None:
    Path("mine.yaml").write_text("data: {scenes: {images: 5}}")
    assert pipeline("data scenes --out a --params mine.yaml") == "a: 5 scenes, 7 classes\n"


@pytest.mark.parametrize(
    "command",
    [
        "data scenes --out a",
        "data check a",
        "extract --out cache",
        "fit-sparse --cache cache --out head",
        "fit-dense --cache cache --init head --out dense",
        "evaluate --cache cache --head head",
        "report --cache cache --head a=head --metrics a=metrics.json --out report",
        "predict --head head --out masks image.png",
    ],
)
def test_a_misspelt_key_is_named_with_what_was_meant(
    empty_folder: Path, mistake: Callable[..., str], command: str
) -> None:
    Path("params.yaml").write_text("extract:\n  input_sise: 64\n")
    expected = "params.yaml: extract.input_sise: unknown key; did you mean 'input_size'?"
    assert mistake(*command.split()) == expected
    Path("params.yaml").write_text("extract:\n  dtype: float8\n")
    assert mistake(*command.split()).startswith("params.yaml: extract.dtype: Input should be")
