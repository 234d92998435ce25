"""Grids of classifiers from samples to masks: every stage takes them like any other head."""

import json

import numpy as np
import pytest
import torch

from pipeline import (
    FeatureCache,
    Segmenter,
    TrainSettings,
    evaluate,
    fit_dense,
    fit_sparse,
    load_head,
    save_head,
)
from pipeline.cache import read_samples, samples_path
from pipeline.cli import main
from pipeline.errors import ClassifierError, HeadError, ParamsError
from pipeline.hypercolumn.grid import grid_weights
from pipeline.stages.evaluate import score_image

CPU = torch.device("cpu")
OPTIONS = {"mlp": {"hidden": 8, "epochs": 3}}


def slow_probabilities(head, columns, weights):
    """Interpolate the classifiers' probabilities at hypercolumns (n, D): (n, n_classes)."""
    x = torch.from_numpy(columns)
    *before, last = zip(head.dense.weights, head.dense.biases, strict=True)
    for weight, bias in before:
        x = torch.relu(x @ weight.T + bias)
    logits = (x @ last[0].T + last[1]).reshape(len(x), len(weights), -1)
    return torch.einsum("nkc,kn->nc", logits.softmax(dim=2), weights).detach()


@pytest.mark.parametrize("estimator", ["mlp", "logistic", "svm", "sgd"])
def test_a_grid_of_every_dense_estimator(cache, tmp_path, estimator):
    options = OPTIONS.get(estimator, {"epochs": 3})
    result = fit_sparse(
        cache, tmp_path / "h", estimator=estimator, options=options, grid=3, holdout=0.3
    )
    head = load_head(tmp_path / "h")
    opened = FeatureCache(cache)
    classes = len(opened.identity.classes)
    assert (head.info.grid, head.dense.grid, head.dense.n_classes) == (3, 3, classes)
    assert len(head.dense.weights[-1]) == 9 * classes
    samples = read_samples(samples_path(cache, "train"))
    sizes = torch.tensor([opened["train"].size(i) for i in samples.image_ids])[samples.image]
    y, x = torch.from_numpy(samples.y), torch.from_numpy(samples.x)
    weights = grid_weights(y, x, *sizes.T, 3)
    expected = slow_probabilities(head, samples.features, weights)

    held = np.isin(np.array(samples.image_ids)[samples.image], head.info.held_out)
    right = expected.argmax(dim=1).numpy()[held] == samples.label[held]
    assert result.heldout_accuracy == pytest.approx(right.mean(), abs=0.02)
    # The whole image's scores at the samples' pixels are the samples' own.
    for n in range(0, len(samples), 97):
        image_id = samples.image_ids[samples.image[n]]
        scores = score_image(head, opened["train"], image_id, CPU)[:, samples.y[n], samples.x[n]]
        torch.testing.assert_close(scores.exp(), expected[n], rtol=1e-3, atol=1e-4)


def test_a_grid_of_one_is_the_classifier(cache, tmp_path):
    for name, grid in (("a", {}), ("b", {"grid": 1})):
        fit_sparse(cache, tmp_path / name, estimator="logistic", options={"epochs": 3}, **grid)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_grid_is_trained_on_every_pixel_measured_and_used(cache, scenes, tmp_path):
    fit_sparse(cache, tmp_path / "sparse", estimator="logistic", options={"epochs": 3}, grid=2)
    result = fit_dense(
        cache,
        tmp_path / "sparse",
        tmp_path / "dense",
        settings=TrainSettings(epochs=2, learning_rate=1e-4),
    )
    losses = result.history["val_loss"]
    assert losses[2] < losses[0]
    sparse, dense = load_head(tmp_path / "sparse"), load_head(tmp_path / "dense")
    assert dense.info.grid == dense.dense.grid == 2
    assert not torch.equal(dense.dense.weights[-1], sparse.dense.weights[-1])
    rows = dense.dense.weights[-1].unflatten(0, (4, -1))
    assert not torch.allclose(rows[0], rows[3])

    metrics = evaluate(cache, tmp_path / "dense", split="val")
    segment = Segmenter(tmp_path / "dense", weights="random")
    right = counted = 0
    for image_id in scenes.image_ids("val"):
        mask = scenes.read_mask(image_id)
        labels = segment(scenes.read_image(image_id))
        right += int((labels == mask)[mask != 255].sum())
        counted += int((mask != 255).sum())
    assert metrics["pixel_accuracy"] == pytest.approx(right / counted, abs=0.01)


def test_what_predicts_in_blocks_becomes_no_grid(cache, tmp_path):
    with pytest.raises(ClassifierError, match=r"forest predicts in blocks.*take mlp"):
        fit_sparse(cache, tmp_path / "h", estimator="forest", grid=2)
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize("grid", [0, -1, 33])
def test_grids_that_are_none(cache, tmp_path, grid):
    with pytest.raises(ParamsError, match="give 1 to 32"):
        fit_sparse(cache, tmp_path / "h", grid=grid)


def test_a_file_whose_grid_is_another_is_refused(cache, tmp_path):
    fit_sparse(cache, tmp_path / "h", estimator="logistic", options={"epochs": 1}, grid=2)
    head = load_head(tmp_path / "h")
    for grid in (1, 3):
        info = head.info.model_copy(update={"grid": grid})
        save_head(tmp_path / "other", type(head)(info, head.dense))
        with pytest.raises(HeadError, match=r"names \d|are none for a grid of 3"):
            load_head(tmp_path / "other")


def test_on_the_command_line(cache, tmp_path, capsys):
    out = tmp_path / "grid.safetensors"
    command = f"fit-sparse --cache {cache} --out {out} --estimator logistic --grid 2"
    params = tmp_path / "params.yaml"
    params.write_text("fit_sparse:\n  grid: 3\n  options: {epochs: 2}\n")
    assert main([*command.split(), "--params", str(params)]) == 0
    assert load_head(out).info.grid == 2
    assert main([*command.split()[:-2], "--params", str(params)]) == 0
    assert load_head(out).info.grid == 3
    metrics = tmp_path / "metrics.json"
    evaluated = f"evaluate --cache {cache} --head {out} --out {metrics}"
    assert main(evaluated.split()) == 0
    assert 0 < json.loads(metrics.read_text())["pixel_accuracy"] < 1
    capsys.readouterr()
    assert main([*command.split()[:-1], "0"]) == 1
    assert "grid: Input should be greater than or equal to 1" in capsys.readouterr().err
