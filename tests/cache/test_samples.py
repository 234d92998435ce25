"""Pixel samples against the full hypercolumn map, computed from what was written."""

from dataclasses import fields

import h5py
import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import avg_pool2d

from pipeline.cache import (
    Drawing,
    FeatureCache,
    draw_pixels,
    draw_samples,
    read_samples,
    samples_are_current,
    samples_path,
    write_samples,
)
from pipeline.errors import CacheDamagedError, CacheMismatchError, CacheNotFoundError
from pipeline.hypercolumn import Features, hypercolumn_map

PLAIN = Features(activation="none", context=())


def drawn(cache, **choices):
    drawing = Drawing(**{"features": PLAIN, **choices})
    return draw_samples(cache["train"], cache.identity, drawing)


def by_pixel(samples):
    """Samples as a mapping, free of any order."""
    ids = [samples.image_ids[i] for i in samples.image]
    pixels = zip(ids, samples.y.tolist(), samples.x.tolist(), strict=True)
    values = [(int(c), f.tobytes()) for c, f in zip(samples.label, samples.features, strict=True)]
    return dict(zip(pixels, values, strict=True))


def assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            assert a.tobytes() == b.tobytes()
        else:
            assert a == b


@pytest.mark.parametrize("geometry", ["half_pixel", "align_corners"])
@pytest.mark.parametrize("context", [(), ("global", "3", "deep:global", "deep:5")])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("taps", [(), ("deep",), ("deep", "shallow")])
def test_features_equal_the_full_map(make_sketch, tmp_path, activation, context, geometry, taps):
    sketch = make_sketch(geometry=geometry)
    cache = sketch.write(tmp_path)
    features = Features(activation=activation, context=context, taps=taps)
    samples = drawn(cache, features=features, pixels_per_class=4)
    assert samples.features.dtype == np.float32
    assert len(samples) > 20
    for column, label, index, y, x in zip(
        samples.features, samples.label, samples.image, samples.y, samples.x, strict=True
    ):
        record = sketch.records[samples.image_ids[index]]
        maps = [torch.from_numpy(record.maps[tap]) for tap in taps or ("shallow", "deep")]
        if activation == "relu":
            maps = [m.relu() for m in maps]
        deepest = maps[-1]
        if context:
            window = avg_pool2d(deepest[None], 3, 1, 1, count_include_pad=False)[0]
            of_deep = maps[(taps or ("shallow", "deep")).index("deep")]
            wide = avg_pool2d(of_deep[None], 5, 1, 2, count_include_pad=False)[0]
            maps += [deepest.mean((1, 2), keepdim=True), window]
            maps += [of_deep.mean((1, 2), keepdim=True), wide]
        whole = hypercolumn_map(maps, record.label.shape, geometry)
        np.testing.assert_allclose(column, whole[:, y, x], rtol=1e-5, atol=1e-5)
        assert label == record.label[y, x]


@pytest.mark.parametrize("void_as_background", [False, True])
@pytest.mark.parametrize("pixels_per_class", [1, 3, 1000])
def test_so_many_of_each_class(make_sketch, tmp_path, pixels_per_class, void_as_background):
    sketch = make_sketch()
    choices = {"pixels_per_class": pixels_per_class, "void_as_background": void_as_background}
    samples = drawn(sketch.write(tmp_path), **choices)
    expected = {}
    for index, image_id in enumerate(samples.image_ids):
        label = sketch.records[image_id].label.copy()
        if void_as_background:
            label[label == 255] = 0
        values, counts = np.unique(label[label != 255], return_counts=True)
        for value, count in zip(values, counts, strict=True):
            expected[index, value] = min(pixels_per_class, count)
    found = dict.fromkeys(expected, 0)
    for index, label in zip(samples.image, samples.label, strict=True):
        found[index, label] += 1
    assert found == expected
    assert len(by_pixel(samples)) == len(samples)  # no pixel twice


def test_void_is_drawn_as_background_if_asked_for(make_sketch, tmp_path):
    sketch = make_sketch()
    samples = drawn(sketch.write(tmp_path), pixels_per_class=1000, void_as_background=True)
    assert set(samples.label) == {0, 1, 2}
    true = [
        sketch.records[samples.image_ids[i]].label[y, x]
        for i, y, x in zip(samples.image, samples.y, samples.x, strict=True)
    ]
    assert 255 in true


def test_samples_do_not_depend_on_order_shards_or_company(make_sketch, tmp_path):
    sketch = make_sketch()
    first = by_pixel(drawn(sketch.write(tmp_path / "a")))
    order = ("2008_000003", "zebra_7", "cow.1")
    again = drawn(sketch.write(tmp_path / "b", image_ids=order, images_per_shard=3))
    assert again.image_ids == order
    assert by_pixel(again) == first
    alone = by_pixel(drawn(sketch.write(tmp_path / "c", image_ids=("cow.1",))))
    assert alone == {key: value for key, value in first.items() if key[0] == "cow.1"}


def test_the_seed_and_the_image_id_decide(make_sketch, tmp_path):
    cache = make_sketch().write(tmp_path)
    one, again, other = (set(by_pixel(drawn(cache, seed=seed))) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    label = np.zeros((40, 40), np.uint8)
    pixels = [draw_pixels(label, i, Drawing(pixels_per_class=9), void=255) for i in ("a", "b")]
    assert not np.array_equal(pixels[0], pixels[1])


@pytest.mark.parametrize("count", ["pixels_per_class", "pixels_per_image"])
def test_pixels_are_drawn_evenly(count):
    label = np.zeros((4, 5), np.uint8)
    counts = np.zeros(label.shape)
    for seed in range(2000):
        ys, xs = draw_pixels(label, "i", Drawing(**{count: 5}, seed=seed), void=255)
        counts[ys, xs] += 1
    assert counts.sum() == 10_000
    assert 420 < counts.min() <= counts.max() < 580  # 500 expected, standard deviation 19


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 30),
    st.sampled_from([0, 3, 255]),
    st.integers(0, 2**31),
)
def test_draw_pixels(height, width, pixels_per_class, void, seed):
    label = np.random.default_rng(seed).choice([0, 1, 3, 255], (height, width)).astype(np.uint8)
    drawing = Drawing(pixels_per_class=pixels_per_class, seed=seed)
    ys, xs = draw_pixels(label, "i", drawing, void=void)
    assert len(set(zip(ys.tolist(), xs.tolist(), strict=True))) == len(ys)
    found = np.bincount(label[ys, xs], minlength=256)
    there = np.bincount(label.ravel(), minlength=256)
    there[void] = 0
    np.testing.assert_array_equal(found, np.minimum(there, pixels_per_class))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 30),
    st.sampled_from([0, 3, 255]),
    st.integers(0, 2**31),
)
def test_draw_pixels_of_all_classes_alike(height, width, count, void, seed):
    label = np.random.default_rng(seed).choice([0, 1, 3, 255], (height, width)).astype(np.uint8)
    drawing = Drawing(pixels_per_image=count, pixels_per_class=1, seed=seed)
    ys, xs = draw_pixels(label, "i", drawing, void=void)
    assert len(set(zip(ys.tolist(), xs.tolist(), strict=True))) == len(ys)
    assert len(ys) == min(count, np.count_nonzero(label != void))
    assert (label[ys, xs] != void).all()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(1, 5),
    st.sampled_from([None, 1, 7, 5000]),
    st.integers(0, 2**31),
)
def test_pixels_are_those_chosen_from_all_of_a_class(height, width, each, patch, count, seed):
    """Byte by byte what choosing from a list of all pixels gives: old caches stay current."""
    grid = np.random.default_rng(seed).choice([0, 1, 3, 255], (height, width)).astype(np.uint8)
    label = grid.repeat(patch, axis=0).repeat(patch, axis=1)
    drawing = Drawing(pixels_per_class=each, pixels_per_image=count, seed=seed)
    ys, xs = draw_pixels(label, "i", drawing, void=255)
    assert ys.dtype == xs.dtype == np.int64
    generator = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(b"i")])
    masks = [label == value for value in (0, 1, 3)] if count is None else [label != 255]
    expected = [
        np.sort(generator.choice(pixels, min(count or each, len(pixels)), replace=False))
        for pixels in map(np.flatnonzero, masks)
        if len(pixels)
    ]
    flat = np.concatenate([np.empty(0, np.int64), *expected])
    np.testing.assert_array_equal(ys * label.shape[1] + xs, flat)


@pytest.mark.parametrize("each", [1, 3, 40])
def test_pixels_of_more_classes_than_most_images_have(each):
    label = np.random.default_rng(0).integers(0, 200, (224, 224)).astype(np.uint8)
    ys, xs = draw_pixels(label, "i", Drawing(pixels_per_class=each), void=255)
    generator = np.random.default_rng([0, xxhash.xxh3_64_intdigest(b"i")])
    pixels = (np.flatnonzero(label == value) for value in range(200))
    expected = [np.sort(generator.choice(p, each, replace=False)) for p in pixels]
    np.testing.assert_array_equal(ys * 224 + xs, np.concatenate(expected))


def test_a_label_without_pixels_gives_none():
    label = np.full((4, 5), 255, np.uint8)
    for drawing in (Drawing(), Drawing(pixels_per_image=7)):
        ys, xs = draw_pixels(label, "i", drawing, void=255)
        assert ys.dtype == xs.dtype == np.int64
        assert len(ys) == len(xs) == 0


def test_classes_are_as_frequent_among_pixels_of_an_image_as_in_it():
    label = np.zeros((30, 30), np.uint8)
    label[:3] = 1
    of_one = [
        np.count_nonzero(label[draw_pixels(label, str(i), drawing, void=255)] == 1)
        for i, drawing in enumerate([Drawing(pixels_per_image=100)] * 200)
    ]
    assert 9.4 < np.mean(of_one) < 10.6  # 10 expected, standard deviation 0.2


def test_an_image_of_nothing_but_void_gives_none(make_sketch, tmp_path):
    sketch = make_sketch()
    sketch.records["cow.1"].label[:] = 255
    cache = sketch.write(tmp_path, image_ids=("cow.1",))
    samples = drawn(cache)
    assert samples.features.shape == (0, 7)
    path = tmp_path / "train-samples.h5"
    write_samples(path, samples, cache["train"].sources, cache.identity)
    assert_same(read_samples(path), samples)


class TestFile:
    @pytest.fixture
    def sketch(self, make_sketch):
        return make_sketch()

    @pytest.fixture
    def cache(self, sketch, tmp_path) -> FeatureCache:
        return sketch.write(tmp_path)

    @pytest.fixture
    def path(self, cache, tmp_path):
        path = samples_path(tmp_path, "train")
        write_samples(path, drawn(cache), cache["train"].sources, cache.identity)
        return path

    def test_comes_back_and_equals_a_new_drawing(self, cache, path):
        stored = read_samples(path)
        assert_same(stored, drawn(cache))
        assert_same(stored, draw_samples(cache["train"], cache.identity, stored.drawing))

    def test_is_read_by_plain_h5py(self, cache, path):
        samples = drawn(cache)
        with h5py.File(path) as file:
            for name in ("features", "label", "image", "y", "x"):
                np.testing.assert_array_equal(file[name][()], getattr(samples, name))
            assert tuple(file["image_ids"].asstr()) == cache["train"].image_ids
            assert file.attrs["fingerprint"].decode() == cache.identity.fingerprint

    @pytest.mark.parametrize("name", ["features", "label", "image", "y", "x"])
    def test_a_flipped_byte_is_found(self, path, name):
        with h5py.File(path) as file:
            start, size = file[name].id.get_offset(), file[name].nbytes
        whole = path.read_bytes()
        for position in {0, size // 2, size - 1}:
            damaged = bytearray(whole)
            damaged[start + position] ^= 4
            path.write_bytes(damaged)
            with pytest.raises(CacheDamagedError, match=rf"{path.name}: {name} is damaged"):
                read_samples(path)

    def test_a_changed_image_id_is_found(self, path):
        whole = path.read_bytes()
        assert whole.count(b"zebra_7") == 1
        path.write_bytes(whole.replace(b"zebra_7", b"zebra_8"))
        with pytest.raises(CacheDamagedError, match="image_ids is damaged"):
            read_samples(path)

    def test_a_missing_array_is_damage(self, path):
        with h5py.File(path, "a") as file:
            del file["y"]
        with pytest.raises(CacheDamagedError, match="y is damaged"):
            read_samples(path)

    def test_no_file_and_another_kind(self, sketch, path, tmp_path):
        with pytest.raises(CacheNotFoundError, match="pipeline extract"):
            read_samples(tmp_path / "val-samples.h5")
        with pytest.raises(
            CacheMismatchError, match="a shard file of a feature cache, not a samples"
        ):
            read_samples(sketch.plans[0].path)

    def test_is_current_as_long_as_nothing_changes(
        self, cache, path, sketch, make_identity, tmp_path
    ):
        def current(**choices):
            drawing = Drawing(**{"features": PLAIN, **choices})
            return samples_are_current(path, cache["train"].sources, cache.identity, drawing)

        assert current()
        assert not current(seed=1)
        assert not current(pixels_per_class=4)
        assert not current(void_as_background=True)
        assert not current(features=Features(activation="relu", context=()))
        drawing = Drawing(features=PLAIN)
        assert not samples_are_current(path, cache["train"].sources, make_identity(void=0), drawing)
        reordered = sketch.write(tmp_path / "b", image_ids=("cow.1", "zebra_7", "2008_000003"))
        assert not samples_are_current(path, reordered["train"].sources, cache.identity, drawing)
        sketch.records["cow.1"].sources["mask_digest"] = "another"
        changed = sketch.write(tmp_path / "c")
        assert not samples_are_current(path, changed["train"].sources, cache.identity, drawing)
        path.unlink()
        assert not current()
