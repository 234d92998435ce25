from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.data import data
from pipeline.data.voc import VocDataset
from pipeline.errors import DataError

MakeVoc = Callable[..., Path]


def test_scenes_are_written_where_asked_and_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    asked = runner.invoke(data, ["scenes", "--out", "here", "--images", "3", "--seed", "4"])
    assert asked.exit_code == 0, asked.output
    assert asked.stdout == "here: 3 scenes, 7 classes\n"
    default = runner.invoke(data, ["scenes", "--images", "3"])
    assert default.exit_code == 0, default.output
    assert len(VocDataset.open("data/scenes").image_ids("trainval")) == 3
    first = Path("here/JPEGImages/scene_0000.png").read_bytes()
    assert first != Path("data/scenes/JPEGImages/scene_0000.png").read_bytes()


def test_check_summarises_a_sound_data_set(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b"], "val": ["c"]})
    result = CliRunner().invoke(data, ["check", str(root)])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{root}: no problems",
        "splits: train (2 images), val (1 images)",
        "classes: ground, cat, dog (void: 255)",
    ]


def test_check_lists_every_problem_and_exits_1(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a", "b"], "val": ["c"]})
    (root / "JPEGImages/a.png").unlink()
    (root / "SegmentationClass/c.png").write_bytes(b"")
    result = CliRunner().invoke(data, ["check", str(root)])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("[train] ")
    assert lines[1].startswith(f"[val] {root / 'SegmentationClass/c.png'}")
    assert lines[2] == "2 problems"


def test_check_takes_classes_and_void(make_voc: MakeVoc) -> None:
    root = make_voc({"train": ["a"]}, classes=None)
    options = ["check", str(root), "--classes", "ground, cat,dog", "--void", "254"]
    result = CliRunner().invoke(data, options)
    assert result.exit_code == 1
    assert "labels 255, but there are 3 classes and void is 254" in result.output


def test_user_errors_are_raised_for_the_root_group(tmp_path: Path) -> None:
    result = CliRunner().invoke(data, ["check", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    assert result.output == ""


@pytest.mark.parametrize("command", ["scenes", "voc2012", "check"])
def test_help_has_examples(command: str) -> None:
    result = CliRunner().invoke(data, [command, "--help"])
    assert f"Examples:\n    pipeline data {command}" in result.output
