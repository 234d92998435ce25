"""Tensor files: what comes back, and that no damage goes unseen."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.errors import HeadError
from pipeline.tensorfile import read_tensors, write_tensors

KIND, REMEDY = "some-kind", "make it again"
TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "a": torch.tensor([1, 255], dtype=torch.uint8),
    "scalar": torch.tensor(7),
    "empty": torch.zeros(0, 4),
}
METADATA = {"name": "Schäfchen", "note": json.dumps({"x": [1, None]})}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new folder" / "tensors.safetensors"
    write_tensors(path, TENSORS, METADATA, kind=KIND)
    return path


def read(path):
    return read_tensors(path, kind=KIND, remedy=REMEDY)


def test_round_trip(path):
    tensors, metadata = read(path)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert {name: metadata[name] for name in METADATA} == METADATA
    assert not path.with_name(path.name + ".partial").exists()


def test_is_a_plain_safetensors_file(path):
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("b.weight"), TENSORS["b.weight"])
        assert file.metadata()["format"] == KIND


def test_same_content_same_bytes(path, tmp_path):
    for attempt in range(5):
        again = tmp_path / f"again-{attempt}"
        tensors, metadata = dict(reversed(TENSORS.items())), dict(reversed(METADATA.items()))
        write_tensors(again, tensors, metadata, kind=KIND)
        assert again.read_bytes() == path.read_bytes()
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # tensors are aligned


def test_a_flip_of_any_byte_is_found(path):
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(HeadError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_file_cut_short_is_found(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(HeadError, match="damaged"):
        read(path)


def test_swapped_tensors_are_found(path):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({**TENSORS, "a": TENSORS["a"].flip(0)}, path, metadata)
    with pytest.raises(HeadError, match=f"does not match its digest; {REMEDY}"):
        read(path)


def test_what_it_is_not(path, tmp_path):
    with pytest.raises(HeadError, match="no such file; correct the path, or make it again"):
        read(tmp_path / "nowhere")
    with pytest.raises(HeadError, match="no such file"):
        read(tmp_path)
    with pytest.raises(HeadError, match="not a another-kind; give another, or make it again"):
        read_tensors(path, kind="another-kind", remedy=REMEDY)
    foreign = tmp_path / "weights.safetensors"
    save_file(TENSORS, foreign)
    with pytest.raises(HeadError, match=f"not a {KIND}"):
        read(foreign)
    foreign.write_text("no tensors")
    with pytest.raises(HeadError, match="not a safetensors file"):
        read(foreign)


def test_another_version_is_refused(path, monkeypatch):
    monkeypatch.setattr("pipeline.tensorfile.FORMAT_VERSION", 2)
    with pytest.raises(HeadError, match=rf"version 1, .*reads version 2; {REMEDY}"):
        read(path)


def test_a_failed_write_leaves_the_file_before_it(path):
    before = path.read_bytes()
    with pytest.raises(Exception, match="int"):
        write_tensors(path, TENSORS, {"number": 3}, kind=KIND)
    assert path.read_bytes() == before


def with_header(path, header: bytes, data: bytes = b""):
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


SIGNED = {"format": KIND, "format_version": "1", "xxh3": "0" * 32}


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("BF16", [3], 6),
        ("F8_E4M3", [3], 3),
        ("C64", [1], 8),
        ("F32", [0, 2**62], 0),
        ("F32", [0, 2**40, 2**40], 0),
        ("F32", [0, 2**64 - 1], 0),
        ("F32", [1] * 70, 4),
    ],
)
def test_dtypes_and_shapes_that_no_array_has_are_damage(tmp_path, dtype, shape, size):
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": SIGNED, "a": tensor}).encode()
    with pytest.raises(HeadError, match=f"damaged, .*; {REMEDY}") as caught:
        read(with_header(tmp_path / "t", header, bytes(size)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 10_000,
        b'{"a": ' * 10_000,
        b'{"a": {"dtype": "F\\n32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a\\n' + b"b" * 5000 + b'": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        json.dumps({"__metadata__": {**SIGNED, "format_version": "2\n" * 1000}}).encode(),
    ],
)
def test_whatever_a_header_says_the_message_is_a_line(tmp_path, header):
    with pytest.raises(HeadError) as caught:
        read(with_header(tmp_path / "t", header, bytes(4)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_foreign_file_is_refused_before_its_tensors_are_read(tmp_path):
    tensor = {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}
    path = with_header(tmp_path / "t", json.dumps({"a": tensor}).encode(), bytes(2))
    with pytest.raises(HeadError, match=f"not a {KIND}"):
        read(path)
