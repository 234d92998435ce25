"""Heads and checkpoints made to hurt, with right digests: refused at once, in little memory."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from limits import (
    require_one_line,
    within_limits,
)
from sketches import (
    head_info,
    read_checkpoint,
    read_head,
    sketched_estimator,
    sketched_head,
    write_checkpoint,
)

from pipeline.cli import main
from pipeline.errors import ClassifierError, HeadError, PipelineError
from pipeline.heads import FORMAT as HEAD
from pipeline.heads import Head, save_head
from pipeline.stages.predict import Segmenter
from pipeline.tensorfile import read_tensors, write_tensors
from pipeline.training.run import CHECKPOINT

Change = Callable[[dict[str, Any], dict[str, str]], None]


def changed(name: str, tensor: torch.Tensor) -> Change:
    return lambda tensors, metadata: tensors.update({name: tensor})


def without(name: str) -> Change:
    return lambda tensors, metadata: tensors.__delitem__(name)


def history(text: str) -> Change:
    return lambda tensors, metadata: metadata.update(history=text)


def epochs(**columns: Any) -> Change:
    def edit(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
        metadata["history"] = json.dumps(json.loads(metadata["history"]) | columns)

    return edit


CHECKPOINTS = {
    "history nested too deeply": history("[" * 100_000),
    "history is a list": history("[]"),
    "history is empty": history(""),
    "no epochs": epochs(epoch=[]),
    "other epochs": epochs(epoch=[0, 7]),
    "epochs are text": epochs(epoch="01"),
    "half a column": epochs(train_loss=[None]),
    "best epoch to come": epochs(best_epoch=2),
    "best epoch is none": epochs(best_epoch=None),
    "unknown column": epochs(surprise=[1, 2]),
    "no history": lambda tensors, metadata: metadata.__delitem__("history"),
    "no weights": without("now.head.weights.0"),
    "no best": without("best.head.biases.1"),
    "no steps": without("now.steps"),
    "half the moments": without("now.optimizer.2.exp_avg"),
    "one weight for all": changed("now.head.weights.0", torch.ones(1, 1)),
    "other dtype": changed("now.head.biases.0", torch.ones(2, dtype=torch.float64)),
    "moments of another shape": changed("now.optimizer.0.exp_avg", torch.ones(1)),
    "another tensor": changed("now.optimizer.99.exp_avg", torch.ones(1)),
    "steps are many": changed("now.steps", torch.ones(3, dtype=torch.int64)),
}


@pytest.mark.parametrize("edit", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_hostile_checkpoint(edit, tmp_path):
    path, head = tmp_path / "dense.safetensors.checkpoint", sketched_head()
    write_checkpoint(path, head)
    tensors, metadata = read_tensors(path, kind=CHECKPOINT, remedy="")
    edit(tensors, metadata)
    content = {k: v for k, v in metadata.items() if not k.startswith("format")}
    write_tensors(path, tensors, content, kind=CHECKPOINT)
    said = within_limits({"going on": lambda: read_checkpoint(head, path) and None})
    assert isinstance(said["going on"], HeadError)
    require_one_line(said["going on"], f"{path}: ")
    assert "delete it to begin anew" in str(said["going on"])


def array_of(shape: str, values: bytes = b"") -> bytes:
    """Write an array as numpy does, with a claim of its shape."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values


ESTIMATORS = {
    "array of terabytes": ("npy", array_of("(1000000000000,)")),
    "array of endless text": ("npy", array_of("(" * 50)),
    "array of zeros": ("npy", array_of("(30000000,)", bytes(8 * 30_000_000))),
    "schema nested too deeply": ("json", b"[" * 100_000),
    "schema of nothing": ("json", b"{}"),
    "schema of zeros": ("json", bytes(250_000_000)),
}


@pytest.mark.parametrize(("suffix", "content"), ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_hostile_estimator(suffix, content, tmp_path):
    path, data = tmp_path / "head.safetensors", io.BytesIO(sketched_estimator())
    forged = io.BytesIO()
    with zipfile.ZipFile(data) as sound, zipfile.ZipFile(forged, "w") as other:
        chosen = next(name for name in sound.namelist() if name.endswith(suffix))
        for name in sound.namelist():
            new = content if name == chosen else sound.read(name)
            other.writestr(name, new, zipfile.ZIP_DEFLATED, compresslevel=1)
    save_head(path, Head(head_info("sparse")), estimator_bytes=forged.getvalue())
    said = within_limits({"loading": lambda: read_head(path) and None})
    assert isinstance(said["loading"], ClassifierError)
    require_one_line(said["loading"], path.name)


def test_a_head_nested_too_deeply(tmp_path):
    path, head = tmp_path / "head.safetensors", sketched_head()
    save_head(path, head)
    tensors, metadata = read_tensors(path, kind=HEAD, remedy="")
    for text in ("[" * 100_000, metadata["head"].replace('"native"', "[" * 900 + "]" * 900)):
        write_tensors(path, tensors, {"head": text}, kind=HEAD)
        said = within_limits({"loading": lambda: Segmenter(path, weights="random") and None})
        assert isinstance(said["loading"], PipelineError)
        assert len(str(said["loading"])) < 2000


def test_paths_in_a_head_lead_nowhere(cache, sparse_head, scenes, tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    tensors, metadata = read_tensors(sparse_head, kind=HEAD, remedy="")
    away = "../../away"
    info = json.loads(metadata["head"])
    info |= {"held_out": [away, "/away"], "estimator": away, "selected_on": away}
    info |= {"settings": {away: away, "split": away}, "software": {away: away}}
    write_tensors(folder / "head.safetensors", tensors, {"head": json.dumps(info)}, kind=HEAD)
    image = scenes.image_path(scenes.image_ids("val")[0])
    for command in (
        f"predict --head head.safetensors --weights random --out masks {image}",
        f"evaluate --cache {cache} --head head.safetensors --out metrics.json",
        f"report --cache {cache} --head x=head.safetensors --metrics x=metrics.json --out report",
    ):
        assert main(command.split()) == 0
    made = {path.relative_to(tmp_path).parts[:4] for path in tmp_path.rglob("*") if path.is_file()}
    names = ("head.safetensors", "masks", "metrics.json", "report")
    assert made == {("a", "b", "c", name) for name in names}
