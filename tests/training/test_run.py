"""The course of a run: its history, the epoch it keeps, and going on from a checkpoint."""

import csv

import pytest
import torch

from pipeline.errors import HeadError
from pipeline.training import TrainingRun
from pipeline.training.run import COLUMNS


@pytest.fixture
def begin(make_trainer, tmp_path):
    def make(key="a run", keep_best=True):
        checkpoint = tmp_path / "head.checkpoint"
        return TrainingRun(make_trainer(), checkpoint=checkpoint, key=key, keep_best=keep_best)

    return make


def go(run, images, scores):
    """Train an epoch for every score and record it; give the states."""
    states = []
    for score in scores:
        loss = None if run.epochs_done < 0 else run.trainer.step(images)
        run.record(train_loss=loss, validation={"val_mean_iou": score, "val_loss": 1.5})
        states.append(run.trainer.state())
    return states


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.2], 1),
        ([0.3, 0.1, 0.2], 0),
        ([0.1, 0.2, 0.2], 1),  # of equals the first
        ([0.1, 0.2, 0.3], 2),
        ([0.0, 0.0], 0),
        ([None, None], 0),
        ([None, 0.0], 1),
    ],
)
def test_the_best_epoch_is_kept(begin, images, scores, best):
    run = begin()
    states = go(run, images, scores)
    assert run.history["best_epoch"] == best
    run.finish()
    assert same(run.trainer.state(), states[best])


def test_without_choice_it_is_the_last(begin, images):
    run = begin(keep_best=False)
    states = go(run, images, [0.3, 0.2, 0.1])
    run.finish()
    assert run.history["best_epoch"] == 2
    assert same(run.trainer.state(), states[2])


def test_history(begin, images, tmp_path):
    run = begin()
    assert run.epochs_done == -1
    go(run, images, [0.1, 0.2])
    assert run.epochs_done == 1
    assert run.history["epoch"] == [0, 1]
    assert run.history["train_loss"][0] is None
    assert run.history["train_loss"][1] > 0
    assert run.history["val_pixel_accuracy"] == [None, None]
    run.write_history(tmp_path / "new" / "history.csv")
    with (tmp_path / "new" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert rows[0]["train_loss"] == ""
    assert float(rows[1]["train_loss"]) == run.history["train_loss"][1]
    assert tuple(rows[0]) == COLUMNS


@pytest.mark.parametrize("interrupted_after", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_end(begin, images, interrupted_after):
    scores = [0.2, 0.5, 0.1, 0.3]
    whole = begin()
    go(whole, images, scores)

    first = begin()
    go(first, images, scores[: interrupted_after + 1])
    first.save()
    second = begin()
    assert second.resume()
    assert second.epochs_done == interrupted_after
    go(second, images, scores[interrupted_after + 1 :])
    assert second.history == whole.history
    assert same(second.trainer.state(), whole.trainer.state())
    whole.finish()
    second.finish()
    assert same(second.trainer.state(), whole.trainer.state())


def test_a_checkpoint_of_another_run_is_not_used(begin, images):
    one = begin()
    go(one, images, [0.1, 0.2])
    one.save()
    other = begin(key="another run")
    before = other.trainer.state()
    assert not other.resume()
    assert other.epochs_done == -1
    assert same(other.trainer.state(), before)


def test_no_checkpoint(begin):
    assert not begin().resume()


def test_a_damaged_checkpoint_is_refused(begin, images):
    run = begin()
    go(run, images, [0.1, 0.2])
    run.save()
    whole = run.checkpoint.read_bytes()
    damaged = bytearray(whole)
    damaged[-5] ^= 1
    for content in (bytes(damaged), whole[:-1], b""):
        run.checkpoint.write_bytes(content)
        with pytest.raises(HeadError, match=r"head\.checkpoint.*damaged"):
            begin().resume()
