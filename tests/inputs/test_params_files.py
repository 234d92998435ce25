"""Params files of every kind: one line that names the file, the key and what is allowed."""

import os
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from corpus import Kind, content

from pipeline.cli import main
from pipeline.errors import ParamsError
from pipeline.params import load_params

YAML = r"{path}: not readable as YAML \(%s.*\); correct it, as recipes/scenes.yaml is"


def text(words: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(words, encoding="utf-8")


def bad(name: str, words: str, says: str) -> Kind:
    return Kind(name, ".yaml", text(words), "{path}: " + says)


def broken(name: str, words: str, says: str) -> Kind:
    return Kind(name, ".yaml", text(words), YAML % says)


def bomb(depth: int) -> str:
    """Make a list of 2 to the power of depth words, in as many lines as the depth."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, depth)]
    return "\n".join([*lines, f"name: *a{depth - 1}"])


BAD_PARAMS = [
    Kind("missing", ".yaml", lambda path: None, "{path}: no such file; name another with --params"),
    Kind("a folder", ".yaml", Path.mkdir, "{path} is a folder: put a file in its place"),
    Kind("a pipe", ".yaml", os.mkfifo, "{path} is a pipe, a socket or a device: put a file"),
    Kind("a dangling link", ".yaml", lambda path: path.symlink_to("gone"), "{path} is a link that"),
    Kind("a megabyte", ".yaml", text("#" * (2**20 + 1)), "{path} is larger than the 1 MB that"),
    Kind("Latin-1", ".yaml", content(b"name: \xe4\n"), YAML % "'utf-8' codec can't decode"),
    Kind("zeros", ".yaml", content(bytes(9)), YAML % "unacceptable character #x0000"),
    broken("an open bracket", "extract: [\n", "while parsing a flow node"),
    broken("a tab", "\tname: x\n", "while scanning"),
    broken("two documents", "--- {}\n--- {}\n", "expected a single document"),
    broken("a key twice", "extract: {seed: 1}\nextract: {seed: 2}\n", "the key 'extract' is given"),
    broken("a key twice below", "extract: {seed: 1, seed: 2}\n", "the key 'seed' is given twice"),
    broken("an unknown alias", "name: *gone\n", "found undefined alias"),
    broken("a bomb", bomb(60), "more than 10000 values, aliases counted"),
    broken("a list in itself", "name: &a [*a]\n", "more than 10000 values, aliases counted"),
    broken("a mapping in itself", "extract: &a {x: *a}\n", "more than 10000 values, aliases"),
    broken("a long list", f"name: [{'1,' * 10_000}]\n", "more than 10000 values"),
    broken("thousands of brackets", "[" * 1100, "maximum recursion depth"),
    broken("a call", "name: !!python/object/apply:pathlib.Path.touch [executed]\n", "could not"),
    broken("a call of new", "name: !!python/object/new:os.system ['touch executed']\n", "could"),
    broken("a module", "name: !!python/module:os\n", "could not determine a constructor"),
    broken("a date that is none", "name: 2024-99-99\n", "month must be in 1..12"),
    broken("thousands of digits", f"name: {'9' * 5000}\n", "Exceeds the limit"),
    broken("an empty number", "name: !!int ''\n", ""),
    broken("a word for a switch", "name: !!bool perhaps\n", ""),
    broken("a word for a time", "name: !!timestamp soon\n", ""),
    bad("a list", "- extract\n", "its top level is not a mapping of sections"),
    bad("a word", "extract\n", "its top level is not a mapping of sections"),
    bad("a number for a key", "1: x\n", "1: Keys should be strings, but it is 1"),
    bad("a misspelt section", "extarct: {}\n", "extarct: unknown key; did you mean 'extract'?"),
    bad("a misspelt key", "extract: {bakcbone: a}\n", r"extract\.bakcbone: unknown key; did you m"),
    bad("a long key", f"{'k' * 900}: 1\n", "k{40}: unknown key; known are data, evaluate"),
    bad("nothing for a section", "extract:\n", "extract: .* valid dictionary .*, but it is None"),
    bad("a word for a section", "extract: a\n", "extract: .* valid dictionary .*, but it is 'a'"),
    bad("a word for a number", "fit_dense: {epochs: a}\n", r"fit_dense\.epochs: .*integer.*'a'"),
    bad("a part of a whole", "fit_dense: {epochs: 1.5}\n", r"fit_dense\.epochs: .*integer.*1\.5"),
    bad("yes for a number", "fit_dense: {epochs: yes}\n", "fit_dense: epochs: True is a yes or no"),
    bad("off for a word", "extract: {compression: off}\n", "extract: compression: False is a yes"),
    bad("a number for yes", "samples: {void_as_background: 3}\n", r"samples\.void_as_background: "),
    bad("too small", "extract: {batch_size: 0}\n", r"extract\.batch_size: .*equal to 1, .* 0"),
    bad("too large", "data: {void: 256}\n", r"data\.void: .*equal to 255, but it is 256"),
    bad("a huge seed", f"fit_sparse: {{seed: {10**20}}}\n", r"fit_sparse\.seed: .* to 4294967295"),
    bad("no number", "fit_dense: {learning_rate: .nan}\n", r"fit_dense\.learning_rate: .*nan"),
    bad("infinity", "fit_dense: {learning_rate: .inf}\n", r"fit_dense\.learning_rate: .*finite"),
    bad("another choice", "extract: {dtype: f4}\n", r"extract\.dtype: .*'float16', .* or 'int8'.*"),
    bad("a word for a list", "extract: {taps: conv1}\n", r"extract\.taps: .*tuple.*'conv1'"),
    bad("no splits", "extract: {splits: []}\n", r"extract\.splits: .*name one split or more"),
    bad("a split twice", "extract: {splits: [a, a]}\n", r"extract\.splits: .*name one .*each once"),
    bad("a context of millions", "features: {context: ['9999999']}\n", r"features\.context: .*odd"),
    bad("a name with a way out", "name: ../x\n", r"name: String should match pattern .*'\.\./x'"),
    bad("a name for a shell", "name: x; rm -rf .\n", "name: String should match pattern .*'x; rm"),
    bad("no name", "name: ''\n", "name: String should match pattern .*but it is ''"),
    bad("a long word", f"extract: {{dtype: {'x' * 9000}}}\n", r"extract\.dtype: .*'x+\.\.\.x+'$"),
]


@pytest.mark.parametrize("kind", BAD_PARAMS, ids=str)
def test_a_bad_params_file(kind, refused):
    path = Path("odd.yaml")
    kind.write(path)
    said = refused("fit-sparse", "--cache", "none", "--out", "none", "--params", path)
    assert re.match(kind.says.replace("{path}", "odd\\.yaml"), said), said
    assert len(said) < 500
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "command",
    [
        "extract --out out",
        "fit-dense --cache none --init none --out none",
        "evaluate --cache none --head none",
        "predict --head none --out masks none.png",
        "report --cache none --head a=none --metrics a=none --out none",
        "data check none",
        "data scenes",
    ],
)
def test_every_command_reads_params_yaml(command, refused):
    Path("params.yaml").write_text("extract: {sede: 3}\n")
    said = refused(*command.split())
    assert said == "params.yaml: extract.sede: unknown key; did you mean 'seed'?"
    Path("params.yaml").unlink()
    Path("params.yaml").symlink_to("gone")
    assert refused(*command.split()).startswith("params.yaml is a link that leads nowhere")


def test_a_bomb_takes_no_memory():
    """It would be a list of 2 to the power of 60 words."""
    Path("odd.yaml").write_text(bomb(60))
    tracemalloc.start()
    with pytest.raises(ParamsError):
        load_params(Path("odd.yaml"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_what_people_write_is_understood():
    words = "\ufeffbase: &base {seed: 7}\r\n".replace("base: &base", "samples: &base")
    words += "extract:\r\n  <<: *base\r\n  input_size: 64\r\n  splits: [train]\r\n"
    Path("mine.yaml").write_text(words, encoding="utf-8", newline="")
    params = load_params(Path("mine.yaml"))
    assert (params.samples.seed, params.extract.seed, params.extract.input_size) == (7, 7, "64")
    for name in ("vgg11", "a.b-c_d+e", "2024"):
        Path("mine.yaml").write_text(f"name: {name}\n")
        assert load_params(Path("mine.yaml")).name == name


def test_options_are_checked_like_the_file(data_set, extraction, refused):
    said = refused(*extraction, "--seed", 10**12)
    assert said.startswith("options: seed: Input should be less than or equal to 4294967295")
    said = refused(*extraction, "--split", "train")
    assert said.startswith("options: splits: Value error, name one split or more, each once")
    assert main(["extract", "--out", "out", "--seed", "many"]) == 2
