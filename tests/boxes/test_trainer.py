"""Training at the points of boxes: the loss, the scaler, and what is learnt."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline.boxes import BoxSettings, BoxTrainer, Scaler, TrainingBox, TrainingImage
from pipeline.boxes.heat_maps import box_columns, own_cells
from pipeline.boxes.targets import NOT_COUNTED
from pipeline.data import Box

SIZE = (24, 30)


def image(seed: int = 0, *, wanted: torch.Tensor | None = None) -> TrainingImage:
    generator = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(3, 24, 30, generator=generator) * 50 + 7,
        torch.randn(4, 3, 4, generator=generator),
    ]
    if wanted is None:
        wanted = torch.randint(0, 2, (1, 12, 12), generator=generator, dtype=torch.uint8)
    return TrainingImage(maps, SIZE, [TrainingBox(Box(2, 3, 20, 21), [1], wanted)])


def trainer(settings: BoxSettings, scaler: Scaler, steps: int = 1) -> BoxTrainer:
    mean, scale = scaler.mean_and_scale()
    return BoxTrainer(2, settings, mean, scale, geometry="half_pixel", steps_per_epoch=steps)


def scaled(*images: TrainingImage) -> Scaler:
    scaler = Scaler("half_pixel")
    for one in images:
        scaler.add(one)
    return scaler


def test_the_scaler_is_that_of_the_columns() -> None:
    images = [image(0), image(1)]
    columns = [
        box_columns(i.maps, box=i.boxes[0].box, size=SIZE, geometry="half_pixel", points=10)
        for i in images
    ]
    values = torch.cat([c.flatten(1) for c in columns], dim=1)
    mean, scale = scaled(*images).mean_and_scale()
    torch.testing.assert_close(mean, values.mean(dim=1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scale, values.std(dim=1, correction=0), atol=1e-4, rtol=1e-4)


def test_a_constant_channel_is_left_as_it_is() -> None:
    one = image()
    one.maps[0][1] = 1e4
    mean, scale = scaled(one).mean_and_scale()
    assert (mean[1], scale[1]) == (1e4, 1)


def test_the_first_loss_is_that_of_zero_weights() -> None:
    one = image()
    fit = trainer(BoxSettings(grid=3, points=12), scaled(one))
    assert fit.step([one]) == pytest.approx(math.log(2))


def test_points_that_do_not_count_teach_nothing() -> None:
    wanted = torch.randint(0, 2, (1, 12, 12), dtype=torch.uint8)
    wanted[0, :6] = NOT_COUNTED
    one = image(3, wanted=wanted)
    fit = trainer(BoxSettings(grid=2, points=12), scaled(one))
    assert fit.step([one]) == pytest.approx(math.log(2))  # the mean over those that do
    weight, _ = fit.classifiers()
    assert not weight[1, :2].any()  # the classifiers of the upper cells
    assert weight[1, 2:].any()
    nothing = image(3, wanted=torch.full((1, 12, 12), NOT_COUNTED, dtype=torch.uint8))
    fit = trainer(BoxSettings(grid=2, points=12), scaled(nothing))
    assert fit.step([nothing]) == 0
    assert not fit.classifiers()[0].any()


def test_each_cell_learns_its_own_rule() -> None:
    """In every cell another sign of the first channel is figure: one classifier cannot do it."""
    rng = np.random.default_rng(0)
    signs = torch.tensor(rng.choice([-1.0, 1.0], 9))
    signs[:2] = torch.tensor([-1.0, 1.0])
    images = []
    for seed in range(8):
        one = image(seed)
        columns = box_columns(
            one.maps, box=one.boxes[0].box, size=SIZE, geometry="half_pixel", points=12
        )
        wanted = ((columns[0] - 7) * signs[own_cells(12, 3)] > 0).to(torch.uint8)[None]
        images.append(TrainingImage(one.maps, SIZE, [TrainingBox(one.boxes[0].box, [1], wanted)]))
    losses = {}
    for grid in (1, 3):
        settings = BoxSettings(grid=grid, points=12, epochs=60, learning_rate=0.3, weight_decay=0)
        fit = trainer(settings, scaled(*images))
        losses[grid] = [fit.step(images) for _ in range(60)]
    assert losses[3][-1] < 0.15 < 0.5 < losses[1][-1]
    weight, bias = fit.classifiers()
    assert torch.equal(weight[1, :, 0].sign().double(), signs.double())
    assert not weight[0].any() and not bias[0].any()  # its targets were in no box


def test_the_scaler_is_folded_in() -> None:
    """What is trained on standardised columns gives the same logits on the columns themselves."""
    images = [image(seed) for seed in range(3)]
    settings = BoxSettings(grid=2, points=12, epochs=3, learning_rate=0.05)
    fit = trainer(settings, scaled(*images), steps=3)
    for _ in range(3):
        fit.step(images)
    weight, bias = fit.classifiers()
    loss = 0.0
    for one in images:
        columns = box_columns(
            one.maps, box=one.boxes[0].box, size=SIZE, geometry="half_pixel", points=12
        )
        cells = own_cells(12, 2)
        logits = (weight[1][cells] * columns.permute(1, 2, 0)).sum(-1) + bias[1][cells]
        target = one.boxes[0].wanted[0].float()
        loss += float(torch.nn.functional.binary_cross_entropy_with_logits(logits, target)) / 3
    assert fit.step(images) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"grid": 0}, "grid"),
        ({"grid": 51}, "50 points cannot hold a grid of 51 cells"),
        ({"points": 0}, "points"),
        ({"expansion": 0.9}, "expansion"),
        ({"reach": 0}, "reach"),
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"grids": 3}, "grids"),
    ],
)
def test_settings_out_of_range(changes, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        BoxSettings(**changes)
