import re
from pathlib import Path

import pytest
import yaml

from pipeline import Drawing, Features, TrainSettings
from pipeline.errors import ParamsError
from pipeline.params import Params, load_params, override

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def params_file(tmp_path: Path):
    """Return a function that writes a params file and returns its path."""

    def write(text: str) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_there_are_recipes() -> None:
    assert {"default", "scenes", "seed-squeezenet", "seed-vgg11"} <= {r.stem for r in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_bears_its_own_name(recipe: Path) -> None:
    params = load_params(recipe)
    assert params.name == recipe.stem
    assert params.data.root is not None
    assert params.extract.backbone is not None


def test_params_file_is_a_recipe() -> None:
    """Running a recipe copies it to params.yaml; the scenes' is the one that is checked in."""
    present = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert present == yaml.safe_load((ROOT / "recipes" / "scenes.yaml").read_text())


def test_a_recipe_says_what_the_library_gets() -> None:
    params = load_params(ROOT / "recipes" / "seed-squeezenet.yaml")
    drawing = params.drawing()
    assert drawing.features == Features(activation="none", context=())
    assert (drawing.pixels_per_class, drawing.void_as_background) == (3, True)
    assert params.fit_sparse.options["batch_size"] == "full"
    settings = params.fit_dense.settings()
    assert isinstance(settings, TrainSettings)
    expected = {"epochs": 10, "batch_size": 2, "learning_rate": 1e-3, "schedule": "constant"}
    expected |= {"class_weights": "batch", "void_as_background": True}
    assert settings.model_dump().items() >= expected.items()
    assert params.fit_dense.keep == "last"


def test_numbers_with_an_exponent(params_file) -> None:
    """YAML 1.1 takes 1e-3 for a word, which nobody means."""
    text = "fit_sparse:\n  options: {alpha: 1e-3, learning_rate: 2.5E+0, batch_size: full, x: 1e}\n"
    assert load_params(params_file(text)).fit_sparse.options == {
        "alpha": 0.001,
        "learning_rate": 2.5,
        "batch_size": "full",
        "x": "1e",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", None),
        ("none", None),
        ("guided:8:1e-3", "guided:8:0.001"),
        ("superpixels:300", "superpixels:300"),
        ("crf:1000:4:5e0", "crf:1000:4.0:5.0"),
    ],
)
def test_a_refinement_has_one_spelling(params_file, text: str, expected: str | None) -> None:
    assert load_params(params_file(f"evaluate:\n  refine: {text}\n")).evaluate.refine == expected


def test_an_empty_file_is_all_defaults(params_file) -> None:
    params = load_params(params_file("# nothing yet\n"))
    assert params == Params()
    assert params.drawing() == Drawing()
    assert params.fit_dense.settings() == TrainSettings()
    assert (params.extract.weights, params.extract.input_size) == ("DEFAULT", "224")
    assert params.data.root is None


def test_what_is_left_out_of_a_section_has_its_default(params_file) -> None:
    params = load_params(params_file("extract:\n  backbone: vgg11\nsamples:\n  seed: 7\n"))
    assert params.extract.backbone == "vgg11"
    assert params.extract.dtype == "float16"
    assert params.drawing() == Drawing(seed=7)


def test_numbers_may_stand_for_words(params_file) -> None:
    """A square is written ``input_size: 64``, and a context ``[3, 5]``, by everyone's first try."""
    params = load_params(
        params_file("extract:\n  input_size: 64\nfeatures:\n  context: [global, 3]\n")
    )
    assert params.extract.input_size == "64"
    assert params.features.context == ("global", "3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extract:\n  bakcbone: vgg11\n", r"extract\.bakcbone: unknown key; .*'backbone'\?"),
        ("fit-sparse:\n  estimator: mlp\n", r"fit-sparse: unknown key; .*'fit_sparse'\?"),
        ("fit_dense:\n  epoch: 3\n", r"fit_dense\.epoch: unknown key; .*'epochs'\?"),
        ("data:\n  scenes:\n    image: 9\n", r"data\.scenes\.image: unknown key; .*'images'\?"),
        ("features:\n  zzz: 1\n", r"features\.zzz: unknown key; known are activation, context, ta"),
        ("fit_dense:\n  epochs: -1\n", r"fit_dense\.epochs: .* greater than or equal to 0.* -1"),
        ("fit_dense:\n  epochs: many\n", r"fit_dense\.epochs: .*valid integer.*'many'"),
        ("fit_sparse:\n  holdout: 1\n", r"fit_sparse\.holdout: .* less than 1.* 1"),
        ("extract:\n  dtype: float64\n", r"extract\.dtype: .*'float16', 'float32' or 'int8'"),
        ("extract: vgg11\n", r"extract: .*'vgg11'"),
        ("extract:\n  taps: conv1\n", r"extract\.taps: .*tuple.*'conv1'"),
        ("features:\n  context: ['4']\n", r"features\.context: .*'4' is not a context"),
        ("features:\n  context: ['a:']\n", r"features\.context: .*'a:' is not a context"),
        ("features:\n  context: [':3']\n", r"features\.context: .*':3' is not a context"),
        ("data:\n  void: 256\n", r"data\.void: .* 256"),
        (
            "evaluate:\n  refine: guided:8\n",
            r"evaluate\.refine: .*'guided:8' is not a refinement: ",
        ),
        ("fit_boxes:\n  gird: 3\n", r"fit_boxes\.gird: unknown key; .*'grid'\?"),
        ("fit_boxes:\n  task: edges\n", r"fit_boxes\.task: .*'figure-ground' or 'keypoints'"),
        ("evaluate_boxes:\n  threshold: 2\n", r"evaluate_boxes\.threshold: .* 1, but it is 2"),
        ("- extract\n", r"top level is not a mapping of sections; write it as"),
        ("extract: [\n", r"not readable as YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", r"not readable as YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_key(params_file, text: str, expected: str):
    path = params_file(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert re.search(expected, message), message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ParamsError, match="not readable as YAML"):
        load_params(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"none\.yaml: no such file"):
        load_params(tmp_path / "none.yaml")


def test_override_replaces_what_is_given() -> None:
    section = Params().extract.model_copy(update={"backbone": "vgg11", "dtype": "int8"})
    changed = override(section, {"backbone": "alexnet", "dtype": None, "splits": ("train",)})
    assert (changed.backbone, changed.dtype, changed.splits) == ("alexnet", "int8", ("train",))
    assert section.backbone == "vgg11"  # sections are values: the old one is as it was


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"batch_size": 0}, "options: batch_size: .*greater than or equal to 1.* 0"),
        ({"input": "grey"}, "options: input: .*'imagenet' or 'raw'.*'grey'"),
        ({"backbones": "vgg11"}, r"options: backbones: unknown key; .*'backbone'\?"),
    ],
)
def test_override_checks_values(given: dict[str, object], expected: str) -> None:
    with pytest.raises(ParamsError, match=expected):
        override(Params().extract, given)
