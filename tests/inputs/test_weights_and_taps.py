"""Weights, backbones and taps that cannot serve: one line each, and no code is run."""

import json
import os
import pickle
import re
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from corpus import Kind, Write, content

from pipeline import load_backbone
from pipeline.backbones.weights import load_weights

NEEDED = ("features.0.", "features.3.", "features.4.")
FIRST = "features.0.weight"
AGAIN = r"{path} is damaged or no (safetensors|torch) file \(.+\); get it again"
NO_CODE = "{path} is damaged, or holds objects that need code to load, which is refused; save the"
NO_FIT = "{path} weights do not fit squeezenet1_0: '" + re.escape(FIRST)
NO_FILE = "there is no weights file {path}; check the path"
NO_NAMES = r"{path} holds no weights by name; save the network's state_dict\(\)"


class Intruder:
    """Unpickling one makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def state() -> dict[str, torch.Tensor]:
    whole = load_weights("squeezenet1_0", "random")
    return {key: value for key, value in whole.items() if key.startswith(NEEDED)}


def with_first(change) -> Write:
    """Write the weights with the first tensor changed."""

    def write(path: Path) -> None:
        changed = state()
        changed[FIRST] = change(changed[FIRST])
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(changed, path)
        else:
            torch.save(changed, path)

    return write


def with_value(value: float, dtype: torch.dtype = torch.float32) -> Write:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(dtype)
        tensor[3, 1, 2, 2] = value
        return tensor

    return with_first(change)


def cut(path: Path) -> None:
    with_first(torch.clone)(path)
    path.write_bytes(path.read_bytes()[:-1000])


def header(text: object, length: int | None = None) -> Write:
    """Write a safetensors file with that header, and 8 bytes behind it."""
    packed = text if isinstance(text, bytes) else json.dumps(text).encode()
    count = len(packed) if length is None else length
    return content(struct.pack("<Q", count) + packed + bytes(8))


def tensor(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def saved(value: object, **options: object) -> Write:
    return lambda path: torch.save(value, path, **options)


BAD_WEIGHTS = [
    Kind("missing", ".pth", lambda path: None, NO_FILE),
    Kind("a folder", ".pth", Path.mkdir, NO_FILE),
    Kind("a pipe", ".safetensors", os.mkfifo, NO_FILE),
    Kind("a dangling link", ".pth", lambda path: path.symlink_to("gone"), NO_FILE),
    Kind("an unknown format", ".onnx", content(b""), "weights '{path}' are not understood; use"),
    Kind("no suffix", "", content(b""), "weights '{path}' are not understood; use"),
    *(
        Kind(f"{name}{suffix}", suffix, write, AGAIN)
        for suffix in (".safetensors", ".pth")
        for name, write in (("truncated", cut), ("zero bytes", content(b"")))
    ),
    Kind("text.safetensors", ".safetensors", content(b"not a file of tensors"), AGAIN),
    Kind("text.pth", ".pth", content(b"not a file of tensors"), NO_CODE),
    Kind("a giant header", ".safetensors", header({}, 2**63), AGAIN),
    Kind("a header beyond the end", ".safetensors", header({}, 99_000_000), AGAIN),
    Kind("a header that is no JSON", ".safetensors", header(b"[" * 9000), AGAIN),
    Kind("a header of lists", ".safetensors", header([[], []]), AGAIN),
    Kind("a tensor beyond the end", ".safetensors",
         header({FIRST: tensor([2**40], 0, 2**42)}), AGAIN),
    Kind("a tensor beyond 64 bits", ".safetensors",
         header({FIRST: tensor([2**62, 4], 0, 8)}), AGAIN),
    Kind("tensors on one place", ".safetensors",
         header({FIRST: tensor([2], 0, 8), "b": tensor([2], 0, 8)}), AGAIN),
    Kind("no tensors", ".safetensors",
         lambda path: safetensors.torch.save_file({}, path), f"{NO_FIT}' is missing; give that"),
    Kind("of another network", ".safetensors",
         lambda path: safetensors.torch.save_file(load_weights("squeezenet1_1", "random"), path),
         NO_FIT + r"' is \(64, 3, 3, 3\) where the network has \(96, 3, 7, 7\); give that network"),
    Kind("of another shape", ".pth", with_first(lambda t: t[:5]), rf"{NO_FIT}' is \(5, 3, 7, 7\)"),
    Kind("quantised", ".safetensors", with_first(lambda t: t.to(torch.int8)),
         rf"{NO_FIT}' does not hold plain floating-point numbers \(int8, cpu\); save"),
    Kind("complex", ".safetensors", with_first(lambda t: t.to(torch.complex64)),
         rf"{NO_FIT}' does not hold plain floating-point numbers \(complex64, cpu\); save"),
    Kind("without values", ".pth", with_first(lambda t: t.to("meta")),
         rf"{NO_FIT}' does not hold plain floating-point numbers \(float32, meta\); save"),
    Kind("sparse", ".pth", with_first(torch.Tensor.to_sparse),
         rf"{NO_FIT}' does not hold plain floating-point numbers \(float32, cpu\); save"),
    Kind("not a number", ".safetensors", with_value(float("nan")),
         rf"{NO_FIT}' has values that are not finite; get the weights again"),
    Kind("infinite", ".pth", with_value(float("-inf")), rf"{NO_FIT}' has values that are not"),
    Kind("beyond float32", ".pth", with_value(1e300, torch.float64), rf"{NO_FIT}' has values that"),
    Kind("a list", ".pth", saved([torch.zeros(2)]), NO_NAMES),
    Kind("numbers for names", ".pth", saved({3: torch.zeros(2)}), NO_NAMES),
    Kind("a whole network", ".pth", saved(torch.nn.Conv2d(1, 1, 1)), NO_CODE),
    Kind("code in a zip", ".pth", saved({FIRST: Intruder()}), NO_CODE),
    Kind("code in an old file", ".pt",
         saved({FIRST: Intruder()}, _use_new_zipfile_serialization=False), NO_CODE),
    Kind("code in a pickle", ".pth", content(pickle.dumps({FIRST: Intruder()}, 2)), NO_CODE),
    Kind("code in safetensors", ".safetensors", content(pickle.dumps(Intruder())), AGAIN),
]  # fmt: skip


@pytest.mark.parametrize("kind", BAD_WEIGHTS, ids=str)
def test_bad_weights(kind, data_set, extraction, refused):
    path = Path(f"odd{kind.suffix}")
    kind.write(path)
    said = refused(*extraction, "--weights", path)
    assert re.match(kind.says.replace("{path}", re.escape(str(path))), said), said
    assert not Path("executed").exists()
    assert not Path("out").exists()


def test_the_code_would_have_run():
    """The files above are not harmless by accident."""
    pickle.loads(pickle.dumps(Intruder()))
    assert Path("executed").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_used(dtype):
    with_first(lambda t: t.to(dtype))(Path("other.safetensors"))
    backbone = load_backbone("squeezenet1_0", weights="other.safetensors", taps=["conv1", "fire3"])
    assert len(backbone.weights_digest) == 32


def test_predict_refuses_bad_weights(sparse_head, scenes, refused):
    words = ["predict", "--head", sparse_head, "--out", "masks", scenes.image_path("scene_0000")]
    saved({FIRST: Intruder()})(Path("odd.pth"))
    assert "need code to load" in refused(*words, "--weights", "odd.pth")
    assert not Path("executed").exists()
    with_value(float("nan"))(Path("odd.safetensors"))
    assert "'features.0.weight' has values" in refused(*words, "--weights", "odd.safetensors")


UNKNOWN = "backbone '{0}' is unknown; the closest are .*{1}"
NO_MODULE = "squeezenet1_0 has no module '{0}'; the closest are .*{1}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--backbone squeezenet", UNKNOWN.format("squeezenet", "squeezenet1_0")),
        ("--backbone VGG11", UNKNOWN.format("VGG11", "vgg11")),
        ("--backbone ResNet-50", UNKNOWN.format("ResNet-50", "resnet50")),
        ("--backbone fasterrcnn_resnet50_fpn", UNKNOWN.format("fasterrcnn_resnet50_fpn", "resnet")),
        ("--backbone ../vgg11", UNKNOWN.format("../vgg11", "vgg11")),
        ("--backbone os.system", UNKNOWN.format("os.system", "")),
        (f"--backbone {'v' * 9000}", "backbone 'v{60,80}.*' is unknown"),
        ("--backbone resnet18", "resnet18 has no module 'conv1'|resnet18 has no module 'fire3'"),
        ("--tap fire33", NO_MODULE.format("fire33", "features")),
        ("--tap features.99", NO_MODULE.format("features.99", r"features\.9")),
        ("--tap feature.4", NO_MODULE.format("feature.4", r"features\.4")),
        ("--tap __class__", NO_MODULE.format("__class__", "")),
        ("--tap a=", "tap 'a' names no module; write it as 'features.3'"),
        ("--tap =features.4", "tap name '' is not usable; begin with a letter"),
        ("--tap a=b=c", NO_MODULE.format("b=c", "")),
        ("--tap ../x=features.4", "tap name '../x' is not usable; begin with a letter"),
        ("--tap a/b=features.4", "tap name 'a/b' is not usable; begin with a letter"),
        ("--tap label=features.4", "a tap cannot be named 'label'; choose another name"),
        ("--tap conv1", "the tap name 'conv1' is given twice; name taps differently"),
        (
            "--tap a=features.0+features.12",
            "squeezenet1_0: tap 'a' joins maps of different sizes",
        ),
        (
            "--input-size 99999999999999999999",
            "input size '9{20}' is too large; choose 10000",
        ),
        ("--input-size short:10001", "input size 'short:10001' is too large; choose 10000 at most"),
        ("--input-size 0x10", "input size '0x10' is not understood; write a square as '224'"),
        (f"--seed {10**20}", "options: seed: .* less than or equal to 4294967295, but it is 1000"),
    ],
)
def test_an_unknown_backbone_or_tap(words, says, data_set, extraction, refused):
    said = refused(*extraction, *words.split())
    assert re.match(says, said), said
    assert not Path("out").exists()
