"""What HDF5 keeps of its own in a shard: damage there is found, though no reader needs it."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from pipeline.cache import FeatureCache, ShardHeader, check_structure
from pipeline.errors import CacheDamagedError


@pytest.fixture(params=["float16", "int8"])
def sketch(make_sketch, tmp_path, request):
    sketch = make_sketch(dtype=request.param)
    sketch.write(tmp_path, images_per_shard=3)
    return sketch


@pytest.fixture(params=[False, True], ids=["store first", "recompute first"])
def recompute_first(request):
    return request.param


def header(sketch):
    return ShardHeader.read(sketch.plans[0].path)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_sound_shard(sketch, compression):
    sketch.write_shard(sketch.plans[0], compression=compression)
    check_structure(header(sketch))


def test_a_shard_in_which_all_images_were_left_out(sketch):
    sketch.write_shard(sketch.plans[0], skipped=dict.fromkeys(sketch.records, "no image"))
    check_structure(header(sketch))
    assert FeatureCache(sketch.plans[0].directory)["train"].image_ids == ()


def test_damage_is_found_while_all_values_are_still_right(sketch):
    path = sketch.plans[0].path
    whole = path.read_bytes()
    found = header(sketch)
    headers = [at for at in range(len(whole)) if whole.startswith((b"OHDR", b"FRHP", b"BTHD"), at)]
    assert len(headers) > 20
    split = FeatureCache(path.parent)["train"]
    expected = {i: split.stored(i).arrays["deep"].digest for i in split.image_ids}
    for at in headers:
        damaged = bytearray(whole)
        damaged[at + 6] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(
            CacheDamagedError, match="damaged for HDF5; run 'pipeline cache"
        ) as caught:
            check_structure(found)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        split = FeatureCache(path.parent)["train"]
        assert {i: split.stored(i).arrays["deep"].digest for i in split.image_ids} == expected


def other_attribute(file):
    file.attrs["fingerprint"] = np.bytes_("0" * 32)


def no_attribute(file):
    del file.attrs["format_version"]


def another_image(file):
    file.create_group("cow.2")


def an_image_less(file):
    del file["cow.1"]


def another_array(file):
    file["cow.1/depth"] = np.zeros(3)


def an_array_less(file):
    del file["cow.1/label"]


def copied_array(file):
    file["copy"] = file["cow.1/label"][()]  # before the place of the other one is free
    del file["cow.1/label"]
    file.move("copy", "cow.1/label")


def copied_chunk(file):
    values = file["cow.1/label_original"][()]
    file.create_dataset("copy", data=values, chunks=values.shape, compression="gzip")
    del file["cow.1/label_original"]
    file.move("copy", "cow.1/label_original")


def linked_array(file):
    file.move("cow.1/label", "cow.1/moved")
    file["cow.1/label"] = h5py.SoftLink("/cow.1/moved")


def swapped_arrays(file):
    file.move("cow.1/label", "moved")
    file.move("zebra_7/label", "cow.1/label")
    file.move("moved", "zebra_7/label")


def copied_details(file):
    file["copy"] = np.bytes_(file["\\details"][()])
    del file["\\details"]
    file.move("copy", "\\details")


def group_for_table(file):
    del file["\\table"]
    file.create_group("\\table")


@pytest.mark.parametrize(
    "edit",
    [
        other_attribute,
        no_attribute,
        another_image,
        an_image_less,
        another_array,
        an_array_less,
        copied_array,
        copied_chunk,
        linked_array,
        swapped_arrays,
        copied_details,
        group_for_table,
    ],
)
def test_what_hdf5_finds_elsewhere_is_named(sketch, edit):
    """Edited by HDF5, which makes its own checksums right."""
    found, path = header(sketch), sketch.plans[0].path
    size = path.stat().st_size
    with h5py.File(path, "r+", libver="v110") as file:
        edit(file)
    with path.open("r+b") as file:  # so that the userblock is still that of the file
        file.truncate(max(size, path.stat().st_size))
        file.write(header_of_size(found, path.stat().st_size))
    with pytest.raises(CacheDamagedError, match="damaged for HDF5"):
        check_structure(ShardHeader.read(path))


def header_of_size(found, size):
    """Give the userblock of a file that has grown."""
    return replace(found.front, size=size).pack()
