"""Bit rot: flipped, cut and swapped bytes in every kind of file are found before they are used."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from damage import (
    Tally,
    assault,
    blocks,
    cut_and_extended,
    flips,
    overwritten,
    same,
)
from sketches import (
    SAMPLES,
    SHARD,
    head_info,
    read_checkpoint,
    read_head,
    read_index,
    read_manifest_file,
    read_samples_file,
    read_shards,
    sketched_estimator,
    sketched_head,
    write_cache,
    write_checkpoint,
)

from pipeline import VocDataset
from pipeline.cli import main
from pipeline.errors import CacheDamagedError, CacheMismatchError, HeadError
from pipeline.heads import Head, load_head, save_head
from pipeline.stages.evaluate import evaluate
from pipeline.stages.inspect import verify_cache
from pipeline.stages.maintain import repair_cache

DAMAGED = (CacheDamagedError, CacheMismatchError)


@dataclass
class Specimen:
    """A file to damage.

    Attributes
    ----------
    path : Path
    read : callable
        Gives everything it says.
    errors : tuple of types
        What ``read`` may raise.
    reported : callable or None
        What ``cache verify`` lists, if it is a file of a cache.
    """

    path: Path
    read: Callable[[], Any]
    errors: tuple[type[Exception], ...]
    reported: Callable[[], Iterable[str]] | None = None

    def survive(self, damages: Iterable[tuple[str, bytes]], *, every: int = 24) -> Tally:
        tally = assault(
            self.path, damages, self.read, self.errors, reported=self.reported, every=every
        )
        assert tally.wrong == []
        return tally


def in_cache(directory: Path, name: str, read: Callable[[Path], Any]) -> Specimen:
    def reported() -> Iterator[str]:
        return (problem.what for problem in verify_cache(directory))

    return Specimen(directory / name, lambda: read(directory), DAMAGED, reported)


def shard(directory: Path, **details: Any) -> Specimen:
    return in_cache(write_cache(directory, **details), SHARD, read_shards)


def samples(directory: Path) -> Specimen:
    return in_cache(write_cache(directory), SAMPLES, read_samples_file)


def index(directory: Path) -> Specimen:
    return in_cache(write_cache(directory), "index.h5", read_index)


def manifest(directory: Path) -> Specimen:
    return in_cache(write_cache(directory), "manifest.json", read_manifest_file)


def dense_head(directory: Path, hidden: int = 2) -> Specimen:
    path = directory / "dense.safetensors"
    save_head(path, sketched_head(hidden))
    return Specimen(path, lambda: read_head(path), (HeadError,))


def estimator_head(directory: Path) -> Specimen:
    path = directory / "estimator.safetensors"
    save_head(path, Head(head_info("sparse")), estimator_bytes=sketched_estimator())
    return Specimen(path, lambda: read_head(path), (HeadError,))


def checkpoint(directory: Path, hidden: int = 2) -> Specimen:
    path, head = directory / "dense.safetensors.checkpoint", sketched_head(hidden)
    write_checkpoint(path, head)
    return Specimen(path, lambda: read_checkpoint(head, path), (HeadError,))


SMALL = [shard, samples, index, manifest, dense_head, estimator_head, checkpoint]


def test_every_byte_flipped(soak, specimen):
    whole = specimen.path.read_bytes()
    # Of an estimator most is what skops wrote, one tensor to the file: some bytes will do.
    step = 4 if "estimator" in specimen.path.name and not soak else 1
    positions = range(0, len(whole), step)
    hdf5 = specimen.path.name == SHARD  # which only `cache verify` reads of a shard
    tally = specimen.survive(flips(whole, positions, seed=0), every=1 if hdf5 else 24)
    unused = whole.count(0) if hdf5 else 0.1 * len(positions)  # what fills gaps is zeros
    assert tally.harmless <= unused


def test_cut_extended_and_swapped_small_files(specimen):
    whole = specimen.path.read_bytes()
    tally = specimen.survive(cut_and_extended(whole, 30, seed=0))
    assert tally.found >= 30
    specimen.survive(blocks(whole, 16, 60, seed=0))


def test_two_images_headers_swapped(tmp_path):
    """Headers of datasets vouch for themselves, wherever they lie: digests must know the place."""
    specimen = shard(tmp_path, image_ids=("cow_1", "cow_2"))
    whole = specimen.path.read_bytes()
    swaps = list(swapped_headers(whole))
    assert len(swaps) > 10
    tally = specimen.survive(swaps, every=1)
    assert tally.harmless == 0


def test_two_headers_of_samples_swapped(tmp_path):
    specimen = samples(tmp_path)
    swaps = list(swapped_headers(specimen.path.read_bytes()))
    assert len(swaps) >= 3  # image, y and x are alike
    assert specimen.survive(swaps, every=1).harmless == 0


def swapped_headers(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Swap object headers of HDF5 that are of the same length, each two of them."""
    starts = [at for at in range(len(whole)) if whole.startswith(b"OHDR", at)]
    headers = {at: whole[at : at + header_bytes(whole, at)] for at in starts}
    for a, one in headers.items():
        for b, other in headers.items():
            if a < b and len(one) == len(other):
                swapped = whole[:a] + other + whole[a + len(one) : b] + one + whole[b + len(one) :]
                yield f"headers at {a} and {b} swapped", swapped


def header_bytes(whole: bytes, at: int) -> int:
    """Give the length of an object header of version 2 with its checksum."""
    flags, start = whole[at + 5], at + 6
    start += 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
    width = 1 << (flags & 3)
    return start - at + width + int.from_bytes(whole[start : start + width], "little") + 4


def test_every_byte_set_to_zero_and_to_255(soak, specimen):
    """Takes minutes: in a soak only."""
    if not soak:
        pytest.skip("needs --soak")
    whole = specimen.path.read_bytes()
    specimen.survive(overwritten(whole, range(len(whole))), every=1)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_compressed_and_scaled_maps(dtype, compression, soak, tmp_path):
    specimen = shard(tmp_path, dtype=dtype, compression=compression, size=(24, 30))
    whole = specimen.path.read_bytes()
    positions = np.random.default_rng(0).integers(0, len(whole), soak or 60)
    specimen.survive(flips(whole, positions.tolist(), seed=1))


def test_directories_that_hdf5_keeps_in_trees(soak, tmp_path):
    """Many images, and a header of more than 64 kB, are kept in structures of their own."""
    specimen = shard(
        tmp_path,
        image_ids=[f"image_{number}" for number in range(9)],
        size=(1, 1),
        software={"sketch": "1.0" * 25_000},
    )
    whole = specimen.path.read_bytes()
    structures = [at for at in range(len(whole)) if whole.startswith(STRUCTURES, at)]
    assert {whole[at : at + 4] for at in structures} >= {b"OHDR", b"FRHP", b"FHDB", b"BTHD"}
    rng = np.random.default_rng(0)
    some = structures * (soak // 100) or structures[::2]
    inside = [at + int(rng.integers(64)) for at in some]
    everywhere = rng.integers(0, len(whole), soak or 40).tolist()
    specimen.survive(flips(whole, [*inside, *everywhere], seed=1))
    specimen.survive(blocks(whole, 512, soak or 20, seed=2))


STRUCTURES = (b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"FADB")


@pytest.fixture
def soak(request: pytest.FixtureRequest) -> int:
    """Give how much is asked for; 0 for as much as a moment allows."""
    return int(request.config.getoption("--soak", default=0))


@pytest.fixture(params=SMALL)
def specimen(request: pytest.FixtureRequest, tmp_path: Path) -> Specimen:
    return request.param(tmp_path)


def alone(cache: Path, name: str, folder: Path, read: Callable[[Path], Any]) -> Specimen:
    """Give a file of a cache in a folder of its own."""
    folder.mkdir(exist_ok=True)
    return Specimen(
        Path(shutil.copy(cache / name, folder)), lambda: read(folder), (*DAMAGED, HeadError)
    )


def weights_of(path: Path) -> dict[str, Any]:
    head = load_head(path)
    return {"info": head.info.model_dump(), "weights": head.dense.state_dict()}


@pytest.mark.parametrize("kind", ["shard", "samples", "head", "checkpoint"])
def test_files_of_a_real_run(kind, soak, cache, sparse_head, tmp_path):
    if kind == "shard":
        specimen = alone(cache, "train-00001-of-00003.h5", tmp_path / "cache", read_shards)
    elif kind == "samples":
        specimen = alone(cache, SAMPLES, tmp_path / "cache", read_samples_file)
    elif kind == "head":
        path = Path(shutil.copy(sparse_head, tmp_path))
        specimen = Specimen(path, lambda: weights_of(path), (HeadError,))
    else:
        specimen = checkpoint(tmp_path, hidden=2000)
    whole = specimen.path.read_bytes()
    positions = np.random.default_rng(3).integers(0, len(whole), soak or 60).tolist()
    specimen.survive(flips(whole, positions, seed=3))
    specimen.survive(cut_and_extended(whole, soak or 12, seed=4))
    specimen.survive(blocks(whole, 512, soak or 15, seed=5))
    specimen.survive(blocks(whole, 4096, soak or 15, seed=6))


@dataclass(frozen=True)
class World:
    """A cache and heads, and commands that read them into ``out``."""

    folder: Path
    cache: Path
    sparse: Path
    images: Path

    def place(self, name: str) -> Path:
        return self.sparse if name == "head" else self.cache / name

    def arguments(self, command: str) -> list[object]:
        read = {
            "info": ["cache", "info", self.cache],
            "verify": ["cache", "verify", self.cache],
            "fit-sparse": ["fit-sparse", "--cache", self.cache, "--out", self.out],
            "fit-sparse anew": [
                *("fit-sparse", "--cache", self.cache, "--out", self.out),
                *("--pixels-per-class", 1),
            ],
            "fit-dense": [
                *("fit-dense", "--cache", self.cache, "--out", self.out),
                *("--init", self.sparse, "--epochs", 1),
            ],
            "evaluate": [
                *("evaluate", "--cache", self.cache, "--split", "val"),
                *("--head", self.sparse, "--out", self.out),
            ],
            "predict": [
                *("predict", "--head", self.sparse, "--weights", "random"),
                *("--out", self.out, self.images),
            ],
        }
        return read[command]

    @property
    def out(self) -> Path:
        return self.folder / "out" / "made"


@pytest.fixture
def world(
    cache: Path, sparse_head: Path, scenes: VocDataset, tmp_path: Path, monkeypatch: Any
) -> World:
    monkeypatch.chdir(tmp_path)
    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    images = scenes.root / "JPEGImages"
    return World(tmp_path, copy, Path(shutil.copy(sparse_head, tmp_path)), images)


TRAIN, VAL, VAL_SAMPLES = "train-00001-of-00003.h5", "val-00001-of-00002.h5", "val-samples.h5"


@pytest.mark.parametrize(
    ("command", "name", "dataset"),
    [
        ("fit-sparse", SAMPLES, "features"),
        ("fit-sparse", TRAIN, ""),
        ("fit-sparse anew", TRAIN, "conv1"),
        ("fit-dense", TRAIN, "fire5"),
        ("fit-dense", TRAIN, "label"),
        ("fit-dense", VAL, "fire3"),
        ("fit-dense", "head", ""),
        ("evaluate", VAL, "conv1"),
        ("evaluate", VAL, "label_original"),
        ("evaluate", "head", ""),
        ("predict", "head", ""),
        ("info", VAL, ""),
        ("info", VAL_SAMPLES, ""),
        ("info", "manifest.json", ""),
        ("verify", VAL, "image"),
        ("verify", VAL_SAMPLES, "y"),
        ("verify", "index.h5", ""),
        ("verify", "manifest.json", ""),
    ],
)
def test_commands_stop_at_the_first_wrong_byte(command, name, dataset, world, capsys):
    path = world.place(name)
    flip_in(path, dataset)
    code = main([str(argument) for argument in world.arguments(command)])
    said = capsys.readouterr()
    assert path.name in said.out + said.err
    assert "Traceback" not in said.err
    if command == "info":
        return
    assert code == 1
    assert not world.out.exists()
    if command != "verify":
        errors = [line for line in said.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1
        assert path.name in errors[0]


def test_a_checkpoint_with_a_wrong_byte_is_not_gone_on_from(world, capsys):
    left = checkpoint(world.folder)
    world.out.parent.mkdir()
    left.path.rename(path := world.out.with_name(f"{world.out.name}.checkpoint"))
    flip_in(path, "")
    before = path.read_bytes()
    assert main([str(argument) for argument in world.arguments("fit-dense")]) == 1
    assert f"{path.name}: damaged" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert not world.out.exists()


def test_a_report_does_not_show_a_wrong_image(world, capsys):
    metrics = world.folder / "metrics.json"
    evaluate(world.cache, world.sparse, out=metrics)
    flip_in(world.cache / VAL, "image")
    arguments = ["report", "--cache", world.cache, "--head", f"mlp={world.sparse}"]
    arguments += ["--metrics", f"mlp={metrics}", "--out", world.out]
    assert main([str(argument) for argument in arguments]) == 1
    assert VAL in capsys.readouterr().err
    assert not (world.out / "index.html").exists()


def flip_in(path: Path, dataset: str) -> None:
    """Flip a bit of a value of the last image, or of what a file says about itself."""
    whole = path.read_bytes()
    if dataset:
        with h5py.File(path) as file:
            found = file[dataset] if dataset in file else file[sorted(file)[-1]][dataset]
            start = found.id.get_offset()
            chunked = start is None
            at = found.id.get_chunk_info(0).byte_offset if chunked else start
    else:
        at = whole.find(b"backbone") if b"backbone" in whole else len(whole) // 2
    ((_, damaged),) = flips(whole, [at + 3], seed=0)
    path.write_bytes(damaged)


def test_repair_mends_whatever_was_hit(soak, cache, scenes, tmp_path):
    """Three bytes anywhere in a cache at a time: found, named and mended, to the last byte."""
    sound = {path.name: path.read_bytes() for path in cache.iterdir()}
    copy, apart = (Path(shutil.copytree(cache, tmp_path / name)) for name in ("cache", "apart"))
    rng = np.random.default_rng(7)
    for _ in range(soak // 20 or 3):
        hit = sorted(rng.choice(sorted(sound), 3, replace=False).tolist())
        for name in hit:
            at = int(rng.integers(len(sound[name])))
            ((_, damaged),) = flips(sound[name], [at], seed=at)
            (copy / name).write_bytes(damaged)
        named = " ".join(problem.what for problem in verify_cache(copy))
        for name in hit:
            if name not in named:  # a byte that nothing uses
                (apart / name).write_bytes((copy / name).read_bytes())
                assert same(everything(apart), everything(cache))
                for folder in (apart, copy):
                    (folder / name).write_bytes(sound[name])
        repair_cache(copy, dataset=scenes.root, weights="random")
        assert verify_cache(copy) == []
        assert {path.name: path.read_bytes() for path in copy.iterdir()} == sound


def everything(directory: Path) -> list[Any]:
    """Read all files of a cache of train and val."""
    samples = [read_samples_file(directory, split) for split in ("train", "val")]
    return [
        read_shards(directory),
        samples,
        read_index(directory),
        read_manifest_file(directory),
    ]
