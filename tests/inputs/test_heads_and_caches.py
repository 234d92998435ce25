"""Heads and caches that are not what they should be: one line that names file and remedy."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from corpus import Kind, content

from fuzz.shard_values import of_version
from pipeline import FeatureCache, load_head
from pipeline.cli import main
from pipeline.heads import save_head


class Intruder:
    """Unpickling one makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def with_identity(**changes: object) -> Callable[[Path, Path], None]:
    """Write the head as one of a cache that was made otherwise."""

    def write(path: Path, sparse_head: Path) -> None:
        head = load_head(sparse_head)
        identity = head.info.identity.model_copy(update=changes)
        save_head(path, replace(head, info=head.info.model_copy(update={"identity": identity})))

    return write


def flip(path: Path, sparse_head: Path) -> None:
    data = bytearray(sparse_head.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def cut(path: Path, sparse_head: Path) -> None:
    path.write_bytes(sparse_head.read_bytes()[:-1000])


def alone(write: Callable[[Path], object]) -> Callable[[Path, Path], object]:
    return lambda path, sparse_head: write(path)


DAMAGED = r"odd\.safetensors: damaged, or not a safetensors file \(.+\); fit it again"
BAD_HEADS = [
    Kind("missing", "", alone(lambda path: None), r"odd\.safetensors: no such file"),
    Kind("a folder", "", alone(Path.mkdir), r"odd\.safetensors: no such file"),
    Kind("a pipe", "", alone(os.mkfifo), r"odd\.safetensors: no such file"),
    Kind("a dangling link", "", alone(lambda path: path.symlink_to("gone")), ".*: no such file"),
    Kind("zero bytes", "", alone(content(b"")), DAMAGED),
    Kind("text", "", alone(content(b"a head")), DAMAGED),
    Kind("a pickle", "", alone(content(pickle.dumps(Intruder()))), DAMAGED),
    Kind("a torch file", "", alone(lambda path: torch.save({}, path)), DAMAGED),
    Kind("a giant header", "", alone(content(b"\xff" * 7 + b"\x7f{}")), DAMAGED),
    Kind("truncated", "", cut, DAMAGED),
    Kind("a flipped bit", "", flip, r".*: damaged, its content does not match .*; fit it again"),
    Kind("weights", "", alone(lambda path: safetensors.torch.save_file({"a": torch.ones(1)}, path)),
         r"odd\.safetensors: a safetensors file, but not a hypercolumn-head"),
]  # fmt: skip
OF_ANOTHER_CACHE = [
    Kind("of other classes", "", with_identity(classes=("odd",) * 7), 'classes: .*, not .*"odd"'),
    Kind("of another void", "", with_identity(void=0), "void: 255, not 0"),
    Kind("of another backbone", "", with_identity(backbone="vgg11"), "backbone: .*, not vgg11"),
    Kind("of other weights", "", with_identity(weights="0" * 32), "weights: .*, not 0000"),
    Kind("of another size", "", with_identity(
        preprocessing={"normalization": "imagenet", "input_size": "224"}), "preprocessing: .*224"),
    Kind("of another geometry", "", with_identity(geometry="align_corners"), "geometry: half_pix"),
    Kind("of another dtype", "", with_identity(dtype="int8"), "dtype: float16, not int8"),
]  # fmt: skip


@pytest.mark.parametrize("kind", BAD_HEADS, ids=str)
def test_a_bad_head(kind, cache, sparse_head, scenes, refused):
    path = Path("odd.safetensors")
    kind.write(path, sparse_head)
    said = refused("evaluate", "--cache", cache, "--head", path, "--out", "metrics.json")
    assert re.match(kind.says, said), said
    assert refused("fit-dense", "--cache", cache, "--init", path, "--out", "dense") == said
    image = scenes.image_path("scene_0000")
    assert refused("predict", "--head", path, "--weights", "random", "--out", "out", image) == said
    assert sorted(Path().iterdir()) in ([], [path])


@pytest.mark.parametrize("kind", OF_ANOTHER_CACHE, ids=str)
def test_a_head_of_another_cache(kind, cache, sparse_head, refused):
    path = Path("odd.safetensors")
    kind.write(path, sparse_head)
    for words in (["evaluate", "--head"], ["fit-dense", "--out", "dense", "--init"]):
        said = refused(*words, path, "--cache", cache)
        start = f"{cache}: the head odd.safetensors needs a cache made otherwise ("
        assert said.startswith(start), said
        assert re.match(kind.says, said.removeprefix(start)), said
    assert list(Path().iterdir()) == [path]


def test_a_head_of_other_taps(data_set, extraction, sparse_head, refused):
    assert main(extraction) == 0
    said = refused("evaluate", "--cache", "out", "--split", "train", "--head", sparse_head)
    assert re.match(r"out: the head .* needs a cache made otherwise \(.*taps: \[\"conv1\"", said)


def set_version(number: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for shard in folder.glob("*-of-*.h5"):
            shard.write_bytes(of_version(shard.read_bytes(), number))

    return write


def without_userblock(number: object) -> Callable[[Path], None]:
    """Leave what is HDF5's, as of versions 1 and 2."""

    def write(folder: Path) -> None:
        for shard in folder.glob("*-of-*.h5"):
            shard.write_bytes(shard.read_bytes()[512:])
            with h5py.File(shard, "r+") as file:
                file.attrs["format_version"] = number

    return write


def foreign(folder: Path) -> None:
    """Put the HDF5 file of another program in the place of each shard."""
    for shard in folder.glob("*-of-*.h5"):
        with h5py.File(shard, "w") as file:
            file["features"] = np.zeros((3, 4))


def of_two_kinds(folder: Path) -> None:
    """Mix shards of two caches."""
    words = "extract --backbone squeezenet1_0 --weights random --seed 1 --tap conv1 --tap fire3"
    words += " --tap fire5 --input-size native --images-per-shard 5 --split train --split val"
    assert main([*words.split(), "--dataset", str(folder / "set"), "--out", "two"]) == 0
    shutil.copy(next(Path("two").glob("train-00001-of-*.h5")), folder)


def shorten(folder: Path) -> None:
    for shard in folder.glob("val-*-of-*.h5"):
        shard.write_bytes(shard.read_bytes()[:5000])


def pipes(folder: Path) -> None:
    for shard in folder.glob("val-00000-of-*.h5"):
        shard.unlink()
        os.mkfifo(shard)


def empty_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a cache")


def dangling(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("gone")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


NO_CACHE = "odd: (no cache there|holds no shards|is not a folder).*; run 'pipeline extract'"
BAD_CACHES = [
    Kind("missing", "", shutil.rmtree, NO_CACHE),
    Kind("a plain file", "", empty_file, NO_CACHE),
    Kind("a dangling link", "", dangling, NO_CACHE),
    Kind("an empty folder", "", emptied, NO_CACHE),
    Kind("of the version before", "", without_userblock(2),
         r"odd/.*\.h5: format version 2, but this software reads version 3; extract again"),
    Kind("of a version to come", "", set_version(99), r"odd/.*\.h5: format version 99, but this"),
    Kind("of no version", "", without_userblock("new"), r"odd/.*\.h5: .*; run 'pipeline"),
    Kind("of another program", "", foreign, r"odd/.*\.h5: not a shard file of a feature cache"),
    Kind("cut short", "", shorten,
         r"odd/val.*\.h5: its header is damaged; run 'pipeline cache repair' \(it has 5000 by"),
    Kind("a pipe", "", pipes, r"odd/val.*\.h5: is not a file; remove it, and run 'pipel"),
]  # fmt: skip
READERS = [
    "cache info odd",
    "fit-sparse --cache odd --out head",
    "evaluate --cache odd --head {head} --out metrics.json",
    "fit-dense --cache odd --init {head} --out dense",
    "report --cache odd --head a={head} --metrics a=metrics.json --out report",
]


@pytest.mark.parametrize("kind", BAD_CACHES, ids=str)
def test_a_bad_cache(kind, cache, sparse_head, refused):
    shutil.copytree(cache, "odd")
    kind.write(Path("odd"))
    Path("metrics.json").write_text("{}")
    for words in READERS[1:] if kind.name in ("cut short", "a pipe") else READERS:
        said = refused(*words.format(head=sparse_head).split())
        assert re.match(kind.says, said), (words, said)
    assert not {"head", "dense", "report"} & {path.name for path in Path().iterdir()}


@pytest.mark.parametrize("kind", [k for k in BAD_CACHES if k.says == NO_CACHE], ids=str)
@pytest.mark.parametrize("command", ["verify", "repair", "gc"])
def test_a_cache_that_is_none(kind, command, cache, refused):
    shutil.copytree(cache, "odd")
    kind.write(Path("odd"))
    said = refused("cache", command, "odd")
    assert re.match(kind.says, said), said


def test_a_cache_from_another_backbone(data_set, extraction, refused):
    assert main(extraction) == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    for words, field in (
        (
            ["--backbone", "squeezenet1_1", "--tap", "features.3"],
            "backbone: squeezenet1_0, not ",
        ),
        (["--seed", "1"], "weights: "),
        (["--input-size", "48"], "preprocessing: "),
        (["--input", "raw"], "preprocessing: "),
        (["--dtype", "int8"], "dtype: float16, not int8"),
        (["--classes", "a,b,c"], "classes: "),
    ):
        given = extraction
        if "--backbone" in words:
            given = [w for w in extraction if w not in ("--tap", "conv1", "fire3")]
        said = refused(*given, *words)
        assert said.startswith(f"out: holds a cache made otherwise ({field}"), said
        assert said.endswith("give another --out, or --replace to overwrite it")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_an_out_of_another_version_is_replaced_on_request_only(data_set, extraction, refused):
    assert main(extraction) == 0
    set_version(9)(Path("out"))
    said = refused(*extraction)
    assert re.match(r"out.*: format version 9, but this software reads version \d+; extract", said)
    assert main([*extraction, "--replace"]) == 0
    assert len(FeatureCache("out")["train"]) == 3


def test_an_out_that_is_no_folder(data_set, extraction, sparse_head, refused):
    Path("out").write_text("precious")
    said = refused(*extraction)
    assert re.match(r"out: .*; (give|name|write|see to)", said), said
    image = data_set.root / "JPEGImages" / "first.png"
    said = refused("predict", "--head", sparse_head, "--weights", "random", "--out", "out", image)
    assert "out" in said
    assert Path("out").read_text() == "precious"
    Path("out").unlink()
    Path("out").symlink_to("gone")
    said = refused(*extraction)
    assert re.match(r"out: .*; (give|name|write|see to)", said), said
    assert not Path("gone").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="whoever runs the tests may write everywhere")
def test_a_read_only_cache_is_read_and_not_written(data_set, extraction, refused):
    assert main(extraction) == 0
    Path("out").chmod(0o500)
    try:
        assert main(["cache", "info", "out"]) == 0
        assert main(["cache", "verify", "out"]) == 0
        assert main(["fit-sparse", "--cache", "out", "--out", "head", "--option", "hidden=4"]) == 0
        data_set.add("first.png")
        said = refused(*extraction, "--replace", "--dtype", "int8")
        assert "out" in said
    finally:
        Path("out").chmod(0o700)
