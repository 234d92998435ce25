"""The same image gives the same bits, or bits that differ by no more than is bounded here."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipeline.backbones import Preprocessing
from pipeline.backbones.backbone import Backbone
from pipeline.backbones.outline import Outline
from pipeline.backbones.taps import parse_taps
from pipeline.cache.encoding import encode
from pipeline.data.images import read_image
from pipeline.errors import BackboneError
from pipeline.hypercolumn import Features, hypercolumns_at
from pipeline.threads import _compute_on_one_thread, in_order

SIZES = ((64, 64), (65, 97), (64, 64), (224, 230))
LAST_BITS = 1e-5
"""What values may differ by, over the largest magnitude in their map. Seen were 1.1e-6 for batches
and threads, 3.3e-6 for other code and 3.0e-6 for another kind of processor."""


def random_state(outline):
    """Random weights for what the taps need, repeated where there are many: new ones take long."""
    noise = torch.randn(99_991, generator=torch.Generator().manual_seed(1))
    state = {}
    for key, tensor in outline.tensors.items():
        scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1
        times = -(-tensor.numel() // len(noise))
        state[key] = (noise * scale).repeat(times)[: tensor.numel()].view(tensor.shape)
    return state


def network_of(name, compute="float32"):
    outline = Outline(name, parse_taps(name, None))
    return Backbone(outline, random_state(outline), compute=compute)


def one_by_one(network, images, *, at_once):
    """Give the maps of each image as an extraction on the CPU computes them."""

    def maps(image):
        return [m[0] for m in network(image[None])]

    return in_order(maps, images, threads=at_once, alone=True)


@pytest.fixture(scope="module", params=["squeezenet1_0", "alexnet", "vgg11"])
def network(request):
    return network_of(request.param)


@pytest.fixture(scope="module")
def squeezenet():
    return network_of("squeezenet1_0")


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def images(*sizes):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def bits(arrays):
    return [(array.shape, np.asarray(array).tobytes()) for array in arrays]


@pytest.fixture(scope="module")
def alone(network):
    """The bits of each image's maps: a batch of one, on one thread."""
    with threads(1):
        return [bits(m[0] for m in network(image[None])) for image in images(*SIZES)]


@pytest.mark.parametrize(("at_once", "count"), [(1, 2), (3, 2), (8, 1)])
def test_one_by_one_no_bit_depends_on_threads_or_on_the_other_images(
    network, alone, at_once, count
):
    order = [2, 1, 3, 0, 1]
    with threads(count):
        maps = one_by_one(network, (images(*SIZES)[i] for i in order), at_once=at_once)
        assert [bits(own) for own in maps] == [alone[i] for i in order]


@pytest.mark.parametrize("name", ["squeezenet1_0", "vgg11"])
def test_in_bfloat16_no_bit_depends_on_threads_or_on_the_other_images_either(name):
    network = network_of(name, "bfloat16")
    with threads(1):
        alone = [bits(m[0] for m in network(image[None])) for image in images(*SIZES)]
    with threads(2):
        maps = one_by_one(network, images(*SIZES), at_once=3)
        assert [bits(own) for own in maps] == alone


def test_where_an_image_lies_in_memory_does_not_matter(network, alone):
    image = images(*SIZES)[1]
    room = torch.empty(image.numel() + 16)
    for offset in (1, 2, 13):
        shifted = room[offset : offset + image.numel()].view(image.shape).copy_(image)
        (maps,) = one_by_one(network, [shifted], at_once=1)
        assert bits(maps) == alone[1]


def assert_differ_in_last_bits_only(found, expected):
    """Compare maps (C, h, w), and what the cache would store of them."""
    for got, want in zip(found, expected, strict=True):
        got, want = got.numpy(), want.numpy()
        slack = LAST_BITS * np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=slack)
        a, b = (encode(m, "float16", image_id="i", tap="t").values for m in (got, want))
        assert (np.abs(a.astype(np.float64) - b) <= np.spacing(np.abs(b)) + slack).all()
        assert (a != b).mean() < 0.03
        a, b = (encode(m, "int8", image_id="i", tap="t") for m in (got, want))
        assert np.abs(a.values.astype(int) - b.values).max() <= 1
        assert (a.values != b.values).mean() < 0.003
        # A channel's largest magnitude may be small beside that of the whole map.
        np.testing.assert_allclose(a.scale, b.scale, rtol=0, atol=slack / 127)


@pytest.mark.parametrize(("batch_size", "count"), [(3, 1), (16, 2)])
def test_in_batches_only_the_last_bits_differ(network, batch_size, count):
    batch = images(*[(64, 64)] * batch_size)
    chosen = sorted({0, batch_size - 1})
    expected = list(one_by_one(network, [batch[i] for i in chosen], at_once=2))
    with threads(count):
        maps = network(torch.stack(batch))
    for i, own in zip(chosen, expected, strict=True):
        assert_differ_in_last_bits_only([m[i] for m in maps], own)


# Torch 2.15 warns of Intel's GPUs whenever these flags are set.
@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
@pytest.mark.parametrize("way", ["channels last", "without oneDNN"])
def test_computed_by_other_code_only_the_last_bits_differ(network, way):
    batch = images(*[(65, 97)] * 2)
    (expected,) = one_by_one(network, batch[:1], at_once=1)
    with torch.backends.mkldnn.flags(enabled=way != "without oneDNN"):
        layout = torch.channels_last if way == "channels last" else torch.contiguous_format
        maps = network(torch.stack(batch).contiguous(memory_format=layout))
    assert_differ_in_last_bits_only([m[0] for m in maps], expected)


_ON_ANOTHER_PROCESSOR = """
import sys
import numpy as np
import torch
from pipeline.backbones import load_backbone
backbone = load_backbone(sys.argv[1], weights=sys.argv[2])
torch.set_num_threads(1)
maps = backbone(torch.from_numpy(np.load(sys.argv[3]))[None])
np.savez(sys.argv[4], *[m[0].numpy() for m in maps])
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.parametrize(("name", "size"), [("squeezenet1_0", (65, 97)), ("vgg11", SIZES[-1])])
def test_on_a_processor_without_avx512_only_the_last_bits_differ(name, size, tmp_path):
    weights, image, out = (tmp_path / name for name in ("w.safetensors", "i.npy", "maps.npz"))
    save_file(random_state(Outline(name, parse_taps(name, None))), weights)
    np.save(image, images(size)[0].numpy())
    older = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    subprocess.run(
        [sys.executable, "-c", _ON_ANOTHER_PROCESSOR, name, weights, image, out],
        cwd=Path(__file__).parents[2],
        env=os.environ | older | {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        check=True,
    )
    (expected,) = one_by_one(network_of(name), images(size), at_once=1)
    with np.load(out) as found:
        maps = [torch.from_numpy(found[name]) for name in found.files]
    assert_differ_in_last_bits_only(maps, expected)


def test_images_are_taken_as_they_are_needed():
    taken = []
    given = (taken.append(i) or i for i in range(12))
    squares = in_order(lambda i: i * i, given, threads=2)
    assert taken == []
    for done in range(1, 9):
        assert next(squares) == (done - 1) ** 2
        assert len(taken) == done + 4
    squares.close()
    assert len(taken) == 12


def test_what_waits_is_not_begun_once_something_has_failed():
    begun = []
    hold = threading.Event()

    def work(i):
        begun.append(i)
        if i == 1:
            hold.wait(10)
        if i == 0:
            raise ValueError("the first one")
        return i

    results = in_order(work, range(9), threads=2)
    threading.Timer(0.3, hold.set).start()
    with pytest.raises(ValueError, match="the first one"):
        next(results)
    assert set(begun) <= {0, 1, 2, 3}
    assert results.gi_frame is None


def test_one_by_one_leaves_the_numbers_of_threads_as_they_were(squeezenet):
    running = threading.active_count()
    with threads(3):
        maps = one_by_one(squeezenet, images(*[(64, 64)] * 5), at_once=2)
        next(maps)
        assert torch.get_num_threads() == 3
        maps.close()
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
    assert threading.active_count() == running


def test_a_thread_that_is_to_compute_alone_does_whatever_others_set():
    with threads(1), ThreadPoolExecutor(1, initializer=_compute_on_one_thread) as pool:
        pool.submit(id, pool).result()
        torch.set_num_threads(3)
        assert pool.submit(torch.get_num_threads).result() == 1


def test_one_by_one_raises_what_an_image_raises_and_ends(squeezenet):
    running = threading.active_count()
    with pytest.raises(BackboneError, match="5x5"):
        list(one_by_one(squeezenet, images((64, 64), (5, 5), (64, 64)), at_once=2))
    assert threading.active_count() == running


def paint(path, height, width):
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(noise).save(path, progressive=height % 2 == 0)


@pytest.mark.parametrize("input_size", ["native", "48", "short:40"])
def test_reading_and_resizing_do_not_depend_on_neighbours_order_or_threads(tmp_path, input_size):
    preprocessing = Preprocessing(input_size=input_size)
    paths = [tmp_path / f"{i}.jpg" for i in range(12)]
    for i, path in enumerate(paths):
        paint(path, 30 + 7 * i, 95 - 5 * i)

    def prepared(path):
        resized = preprocessing.resize_image(read_image(path))
        return bits([resized, preprocessing.normalize(resized)])

    expected = [prepared(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(prepared, reversed(paths * 3))) == (expected * 3)[::-1]


@pytest.mark.parametrize("size", [(1, 1), (13, 9), (40, 57)])
def test_hypercolumns_do_not_depend_on_threads(size):
    height, width = size
    generator = torch.Generator().manual_seed(3)
    maps = [
        torch.randn(c, s * height, s * width, generator=generator) for c, s in [(24, 2), (512, 1)]
    ]
    ys = torch.randint(0, 8 * height, (200,), generator=generator)
    xs = torch.randint(0, 8 * width, (200,), generator=generator)
    found = []
    for count in (1, 2, 3):
        with threads(count):
            features = Features(context=("global", "3", "a:5")).apply(maps, ["a", "b"])
            columns = hypercolumns_at(features, ys, xs, (8 * height, 8 * width))
            found.append(bits([*features, columns]))
    assert found == [found[0]] * 3
