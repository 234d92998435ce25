"""Training steps against a plain loop over standardised full hypercolumns."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline import training
from pipeline.errors import HeadError
from pipeline.heads import Head
from pipeline.hypercolumn import DenseHead, hypercolumn_map
from pipeline.training import DenseTrainer, TrainSettings, inverse_frequency

BATCHES = ([0, 1], [2, 3], [4], [1, 4], [3, 0], [2])  # two epochs of three steps


class PlainLoop:
    """The slow, obvious way: no folding, no cells, one backward pass per batch."""

    def __init__(self, head, images, *, class_weights, schedule, weight_decay, smoothing):
        self.head, self.images = head, images
        self.class_weights, self.schedule, self.smoothing = class_weights, schedule, smoothing
        scaled = head.dense.weights[0] * head.input_scale
        shifted = head.dense.biases[0] + head.dense.weights[0] @ head.input_mean
        self.first = nn.Linear(14, 8)
        self.second = nn.Linear(8, 4)
        with torch.no_grad():
            self.first.weight.copy_(scaled)
            self.first.bias.copy_(shifted)
            self.second.weight.copy_(head.dense.weights[1])
            self.second.bias.copy_(head.dense.biases[1])
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [self.first.weight, self.second.weight], "weight_decay": weight_decay},
                {"params": [self.first.bias, self.second.bias], "weight_decay": 0},
            ]
        )
        self.steps = 0
        self.mask = torch.ones(8)

    def columns(self, maps, label):
        full = hypercolumn_map(maps, label.shape).flatten(1).T
        return (full - self.head.input_mean) / self.head.input_scale

    def logits(self, maps, label):
        return self.second(self.first(self.columns(maps, label)).relu() * self.mask)

    def step(self, batch):
        logits = torch.cat([self.logits(*self.images[i]) for i in batch])
        label = torch.cat([self.images[i][1].flatten() for i in batch]).long()
        every = torch.cat([label.flatten() for _, label in self.images]).long()
        weights = torch.ones(4)
        if self.class_weights != "none":
            counted = every if self.class_weights == "inverse" else label
            counts = [(counted == c).sum().item() for c in range(4)]
            present = [n for n in counts if n]
            weights = torch.tensor([sum(present) / len(present) / n if n else 0 for n in counts])
        if self.smoothing:
            keep = label != 255
            logits, label = logits[keep], label[keep]
            target = torch.zeros(len(label), 4)
            target[torch.arange(len(label)), label] = 1 - self.smoothing
            target[:, :3] += self.smoothing / 3  # class 3 is nowhere in the training set
            losses = -(target * logits.log_softmax(1)).sum(1)
            loss = (losses * weights[label]).sum() / weights[label].sum()
        else:
            loss = cross_entropy(logits, label, weight=weights, ignore_index=255)
        factor = (1 + math.cos(math.pi * self.steps / 6)) / 2 if self.schedule == "cosine" else 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 * factor
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return loss.item()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("class_weights", ["none", "inverse", "batch"])
def test_steps_equal_a_plain_loop(
    head, images, make_trainer, class_weights, schedule, weight_decay, smoothing
):
    choices = {"schedule": schedule, "class_weights": class_weights, "weight_decay": weight_decay}
    trainer = make_trainer(**choices, label_smoothing=smoothing)
    plain = PlainLoop(head, images, **choices, smoothing=smoothing)
    for batch in BATCHES:
        loss = trainer.step([images[i] for i in batch])
        assert loss == pytest.approx(plain.step(batch), rel=1e-4)
    dense = trainer.dense()
    for maps, label in images:
        expected = plain.logits(maps, label).T.reshape(4, *label.shape)
        torch.testing.assert_close(dense(maps, label.shape), expected, rtol=1e-4, atol=1e-4)


def test_steps_with_dropout_equal_a_plain_loop_with_a_mask(head, images, make_trainer):
    choices = {"schedule": "cosine", "class_weights": "none", "weight_decay": 0.1}
    trainer = make_trainer(**choices, label_smoothing=0.1, dropout=0.25, seed=3)
    plain = PlainLoop(head, images, **choices, smoothing=0.1)
    masks = []
    for step, batch in enumerate(BATCHES):
        plain.mask = torch.zeros(8)
        plain.mask[np.random.default_rng([3, 1, step]).permutation(8)[:6]] = 8 / 6
        masks.append(plain.mask)
        loss = trainer.step([images[i] for i in batch])
        assert loss == pytest.approx(plain.step(batch), rel=1e-4)
    assert len({tuple(mask.tolist()) for mask in masks}) > 1
    plain.mask = torch.ones(8)
    for maps, label in images:
        expected = plain.logits(maps, label).T.reshape(4, *label.shape)
        torch.testing.assert_close(
            trainer.dense()(maps, label.shape), expected, rtol=1e-4, atol=1e-4
        )


def test_mixed_precision_trains_the_head_that_comes_out(images, make_trainer, monkeypatch):
    """Products of large means and weights must not be rounded to half precision."""
    trainer = make_trainer()
    monkeypatch.setattr(DenseTrainer, "_mixed", True)
    seen = []
    head_loss = training.trainer.head_loss

    def watch(*args, bias, **kwargs):
        seen.append(bias.detach().clone())
        return head_loss(*args, bias=bias, **kwargs)

    monkeypatch.setattr(training.trainer, "head_loss", watch)
    expected = trainer.dense().biases[0].detach().clone()
    trainer.step(images[:1])
    assert seen[0].dtype == torch.float32
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-4)


def test_a_head_without_hidden_units_drops_none(head, images):
    layer = DenseHead(
        [head.dense.weights[0][:4]], [head.dense.biases[0][:4]], channels=head.dense.channels
    )
    losses = []
    for dropout in (0.0, 0.5):
        trainer = DenseTrainer(
            Head(head.info, layer, head.input_mean, head.input_scale),
            TrainSettings(dropout=dropout),
            steps_per_epoch=1,
            class_pixels=torch.ones(4),
            device=torch.device("cpu"),
        )
        losses.append(trainer.step(images))
    assert losses[0] == losses[1]


def test_before_any_step_it_is_the_head_it_began_with(head, images, make_trainer):
    before = [parameter.clone() for parameter in head.dense.parameters()]
    trainer = make_trainer()
    for maps, label in images:
        torch.testing.assert_close(
            trainer.dense()(maps, label.shape), head.dense(maps, label.shape), rtol=1e-4, atol=1e-4
        )
    trainer.step(images)
    for parameter, was in zip(head.dense.parameters(), before, strict=True):
        assert torch.equal(parameter, was)  # the head itself stays as it was


def test_a_head_without_scaler_can_be_trained(head, images):
    bare = Head(head.info, head.dense)
    settings = TrainSettings(epochs=1, label_smoothing=0)
    device = torch.device("cpu")
    trainer = DenseTrainer(
        bare, settings, steps_per_epoch=1, class_pixels=torch.ones(4), device=device
    )
    maps, label = images[0]
    loss = trainer.step(images[:1])
    flat = head.dense(maps, label.shape)[None]
    expected = cross_entropy(flat, label.long()[None], ignore_index=255)
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_a_batch_of_nothing_but_void_changes_nothing(images, make_trainer):
    trainer = make_trainer()
    trainer.step(images[:2])
    before = trainer.state()
    maps, label = images[2]
    assert trainer.step([(maps, torch.full_like(label, 255))]) == 0.0
    after = trainer.state()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("steps_before", [0, 2])
def test_a_restored_state_goes_on_bit_for_bit(images, make_trainer, steps_before):
    choices = {"class_weights": "batch", "weight_decay": 0.1, "dropout": 0.5}
    trainer = make_trainer(**choices)
    batches = [[images[i] for i in batch] for batch in BATCHES]
    for batch in batches[:steps_before]:
        trainer.step(batch)
    state = trainer.state()
    losses = [trainer.step(batch) for batch in batches[steps_before:]]
    expected = trainer.state()
    # Into the same trainer, twice, and into a new one.
    for other in (
        trainer,
        trainer,
        make_trainer(**choices),
    ):
        other.restore(state)
        assert [other.step(batch) for batch in batches[steps_before:]] == losses
        found = other.state()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_state_is_a_copy(images, make_trainer):
    trainer = make_trainer()
    trainer.step(images)
    state = trainer.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    trainer.step(images)
    trainer.restore(state)
    trainer.step(images)
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_a_head_without_layers_is_refused(head):
    with pytest.raises(HeadError, match="without layers"):
        DenseTrainer(
            Head(head.info, estimator=object()),
            TrainSettings(),
            steps_per_epoch=1,
            class_pixels=torch.ones(4),
            device=torch.device("cpu"),
        )


def test_inverse_frequency():
    weights = inverse_frequency(torch.tensor([60, 0, 30, 10]))
    assert weights.tolist() == pytest.approx([100 / 3 / 60, 0, 100 / 3 / 30, 100 / 3 / 10])
    assert (weights * torch.tensor([60, 0, 30, 10])).sum().item() == pytest.approx(100)
    assert inverse_frequency(torch.zeros(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0},
        {"schedule": "linear"},
        {"class_weights": "all"},
        {"epoch": 3},
    ],
    ids=str,
)
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        TrainSettings(**settings)
