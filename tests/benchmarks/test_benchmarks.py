"""Every benchmark in its smallest setting, so that none of them rots; its figures mean nothing."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

import pipeline
from benchmarks import (
    accuracy,
    extract,
    gpu,
    many,
    memory,
    predict,
    reading,
    repro,
    rounding,
    stage_process,
    step,
)
from benchmarks.__main__ import NAMES
from benchmarks.integrity import read_seconds
from benchmarks.ledger import Ledger
from benchmarks.opponents import OriginalExtraction, OriginalTraining
from benchmarks.peak import Peak
from benchmarks.results import Result, Row, at_least, at_most
from benchmarks.settings import ROOT, Settings
from benchmarks.stage_process import Measured, Task
from benchmarks.subjects import identity_for, random_head
from benchmarks.summary import write_summary
from benchmarks.timing import Spread, Took, in_turns, ratio
from pipeline import Drawing, FeatureCache, Features, Preprocessing, TrainSettings
from pipeline.cache import SampleDrawer
from pipeline.cache.encoding import StoredArray
from pipeline.errors import CacheDamagedError
from pipeline.params import Params
from pipeline.training import DenseTrainer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("tiny", results=tmp_path / "results", work=tmp_path / "work")


def in_this_process(task: Task) -> Measured:
    """Run a stage here: starting processes, each importing torch, would take most of the time."""
    found = stage_process.measured(task, Peak())
    return Measured(found.seconds, found.cpu, max(found.peak, 1))


def check(result: Result, settings: Settings) -> dict[str, Row]:
    """Write a result, read it back, and give its rows by name."""
    result.write(settings.results)
    read = Result.read(settings.results / f"{result.name}.json")
    assert read.rows == result.rows
    assert read.table() == result.table()
    assert {"processor", "threads", "software"} <= read.machine.keys()
    assert (settings.results / f"{result.name}.png").stat().st_size > 1000
    assert any(row.goal for row in read.rows)
    summary = write_summary(settings.results).read_text()
    assert all(row.what in summary for row in read.rows if row.goal)
    assert list(settings.work.iterdir()) == []
    return {row.what: row for row in read.rows}


def test_extract(settings: Settings) -> None:
    rows = check(extract.run(settings), settings)
    assert 0 < rows["squeezenet1_0: share of sampling"].value.median < 100
    enlarged, stored = "enlarged, float32", "maps of an image, int8"
    smallest = "an image on disk, int8, first map recomputed, gzip"
    named = (f"squeezenet1_0: {what}" for what in (enlarged, stored, smallest))
    sizes = [rows[what].value.median for what in named]
    assert sizes[0] > 20 * sizes[1] > 20 * sizes[2] > 0


def test_reading(settings: Settings) -> None:
    rows = check(reading.run(settings), settings)
    assert rows["squeezenet1_0, int8: fromfile / reading maps as stored"].goal == at_least(0.8)


def test_step(settings: Settings) -> None:
    rows = check(step.run(settings), settings)
    gradients = "squeezenet1_0: gradients, largest difference from the plain formula's"
    assert rows[gradients].reached == "yes"


def test_predict(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    # The other tools are not there in the suite's environment, and that is said.
    monkeypatch.setattr(predict, "OWN", {"pipeline, input 224": None})
    rows = check(predict.run(settings), settings)
    if "napari_convpaint" not in sys.modules:
        row = rows["convpaint / pipeline, input 224: time"]
        assert row.reached == "not measured" or row.value is not None
    floor = rows["squeezenet1_0, mlp, 512 hidden units: floor / forward pass alone"]
    assert floor.value.median > 1
    assert rows["pipeline, input 224"].value.median > 0


@pytest.mark.parametrize("module", [memory, many])
def test_stages(settings: Settings, module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure", in_this_process)
    check(module.run(settings), settings)


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    found = Measured(1.5, 1.0, 10)
    first = Ledger(tmp_path / "measured")
    assert first.measured("fit-dense, many", lambda: found) == found
    again = Ledger(tmp_path / "measured")
    assert again.measured("fit-dense, many", lambda: pytest.fail("measured twice")) == found
    assert again.measured("fit-dense, few 0", lambda: Measured(2, 2, 2)).cpu == 2
    assert again.notes() == []


def test_measurements_of_other_code_are_named(tmp_path: Path) -> None:
    Ledger(tmp_path, code="before").measured("extract, many", lambda: Measured(1, 1, 1))
    now = Ledger(tmp_path, code="after")
    now.measured("extract, many", lambda: Measured(2, 2, 2))
    now.measured("predict, many", lambda: Measured(2, 2, 2))
    assert now.notes() == ["Measured with an earlier state of the code: extract, many."]


def test_a_stage_in_a_process_of_its_own(cache: Path) -> None:
    task = Task("open", "", str(cache.parent), "squeezenet1_0")
    cache_named = cache.with_name("cache")
    if not cache_named.exists():
        cache_named.symlink_to(cache)
    found = stage_process.measure(task)
    assert 0 < found.seconds < 60
    assert 0 < found.cpu < 60
    assert 1_000_000 < found.peak < 2**31


def test_repro(settings: Settings) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert check(repro.run(settings), settings)["make help"].reached == "yes"


def test_gpu(settings: Settings) -> None:
    result = gpu.run(settings)
    if not torch.cuda.is_available():
        assert {row.reached for row in result.rows} == {"not measured"}
    # The first run on a GPU is not the first one of this code.
    result.rows = gpu.measured(settings, torch.device("cpu"))
    check(result, settings)


def test_what_a_call_returns_is_not_taken_for_its_time() -> None:
    """A training step returns its loss, a float."""
    found = in_turns({"step": lambda: 1e6, "own": lambda: Took(3.0)}, 2)
    assert max(found["step"]) < 1
    assert found["own"] == [3.0, 3.0]


def test_the_original_method_samples_the_same_columns(scenes, backbone) -> None:
    drawing = Drawing(features=Features(context=()), pixels_per_class=5)
    preprocessing = Preprocessing(input_size="64")
    original = OriginalExtraction(scenes, backbone, preprocessing, drawing)
    drawer = SampleDrawer(identity_for(scenes, backbone, preprocessing), drawing)
    for image_id in scenes.image_ids("val")[:2]:
        image, label = original._decode(image_id)
        maps = [StoredArray(m[0].numpy()) for m in backbone(image[None])]
        drawer.take(drawer.drawn(image_id, maps, label))
        columns, classes = original.sample(image_id, image, label)
        own = drawer.samples()
        torch.testing.assert_close(
            torch.from_numpy(own.features[-len(columns) :]), torch.from_numpy(columns)
        )
        assert own.label[-len(columns) :].tolist() == classes.tolist()


def test_the_original_method_takes_the_same_step(scenes, backbone, tmp_path: Path) -> None:
    preprocessing = Preprocessing(input_size="64")
    identity = identity_for(scenes, backbone, preprocessing)
    features = Features(context=())
    head = random_head(tmp_path / "head", identity, hidden=16, features=features)
    original = step._original(backbone, head)
    settings = TrainSettings(epochs=10**6, schedule="constant", label_smoothing=0.0)
    trainer = DenseTrainer(
        head,
        settings,
        steps_per_epoch=1,
        class_pixels=torch.ones(len(identity.classes), dtype=torch.int64),
        device=torch.device("cpu"),
    )
    images = step._images(scenes, preprocessing)[:2]
    batch = [(features.apply([m[0] for m in backbone(i[None])], head.taps), y) for i, y in images]
    assert trainer.step(batch) == pytest.approx(original.step(images), rel=1e-5)
    state = trainer.state()
    for n, plain in enumerate(original.gradients()):
        own = 10 * state[f"optimizer.{n}.exp_avg"]
        assert float((own - plain).abs().max()) < 1e-4 * float(plain.abs().max())
    assert isinstance(original, OriginalTraining)


def test_contenders_take_turns() -> None:
    called: list[str] = []
    contenders = {name: (lambda name=name: called.append(name)) for name in "AB"}
    seconds = in_turns(contenders, 2, warm_up=1)
    assert called == list("ABABAB")
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_ratios_are_of_rounds() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == Spread(3.0, 2.5, 3.5, 3)


def test_goals() -> None:
    assert [at_most(2).is_met(v) for v in (2.0, 2.1)] == [True, False]
    assert [at_least(2).is_met(v) for v in (2.0, 1.9)] == [True, False]
    assert Row.unmeasured("a", "no GPU", at_most(2)).reached == "not measured"


def test_rounding(settings: Settings) -> None:
    first, *_, last = (row.value for row in rounding.run(settings).rows)
    assert first == Spread(1, 1, 1, 1)
    assert 0.5 < last.median < 4 and last.median != 1


def test_every_benchmark_is_listed() -> None:
    modules = (extract, gpu, many, memory, predict, reading, repro, rounding, step)
    assert {module.__name__ for module in modules} == {f"benchmarks.{name}" for name in NAMES}


def test_the_rows_of_accuracy_lead_to_the_recipes() -> None:
    best, default = (
        yaml.safe_load((accuracy.RECIPES / f"{name}.yaml").read_text())
        for name in ("best", "default")
    )
    default["fit_sparse"]["holdout"] = best["fit_sparse"]["holdout"]  # the program has its own
    made = {
        text: Params.model_validate(accuracy.changed(best, row))
        for text, row in (accuracy.parts() | accuracy.beside()).items()
    }
    assert made[list(accuracy.ROWS)[-1]] == Params.model_validate(best)
    for section in ("extract", "features", "samples", "fit_sparse", "evaluate"):
        expected = getattr(Params.model_validate(default), section)
        assert getattr(made[accuracy.DEFAULT], section) == expected
    assert len({params.model_dump_json() for params in made.values()}) == len(made)


def test_reading_without_digests_checks_none(scenes, backbone, tmp_path) -> None:
    preprocessing = Preprocessing(input_size="64")
    pipeline.extract(scenes, backbone, tmp_path, splits=["val"], preprocessing=preprocessing)
    split = FeatureCache(tmp_path)["val"]
    image_id = split.image_ids[0]
    payload = split.stored_maps(image_id, split.identity.tap_names)[0].values.tobytes()
    assert read_seconds(split, image_id, checked=True) > 0
    path = split.where[image_id]
    content = bytearray(path.read_bytes())
    content[content.index(payload)] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    assert read_seconds(split, image_id, checked=False) > 0
    with pytest.raises(CacheDamagedError):
        read_seconds(split, image_id, checked=True)
