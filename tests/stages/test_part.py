"""Extraction in parts that know nothing of one another: put together, the bytes of one run."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import Drawing
from pipeline.cli import main
from pipeline.errors import DataError, ParamsError
from pipeline.stages.part import Part

TRAIN_SHARDS, VAL_SHARDS = 3, 1  # of two images, as `run` makes them


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def whole(run, tmp_path):
    """Give what one run writes."""
    run(out=tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_parts_together_are_the_whole(run, whole, tmp_path, order):
    first, second = (f"{number}/2" for number in order)
    out = tmp_path / "parts"
    one = run(out=out, part=first)
    assert not (out / "manifest.json").exists()
    assert not (out / "index.h5").exists()
    assert not (out / "train-samples.h5").exists()
    assert (out / "val-samples.h5").exists() == (first == "1/2")  # that split is complete
    two = run(out=out, part=second)
    counts = {"1/2": (5 - 2 + 2, 1), "2/2": (2, 3)}  # images of its own, shards of the other
    assert (one.computed, one.missing) == counts[first]
    assert (two.computed, two.missing) == (counts[second][0], 0)
    assert two.images == one.images + two.computed == 7
    assert contents(out) == whole


def test_a_part_reads_the_files_of_its_own_images_only(run, dataset, tmp_path):
    broken = dataset.image_path(dataset.image_ids("train")[2])  # in the second shard
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    assert run(part="1/2").computed == 5
    with pytest.raises(DataError, match=broken.name):
        run(part="2/2")
    broken.write_bytes(whole)
    assert run(part="2/2").missing == 0


def test_the_last_run_may_be_one_of_everything(run, whole, tmp_path):
    out = tmp_path / "parts"
    run(out=out, part="2/3")
    run(out=out, part="3/3")
    result = run(out=out)
    assert result.computed == 4  # the first of three parts
    assert contents(out) == whole


def test_more_parts_than_shards(run, whole, tmp_path):
    out = tmp_path / "parts"
    for number in range(5, 0, -1):
        result = run(out=out, part=f"{number}/5")
        assert result.computed == {3: 1, 2: 2, 1: 4}.get(number, 0)
    assert result.missing == 0
    assert contents(out) == whole


def test_a_part_that_is_done_computes_nothing(run, tmp_path, listening):
    run(part="1/2")
    before = contents(tmp_path / "cache")
    result = run(part="1/2", progress=listening)
    assert (result.computed, result.images, result.missing) == (0, 5, 1)
    assert contents(tmp_path / "cache") == before
    assert "part 1/2 of them: 3 train, 2 val" in listening.lines
    assert "to write: 0.0 MB" in listening.text


def test_parts_at_the_same_time(run, whole, tmp_path):
    out = tmp_path / "parts"
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda n: run(out=out, part=f"{n}/3"), (1, 2, 3)))
    assert sum(result.computed for result in results) == 7
    assert min(result.missing for result in results) == 0
    assert contents(out) == whole


def test_what_another_division_holds_is_kept_for_all_parts(run, whole, backbone_runs, tmp_path):
    out = tmp_path / "parts"
    run(out=out, images_per_shard=5)
    backbone_runs()
    run(out=out, part="1/2")
    assert list(out.glob("*.retired"))
    run(out=out, part="2/2")
    assert backbone_runs() == 0
    assert contents(out) == whole


def test_other_samples_are_drawn_when_all_is_there(run, backbone_runs, tmp_path):
    drawing = Drawing(seed=1)
    run()
    backbone_runs()
    result = run(part="2/2", drawing=drawing)
    assert (result.computed, result.missing, backbone_runs()) == (0, 0, 0)
    run(out=tmp_path / "whole", drawing=drawing)
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_what_was_left_out_is_told(run, dataset):
    broken = dataset.image_ids("train")[2]
    dataset.image_path(broken).write_bytes(b"no image")
    assert run(part="1/2", on_error="skip").skipped == []
    (left_out,) = run(part="2/2", on_error="skip").skipped
    assert left_out[:2] == ("train", broken)


@pytest.mark.parametrize(
    "text", ["0/4", "5/4", "x", "", "3", "1/0", "-1/4", "1/4/4", "1.5/4", "²/4"]
)
def test_what_is_no_part_is_one_line(text, capsys):
    assert main(["extract", "--out", "nowhere", "--part", text]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    remedy = "give 3/16 for the third of sixteen, from 1/16 to 16/16"
    assert line == f"Error: no part '{text}'; {remedy}"
    assert not Path("nowhere").exists()
    with pytest.raises(ParamsError):
        Part.parse(text)


def test_parts_are_read_and_written():
    assert Part.parse("3/16") == Part(3, 16)
    assert str(Part(3, 16)) == "3/16"
    assert Part().is_all
    assert Part.parse("1/1").is_all
