"""A user's mistake is one line on stderr that names the thing and the remedy, and exit code 1."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline import VocDataset, fit_sparse, load_head
from pipeline.backbones.weights import load_weights
from pipeline.cli import main

Mistake = Callable[..., str]

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def extract(scenes: VocDataset) -> list[object]:
    """Give the words of an extraction that would work."""
    words = "extract --backbone squeezenet1_0 --weights random --out out --dataset"
    return [*words.split(), scenes.root]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--dataset nowhere", "nowhere is not a folder: name the folder that holds JPEGImages"),
        ("--backbone squeezenet", "backbone 'squeezenet' is unknown; the closest are squeezenet1_"),
        ("--tap conv1 --tap fire99", "'fire99'"),
        ("--tap features.99", "features.99"),
        ("--split train --split test", "no split 'test': choose one of train, trainval, val"),
        ("--weights mine.safetensors", "no weights file mine.safetensors; check the path"),
        ("--weights mine", "weights 'mine' are not understood; use DEFAULT, random, or a file"),
        ("--input-size 0", "input size '0' is not understood; write a square as '224'"),
        ("--input-size short", "input size 'short' is not understood"),
        ("--batch-size 0", "options: batch_size: .* greater than or equal to 1, but it is 0"),
        ("--images-per-shard -1", "options: images_per_shard: .*, but it is -1"),
        ("--seed -1", "options: seed: .*, but it is -1"),
        ("--void 300", "options: void: .* less than or equal to 255, but it is 300"),
        (
            "--pixels-per-class 3 --pixels-per-image 9",
            "samples are drawn by class or by",
        ),
        ("--pixels-per-class 0", "options: pixels_per_class: .*, but it is 0"),
        ("--context global,4", "options: context: .*'4' is not a context: give 'global' or an odd"),
        ("--classes a,a", "class names repeat"),
        ("--device gpu", "no device 'gpu'; give auto, cpu or cuda"),
        ("--params none.yaml", "none.yaml: no such file"),
    ],
)
def test_extract(extract: list[object], mistake: Mistake, options: str, expected: str) -> None:
    said = mistake(*extract, *options.split())
    assert re.search(expected, said), said
    assert not Path("out").exists()


def test_a_mistake_that_shows_on_the_way(extract: list[object], capsys) -> None:
    """Lines on what was done come first; the last one is the error."""
    words = [*map(str, extract), "--tap", "conv1", "--classes", "background,cat"]
    assert main(words) == 1
    captured = capsys.readouterr()
    *before, last = captured.err.splitlines()
    assert before[0] == "images: 12 train, 6 val"
    assert re.search(r"^Error: .*\.png has labels .*, but there are 2 classes", last)
    assert captured.out == ""
    assert not list(Path("out").glob("*.h5"))


def test_extract_without_enough_said(extract: list[object], mistake: Mistake) -> None:
    assert mistake("extract", "--out", "out") == (
        "which data set? give --dataset, or data.root in params.yaml"
    )
    assert mistake("extract", "--out", "out", "--dataset", extract[-1]) == (
        "which backbone? give --backbone, or extract.backbone in params.yaml"
    )


def test_weights_of_another_network(extract: list[object], mistake: Mistake) -> None:
    save_file(load_weights("squeezenet1_1", "random"), "other.safetensors")
    said = mistake(*extract, "--weights", "other.safetensors")
    assert re.search(r"other\.safetensors.*'features\.0\.weight'.* that network's weights", said)
    Path("damaged.safetensors").write_bytes(Path("other.safetensors").read_bytes()[:5000])
    said = mistake(*extract, "--weights", "damaged.safetensors")
    assert re.search(
        r"damaged\.safetensors is damaged or no safetensors file.*; get it again", said
    )


def test_weights_that_hide_code(extract: list[object], mistake: Mistake) -> None:
    class Evil:
        def __reduce__(self):
            return Path.touch, (Path("executed"),)

    torch.save({"features.0.weight": Evil()}, "evil.pth")
    said = mistake(*extract, "--weights", "evil.pth")
    assert re.search(r"evil\.pth .*objects that need code to load, which is refused", said)
    assert not Path("executed").exists()


def test_a_missing_and_a_broken_image(
    extract: list[object], mistake: Mistake, scenes: VocDataset, capsys
) -> None:
    shutil.copytree(scenes.root, "mine")
    words = [*map(str, extract), "--dataset", "mine", "--split", "val", "--tap", "conv1"]
    words += ["--input-size", "32"]
    first, second = VocDataset.open("mine").image_ids("val")[:2]
    Path("mine/JPEGImages", f"{first}.png").unlink()
    assert re.search(rf"{first} \(.*\) does not exist: restore the file", mistake(*words))
    Path("mine/JPEGImages", f"{second}.png").write_text("not an image")

    # The same images skipped on request: named in the end, and counted.
    assert main([*words, "--on-error", "skip"]) == 0
    captured = capsys.readouterr()
    skipped = [line for line in captured.err.splitlines() if line.startswith("skipped ")]
    assert [line.split(":")[0] for line in skipped] == [f"skipped val/{i}" for i in (first, second)]
    assert "4 images, 4 computed now, 2 skipped" in captured.out
    assert main(["cache", "info", "out"]) == 0
    assert f"2 skipped: {first}, {second}" in capsys.readouterr().out


def test_a_cache_made_otherwise(extract: list[object], mistake: Mistake, cache: Path) -> None:
    said = mistake(*extract, "--out", cache)
    assert said.startswith(f"{cache}: holds a cache made otherwise (")
    assert '"input_size": "native"}, not ' in said
    assert said.endswith("give another --out, or --replace to overwrite it")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--cache nowhere", "nowhere: no cache there; run 'pipeline extract' first"),
        ("--cache .", "holds no shards; run 'pipeline extract' first"),
        ("--split test", "no split 'test'; it holds train, val"),
        ("--estimator perceptron", "no estimator 'perceptron'; choose logistic, .*mlp"),
        ("--estimator nowhere.mine:Thing", "cannot import 'nowhere.mine'"),
        ("--option hiden=3", "'mlp' has no option 'hiden'; it has: .*hidden"),
        ("--option hidden=many", "hidden is 'many', but must be a whole number from 1"),
        ("--option alpha=-1e-3", "alpha is -0.001, but must be 0 or above"),
        ("--holdout 1", "options: holdout: .* less than 1, but it is 1"),
        ("--seed -5", "options: seed: .*, but it is -5"),
        ("--context 3,deep", "'deep' is not a context"),
        ("--context fire5:2", "'fire5:2' is not a context: give .*, after 'TAP:' if"),
        ("--context fire9:3", "no tap 'fire9' to take .* 'fire9:3' of; used are conv1, fire3, fi"),
    ],
)
def test_fit_sparse(cache: Path, mistake: Mistake, options: str, expected: str) -> None:
    said = mistake("fit-sparse", "--cache", cache, "--out", "head", *options.split())
    assert re.search(expected, said), said
    assert not Path("head").exists()


def test_fit_dense(cache: Path, sparse_head: Path, mistake: Mistake) -> None:
    def words(init: object, *more: object) -> tuple[object, ...]:
        return ("fit-dense", "--cache", cache, "--init", init, "--out", "dense", *more)

    gone = "none.safetensors: no such file; correct the path, or fit it again"
    assert mistake(*words("none.safetensors")) == gone
    assert "options: epochs: " in mistake(*words(sparse_head, "--epochs", -1))
    assert "options: learning_rate: " in mistake(*words(sparse_head, "--learning-rate", 0))
    assert "no split 'test'" in mistake(*words(sparse_head, "--validate-on", "test"))
    Path("none.json").write_text("{}")
    assert "none.json: damaged, or not a safetensors file" in mistake(*words("none.json"))

    bayes = "sklearn.naive_bayes:GaussianNB"
    fit_sparse(cache, "bayes", estimator=bayes, holdout=0)
    said = mistake(*words("bayes"))
    assert said.startswith(f"bayes: a {bayes} predicts in blocks and cannot become a dense head; ")
    fit_sparse(cache, "all", estimator="sgd", options={"epochs": 1}, holdout=0)
    said = mistake(*words("all", "--validate-on", "held-out"))
    assert "held out no image of 'train'" in said
    assert said == mistake("evaluate", "--cache", cache, "--head", "all", "--split", "held-out")
    assert not Path("dense").exists()


def test_a_damaged_head(cache: Path, sparse_head: Path, mistake: Mistake) -> None:
    content = bytearray(sparse_head.read_bytes())
    Path("short").write_bytes(content[: len(content) // 2])
    content[-100] ^= 1
    Path("flipped").write_bytes(content)
    save_file(load_file(sparse_head), "foreign")
    for name, expected in (
        ("short", "short: damaged, or not a safetensors file"),
        ("flipped", "flipped: damaged, its content does not match its digest; fit it again"),
        ("foreign", "foreign: a safetensors file, but not a hypercolumn-head"),
    ):
        assert expected in mistake("evaluate", "--cache", cache, "--head", name)


def test_refinements(
    cache: Path, sparse_head: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = ("evaluate", "--cache", cache, "--head", sparse_head, "--out", "metrics.json")
    predict = ("predict", "--head", sparse_head, "--weights", "random", "--out", "masks", "x.png")
    monkeypatch.setitem(sys.modules, "skimage", None)  # as if it were not installed
    for words in (evaluate, predict):
        said = mistake(*words, "--refine", "guided")
        assert re.search(
            "options: refine: .*'guided' is not a refinement: give none, guided:", said
        )
        for how in ("superpixels:9", "crf:9:4.0:5.0"):
            assert mistake(*words, "--refine", how) == (
                f"scikit-image is not installed, which {how} needs; "
                "run: pip install 'hypercolumn-pipeline[superpixels]'"
            )
        assert mistake(*words, "--refine", "guided:8:0.1,prior:4:99") == (
            "prior:4:99: there is no class 99, they are 0 to 6"
        )
        said = mistake(*words, "--refine", "prior:4:0,none")
        assert "'none' in 'prior:4:0,none' is no step; leave it out" in said
    assert list(Path().iterdir()) == []


def test_a_head_of_another_cache(
    extract: list[object], sparse_head: Path, mistake: Mistake, capsys
) -> None:
    words = [*map(str, extract), "--tap", "conv1", "--split", "train", "--split", "val"]
    assert main([*words, "--input-size", "32"]) == 0
    capsys.readouterr()
    for command in (
        ["evaluate", "--cache", "out", "--head", sparse_head],
        ["fit-dense", "--cache", "out", "--init", sparse_head, "--out", "dense"],
    ):
        said = mistake(*command)
        assert said.startswith(f"out: the head {sparse_head} needs a cache made otherwise (")
        assert 'taps: ["conv1"], not ["conv1", "fire3", "fire5"]' in said


def test_predict(sparse_head: Path, scenes: VocDataset, mistake: Mistake) -> None:
    image = scenes.image_path(scenes.image_ids("val")[0])

    def words(source: object, *more: object) -> tuple[object, ...]:
        command = ["predict", "--head", sparse_head, "--weights", "random", "--out", "masks"]
        return (*command, *more, source)

    digest = load_head(sparse_head).info.identity.weights
    said = mistake(*words(image, "--seed", 1))
    assert said.startswith(f"{sparse_head}: made with squeezenet1_0 weights {digest}, but random")
    assert said.endswith("; give the weights it was made with")

    Path("other").mkdir()
    shutil.copy(image, "other")
    assert "would both become" in mistake(*words(image, "other"))
    Path("words.jpg").write_text("no image")
    assert "words.jpg is not an image" in mistake(*words("words.jpg"))
    assert "none.jpg does not exist" in mistake(*words("none.jpg"))
    Image.new("RGB", (2, 2)).save("dot.png")
    assert "dot.png: cannot go through the backbone" in mistake(*words("dot.png"))
    assert "no such file" in mistake(*words(image, "--head", "none"))


def test_report(cache: Path, sparse_head: Path, mistake: Mistake) -> None:
    words = ["report", "--cache", cache, "--out", "report", "--head", f"a={sparse_head}"]
    assert mistake(*words, "--metrics", "a=none.json") == (
        "none.json: no such file; run 'pipeline evaluate' first"
    )
    assert "'a' needs both a head and its metrics" in mistake(*words, "--metrics", "b=none.json")
    assert "options: images: " in mistake(*words, "--metrics", "a=none.json", "--images", -1)


@pytest.mark.parametrize("command", ["info", "verify", "repair", "gc"])
def test_no_cache(mistake: Mistake, command: str) -> None:
    assert mistake("cache", command, "nowhere") == (
        "nowhere: no cache there; run 'pipeline extract' first"
    )
    Path("empty").mkdir()
    assert "empty: holds no shards" in mistake("cache", command, "empty")
    assert list(Path("empty").iterdir()) == []


def test_what_cannot_be_written(cache: Path, sparse_head: Path, capsys) -> None:
    Path("file").write_text("")
    words = ["evaluate", "--cache", cache, "--head", sparse_head, "--out", "file/metrics.json"]
    assert main([str(word) for word in words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert "file" in error


def test_debug_shows_where(run_pipeline) -> None:
    """A mistake in a process of its own: the code, one line, and the traceback on request."""
    short = run_pipeline("data", "check", "nowhere")
    assert (short.returncode, short.stdout) == (1, "")
    assert short.stderr.count("\n") == 1
    assert short.stderr.startswith("Error: nowhere is not a folder")
    long = run_pipeline("--debug", "data", "check", "nowhere")
    assert long.returncode == 1
    assert long.stderr.startswith("Traceback (most recent call last):")
    assert long.stderr.splitlines()[-1].startswith("pipeline.errors.DataError: nowhere is not")
