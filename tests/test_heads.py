"""Heads: the same scores as the classifier they came from, before and after the disk."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from pipeline.classifiers import dump_estimator, to_layers
from pipeline.errors import ClassifierError, HeadError
from pipeline.heads import Head, HeadInfo, load_head, save_head
from pipeline.hypercolumn import Features, hypercolumn_map
from pipeline.identity import Identity, TapIdentity
from pipeline.tensorfile import write_tensors

CHANNELS = {"a": 5, "b": 4, "c": 3}
SIZE = (11, 9)
CLASSES = ("ground", "cow", "sheep", "dog")


def make_info(features=None, geometry="half_pixel", **fields) -> HeadInfo:
    taps = [TapIdentity(name=n, modules=(n,), channels=c, stride=1) for n, c in CHANNELS.items()]
    identity = Identity(
        backbone="net",
        weights="0123",
        taps=tuple(taps),
        preprocessing={"input_size": "native"},
        geometry=geometry,
        dtype="float32",
        classes=CLASSES,
        void=255,
    )
    features = features or Features(activation="relu", context=("global", "3"))
    return HeadInfo(
        **{"stage": "sparse", "estimator": "x", "identity": identity, "features": features},
        **fields,
    )


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (11, 9), "b": (6, 5), "c": (2, 3)}
    # Uneven scales and means, so that a scaler that is folded in wrongly shows.
    return {
        tap: 3 * torch.randn(CHANNELS[tap], *cells, generator=generator)
        + torch.randn(CHANNELS[tap], 1, 1, generator=generator)
        for tap, cells in shapes.items()
    }


def columns_of(maps, info) -> np.ndarray:
    """Every pixel's hypercolumn, (H * W, D), by the full-map formula."""
    taps = list(info.features.taps or CHANNELS)
    used = info.features.apply([maps[tap] for tap in taps], taps)
    return hypercolumn_map(used, SIZE, info.identity.geometry).flatten(1).T.numpy()


def fitted(estimator: Any, columns: np.ndarray, classes: list[int]) -> Any:
    rng = np.random.default_rng(0)
    y = rng.choice(classes, len(columns))
    return estimator.fit(columns + y[:, None] * rng.normal(size=columns.shape[1]), y)


def log_probability(logits: torch.Tensor, classes: list[int]) -> np.ndarray:
    return logits[classes].flatten(1).log_softmax(0).T.numpy()


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 2, 3], [1, 2], [0, 3]], ids=str)
@pytest.mark.parametrize(
    "classifier",
    [
        LogisticRegression(max_iter=50),
        MLPClassifier((6,), max_iter=20, random_state=0),
        MLPClassifier((6, 5), activation="tanh", max_iter=20, random_state=0),
        MLPClassifier((6,), activation="logistic", max_iter=20, random_state=0),
    ],
    ids=["logistic", "mlp", "tanh", "sigmoid"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_logits_are_the_log_probabilities_at_every_pixel(tmp_path, maps, classifier, classes):
    info = make_info()
    columns = columns_of(maps, info)
    pipeline = fitted(make_pipeline(StandardScaler(), classifier), columns, classes)
    head = Head.from_layers(to_layers(pipeline, len(CLASSES)), info)
    logits = head.scores([maps[tap] for tap in head.taps], SIZE)
    assert logits.shape == (len(CLASSES), *SIZE)
    expected = pipeline.predict_log_proba(columns)
    np.testing.assert_allclose(log_probability(logits, classes), expected, atol=2e-4)
    prediction = logits.argmax(0).flatten().numpy()
    assert set(prediction) <= set(classes)  # never a class that was not fitted
    assert (prediction == pipeline.predict(columns)).mean() > 0.99  # but for near ties

    save_head(tmp_path / "h", head)
    again = load_head(tmp_path / "h")
    assert torch.equal(again.scores([maps[tap] for tap in again.taps], SIZE), logits)


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [0, 2, 3], [1, 2]], ids=str)
def test_logits_of_one_against_the_rest_are_its_decision_function(maps, classes):
    info = make_info(Features(activation="none", context=()))
    columns = columns_of(maps, info)
    pipeline = fitted(make_pipeline(StandardScaler(), LinearSVC(random_state=0)), columns, classes)
    head = Head.from_layers(to_layers(pipeline, len(CLASSES)), info)
    logits = head.scores([maps[tap] for tap in head.taps], SIZE)[classes].flatten(1).T.numpy()
    expected = pipeline.decision_function(columns)
    if expected.ndim == 1:
        expected = np.stack([np.zeros_like(expected), expected], axis=1)
    np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.parametrize("geometry", ["half_pixel", "align_corners"])
@pytest.mark.parametrize(
    ("taps", "context"),
    [((), ("3",)), (("c", "a"), ("3",)), (("b",), ()), (("c", "a"), ("c:global", "3", "a:5"))],
)
def test_taps_context_and_geometry_are_kept(tmp_path, maps, taps, context, geometry):
    info = make_info(Features(activation="relu", context=context, taps=taps), geometry)
    columns = columns_of(maps, info)
    pipeline = fitted(make_pipeline(StandardScaler(), LogisticRegression()), columns, [0, 1, 2, 3])
    save_head(tmp_path / "h", Head.from_layers(to_layers(pipeline, len(CLASSES)), info))
    head = load_head(tmp_path / "h")
    assert head.taps == list(taps or CHANNELS)
    assert head.dense.geometry == geometry
    logits = head.scores([maps[tap] for tap in head.taps], SIZE)
    expected = pipeline.predict_log_proba(columns)
    np.testing.assert_allclose(log_probability(logits, [0, 1, 2, 3]), expected, atol=2e-4)


@pytest.fixture
def head(maps) -> Head:
    info = make_info(
        settings={"seed": 3, "options": {"hidden": None}},
        metrics={"heldout_sample_accuracy": None, "history": {"loss": [0.1, 1 / 3]}},
        held_out=("cow.1", "schäfchen"),
        selected_on="val",
        software={"torch": "2"},
    )
    columns = columns_of(maps, info)
    network = MLPClassifier((3,), max_iter=300, tol=1, random_state=0)
    pipeline = fitted(make_pipeline(StandardScaler(), network), columns, [0, 1, 2, 3])
    return Head.from_layers(to_layers(pipeline, len(CLASSES)), info)


def test_a_head_remembers_what_it_is(tmp_path, head):
    save_head(tmp_path / "h.safetensors", head)
    again = load_head(str(tmp_path / "h.safetensors"))
    assert again.info == head.info
    assert again.info.identity.fingerprint == head.info.identity.fingerprint
    assert torch.equal(again.input_mean, head.input_mean)
    assert torch.equal(again.input_scale, head.input_scale)


def test_the_file_is_1x1_convolutions(tmp_path, maps, head):
    save_head(tmp_path / "h", head)
    with safe_open(tmp_path / "h", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    used = head.info.features.apply([maps[tap] for tap in head.taps], head.taps)
    x = hypercolumn_map(used, SIZE)[None]
    x = torch.conv2d(x, tensors["conv0.weight"], tensors["conv0.bias"]).relu()
    x = torch.conv2d(x, tensors["conv1.weight"], tensors["conv1.bias"])[0]
    torch.testing.assert_close(
        x, head.scores([maps[tap] for tap in head.taps], SIZE), rtol=1e-4, atol=1e-4
    )


def test_a_flipped_byte_anywhere_is_found(tmp_path, head):
    path = tmp_path / "h"
    save_head(path, head)
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(HeadError) as caught:
            load_head(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_no_head(tmp_path, head, monkeypatch):
    foreign = tmp_path / "weights.safetensors"
    save_file({"conv0.bias": torch.zeros(3)}, foreign)
    with pytest.raises(HeadError, match="not a hypercolumn-head"):
        load_head(foreign)
    with pytest.raises(HeadError, match="no such file"):
        load_head(tmp_path / "nowhere")
    save_head(tmp_path / "h", head)
    monkeypatch.setattr("pipeline.tensorfile.FORMAT_VERSION", 2)
    with pytest.raises(HeadError, match=r"version 1, .*fit it again"):
        load_head(tmp_path / "h")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"head": "{}"}, {"head": "no json"}, {"head": "[" * 100_000}, {"head": "null"}],
    ids=["nothing", "empty", "no json", "deep", "null"],
)
def test_a_head_that_does_not_say_what_it_is(tmp_path, metadata):
    write_tensors(tmp_path / "h", {"conv0.bias": torch.zeros(2)}, metadata, kind="hypercolumn-head")
    with pytest.raises(HeadError, match="not a head that this version can read") as caught:
        load_head(tmp_path / "h")
    assert "\n" not in str(caught.value)


def forged(path, head, *, tensors=(), **fields):
    """Write a head with other tensors (None: without) and other fields, rightly signed."""
    save_head(path, head)
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = {name: t for name, t in {**found, **dict(tensors)}.items() if t is not None}
    info = head.info.model_dump(mode="json")
    for place, value in fields.items():
        *within, last = place.split("__")
        inner = info
        for key in within:
            inner = inner[int(key) if key.isdigit() else key]
        inner[last] = value
    write_tensors(path, found, {"head": json.dumps(info)}, kind="hypercolumn-head")
    return path


def test_a_forged_head_without_changes_is_the_head(tmp_path, head):
    assert load_head(forged(tmp_path / "h", head)).info == head.info


# The head has 19 channels: a, b, c and two copies of c; 3 hidden units, 4 classes.
@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"conv0.weight": torch.zeros(3, 19)}, r"conv0.weight cannot be of shape \(3, 19\)"),
        ({"conv0.weight": torch.zeros(3, 19, 3, 3)}, r"of shape \(3, 19, 3, 3\)"),
        ({"conv0.weight": torch.zeros(3, 20, 1, 1)}, "do not stack on hypercolumns of 18"),
        ({"conv0.weight": torch.zeros(0, 18, 1, 1)}, "cannot be of shape"),
        ({"conv0.weight": torch.zeros(())}, "cannot be of shape"),
        ({"conv0.weight": torch.zeros(3, 18, 1, 1).half()}, "values that it cannot have"),
        ({"conv0.weight": torch.full((3, 18, 1, 1), torch.nan)}, "conv0.weight is not finite"),
        ({"conv1.weight": torch.zeros(4, 2, 1, 1)}, "do not stack"),
        ({"conv1.bias": torch.tensor([0, torch.inf, 0, 0])}, "conv1.bias is not finite"),
        ({"conv1.bias": torch.zeros(4, 1)}, "cannot be of shape"),
        ({"conv1.bias": torch.zeros(4).long()}, "values that it cannot have"),
        (
            {"conv1.weight": torch.zeros(5, 3, 1, 1), "conv1.bias": torch.zeros(5)},
            "scores 5 classes, but names 4",
        ),
        ({"conv0.bias": None}, "its tensors are"),
        ({"conv7.bias": torch.zeros(4)}, "its tensors are"),
        ({"x" * 1000 + "\n": torch.zeros(4)}, "its tensors are"),
        ({"input.mean": None}, "its tensors are"),
        ({"input.mean": torch.zeros(7)}, "input.mean cannot be of shape"),
        ({"input.scale": torch.zeros(18)}, "values that it cannot have"),
        ({"estimator": torch.zeros(4, dtype=torch.uint8)}, "its tensors are"),
        (dict.fromkeys([f"conv{i}.{n}" for i in (0, 1) for n in ("weight", "bias")]), "tensors"),
    ],
)
def test_tensors_that_are_no_layers_of_the_head_are_refused(tmp_path, head, tensors, reason):
    path = forged(tmp_path / "h", head, tensors=tensors)
    with pytest.raises(HeadError, match=reason) as caught:
        load_head(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"activation": "swish"}, "activation 'swish'"),
        ({"features__taps": ["d"]}, "no tap 'd'"),
        ({"features__context": ["global"]}, r"input.mean cannot be of shape \(18,\)"),
        ({"features__context": ["4"]}, "features.context: "),
        ({"features__context": ["d:3", "3"]}, "no tap 'd' to take the context 'd:3' of"),
        ({"identity__classes": ["cow"] * 5}, "scores 4 classes, but names 5"),
        ({"identity__classes": []}, "identity.classes: "),
        ({"identity__void": 256}, "identity.void: "),
        ({"identity__taps": []}, "identity.taps: "),
        ({"identity__taps__0__channels": -5}, "identity.taps.0.channels: "),
        ({"identity__taps__0__channels": 10**30}, "input.mean cannot be of shape"),
        ({"identity__taps__0__name": "b"}, "identity.taps: .*names of their own"),
        ({"identity__taps__0__name": "label"}, "identity.taps: .*names of their own"),
        ({"identity__taps__0__name": "../a"}, "identity.taps.0.name: "),
        ({"identity__dtype": "bfloat16"}, "identity.dtype: "),
        ({"metrics": {"history": "ten epochs"}}, r"metrics[.\w]*: "),
        ({"metrics": {"history": {"epoch": 3}}}, r"metrics[.\w]*: "),
        ({"metrics": {"history": {"epoch": [0], "train_loss": ["<b>"]}}}, r"metrics[.\w]*: "),
        ({"no\nsuch\x1b[2J": 1}, r"no such\?\[2J: "),
        ({"x" * 10_000: 1}, "xxx"),
    ],
)
def test_a_head_that_contradicts_itself_is_refused(tmp_path, head, fields, reason):
    path = forged(tmp_path / "h", head, **fields)
    with pytest.raises(HeadError, match=reason) as caught:
        load_head(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_weights_that_are_not_finite_are_not_written(tmp_path, head):
    with torch.no_grad():
        head.dense.weights[0][1, 2] = torch.nan
    with pytest.raises(HeadError, match=r"conv0\.weight is not finite; train"):
        save_head(tmp_path / "h", head)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [[0, 1, 2, 3], [1, 3]], ids=str)
@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(5, random_state=0), make_pipeline(StandardScaler(), GaussianNB())],
    ids=["forest", "bayes"],
)
def test_an_estimator_predicts_probabilities_in_blocks(
    tmp_path, maps, monkeypatch, estimator, classes
):
    monkeypatch.setattr("pipeline.heads.head._BLOCK_PIXELS", 7)  # does not divide the 99 pixels
    info = make_info()
    columns = columns_of(maps, info)
    forest = fitted(estimator, columns, classes)
    save_head(tmp_path / "h", Head(info, estimator=forest), estimator_bytes=dump_estimator(forest))
    head = load_head(tmp_path / "h")
    assert head.dense is None
    scores = head.scores([maps[tap] for tap in head.taps], SIZE)
    assert scores.shape == (len(CLASSES), *SIZE)
    found = scores.flatten(1).T.numpy()
    # Columns differ in the last bit, which may move a few pixels across a tree's threshold.
    close = np.isclose(found[:, classes], forest.predict_proba(columns), atol=1e-3).all(1)
    assert close.mean() > 0.97
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert (found[:, [c for c in range(4) if c not in classes]] == 0).all()


def test_an_estimator_without_probabilities_votes(maps):
    info = make_info()
    columns = columns_of(maps, info)
    nearest = fitted(NearestCentroid(), columns, [0, 1, 3])
    if hasattr(nearest, "predict_proba"):
        nearest = fitted(LinearSVC(random_state=0), columns, [0, 1, 3])
    head = Head(info, estimator=nearest)
    scores = head.scores([maps[tap] for tap in head.taps], SIZE)
    assert set(scores.unique().tolist()) == {0.0, 1.0}
    assert (scores.argmax(0).flatten().numpy() == nearest.predict(columns)).mean() > 0.97


def test_damaged_estimators_are_refused(tmp_path, maps):
    info = make_info()
    bayes = fitted(GaussianNB(), columns_of(maps, info), [0, 1])
    data = dump_estimator(bayes)
    save_head(tmp_path / "h", Head(info, estimator=bayes), estimator_bytes=data)
    whole = (tmp_path / "h").read_bytes()
    at = whole.index(data[:16])
    (tmp_path / "h").write_bytes(whole[: at + 40] + b"?" + whole[at + 41 :])
    with pytest.raises(HeadError, match="damaged"):
        load_head(tmp_path / "h")


@pytest.mark.parametrize("classes", [(7, 9), (-1, 1), (2**40, 1)], ids=str)
@pytest.mark.parametrize("kind", [GaussianNB, LinearSVC])
def test_an_estimator_of_other_classes_cannot_predict(maps, kind, classes):
    info = make_info()
    estimator = fitted(kind(), columns_of(maps, info), list(classes))
    with pytest.raises(HeadError, match=f"{kind.__name__} cannot predict .*fit it again"):
        Head(info, estimator=estimator).scores([maps[tap] for tap in CHANNELS], SIZE)


def test_an_estimator_of_other_features_cannot_predict(maps):
    estimator = fitted(GaussianNB(), np.random.default_rng(0).normal(size=(50, 4)), [0, 1])
    with pytest.raises(HeadError, match=r"GaussianNB cannot predict .*4 features"):
        Head(make_info(), estimator=estimator).scores([maps[tap] for tap in CHANNELS], SIZE)


def test_the_file_of_a_damaged_estimator_is_named(tmp_path, maps):
    save_head(tmp_path / "h", Head(make_info(), estimator=1), estimator_bytes=b"no estimator")
    with pytest.raises(ClassifierError, match=r"h: the stored estimator cannot be read"):
        load_head(tmp_path / "h")


def test_layers_that_do_not_fit_the_taps_are_refused():
    info = make_info(Features(taps=("a",), context=()))  # 5 channels
    columns = np.random.default_rng(0).normal(size=(50, 9))
    layers = to_layers(fitted(LogisticRegression(), columns, [0, 1]), 4)
    with pytest.raises(HeadError, match="do not stack"):
        Head.from_layers(layers, info)
