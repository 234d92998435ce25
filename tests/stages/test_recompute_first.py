"""A cache without the first tap's map does whatever another one does, with the same values."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pipeline import (
    Backbone,
    Drawing,
    FeatureCache,
    Features,
    Head,
    Segmenter,
    TrainSettings,
    VocDataset,
    evaluate,
    fit_dense,
    fit_sparse,
    hypercolumns_at,
    load_backbone,
    load_head,
    predict,
    report,
)
from pipeline.cache import read_samples, samples_path
from pipeline.errors import BackboneError, CacheMismatchError
from pipeline.stages.inspect import inspect_cache, verify_cache
from pipeline.stages.maintain import repair_cache

SMALL = Drawing(features=Features(context=()), pixels_per_class=2)
EXACT = 1e-5
"""Of the largest value: the backbone adds up in another order."""


@pytest.fixture
def both(run: Callable[..., Any], tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Extract twice, with the first tap stored and without."""

    def make(**changes: Any) -> tuple[Path, Path]:
        stored, computed = tmp_path / "stored", tmp_path / "computed"
        run(out=stored, **changes)
        run(out=computed, recompute_first=True, **changes)
        return stored, computed

    return make


def maps(cache: Path, split: str = "val") -> dict[str, list[np.ndarray[Any, Any]]]:
    opened = FeatureCache(cache)
    taps = opened.identity.tap_names
    return {image_id: opened[split].maps(image_id, taps) for image_id in opened[split].image_ids}


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_maps_and_samples_are_those_of_a_cache_that_stores_them(
    both: Any, run: Any, dtype: str, compression: str | None, tmp_path: Path
) -> None:
    stored, computed = both(dtype=dtype, compression=compression)
    run(out=tmp_path / "exact", dtype="float32")
    exact = maps(tmp_path / "exact")
    for image_id, (first, *others) in maps(computed).items():
        atol = EXACT * np.abs(exact[image_id][0]).max()
        np.testing.assert_allclose(first, exact[image_id][0], rtol=0, atol=atol)
        for one, other in zip(others, maps(stored)[image_id][1:], strict=True):
            np.testing.assert_array_equal(one, other)
    channels = len(first)
    for split in ("train", "val"):
        found, expected = (read_samples(samples_path(c, split)) for c in (computed, stored))
        plain = read_samples(samples_path(tmp_path / "exact", split))
        for name in ("label", "image", "y", "x"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_array_equal(found.features[:, channels:], expected.features[:, channels:])
        np.testing.assert_allclose(
            found.features[:, :channels],
            plain.features[:, :channels],
            rtol=0,
            atol=EXACT * np.abs(plain.features).max(),
        )
        view, size = FeatureCache(computed)[split], (found.y, found.x)
        for number, image_id in enumerate(found.image_ids):
            chosen = found.image == number
            ys, xs = (torch.from_numpy(i[chosen]) for i in size)
            used = [torch.from_numpy(m).relu() for m in view.maps(image_id, ["conv1"])]
            columns = hypercolumns_at(used, ys, xs, view.size(image_id))
            np.testing.assert_allclose(
                found.features[chosen, :channels], columns, rtol=0, atol=1e-4
            )


def test_half_of_what_is_stored_is_not(both: Any) -> None:
    stored, computed = both(dtype="int8")
    taps = FeatureCache(stored)["val"]
    image_id = taps.image_ids[0]
    (first,) = taps.maps(image_id, ["conv1"])
    one, other = (sum(f.stat().st_size for f in c.glob("*-of-*.h5")) for c in (stored, computed))
    assert one - other == pytest.approx(7 * first.size, rel=0.2)  # seven images of about one size
    with h5py.File(next(computed.glob("val-*-of-*.h5"))) as file:
        assert "conv1" not in file[image_id]
        assert "fire3" in file[image_id]


def test_it_is_another_cache_and_says_so(both: Any, run: Any) -> None:
    _, computed = both()
    with pytest.raises(CacheMismatchError, match=r"recompute_first: true, not false\); give anoth"):
        run(out=computed)
    found = inspect_cache(computed)
    assert found["complete"]
    assert found["identity"]["recompute_first"] == {
        "kernel": [7, 7],
        "stride": [2, 2],
        "padding": [0, 0],
    }


def test_where_the_first_tap_is_another_one_nothing_is_written(run: Any, tmp_path: Path) -> None:
    backbone = load_backbone("squeezenet1_0", weights="random", taps=["fire3", "conv1"])
    with pytest.raises(BackboneError, match="fire3, is not the network's first convolution"):
        run(backbone=backbone, recompute_first=True)
    assert not (tmp_path / "cache").exists()


def test_a_tap_alone_needs_no_map(run: Any, tmp_path: Path) -> None:
    backbone = load_backbone("squeezenet1_0", weights="random", taps=["conv1"])
    run(backbone=backbone, recompute_first=True, dtype="int8")
    assert not verify_cache(tmp_path / "cache")
    for found in maps(tmp_path / "cache").values():
        assert found[0].shape[0] == 96


@pytest.mark.parametrize("changes", [{"images_per_shard": 3}, {"compression": "gzip"}])
def test_shards_divided_otherwise_are_taken_over(
    run: Any, backbone_runs: Any, values: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(recompute_first=True)
    before = values(tmp_path / "cache")
    backbone_runs()
    run(recompute_first=True, **changes)
    assert backbone_runs() == 0
    assert values(tmp_path / "cache") == before
    assert not verify_cache(tmp_path / "cache")


def test_other_samples_are_drawn_from_it(
    run: Any, backbone_runs: Any, values: Any, tmp_path: Path
) -> None:
    other = SMALL.model_copy(update={"seed": 1, "pixels_per_class": 40})
    run(recompute_first=True)
    backbone_runs()
    run(recompute_first=True, drawing=other)
    assert backbone_runs() == 0
    run(recompute_first=True, drawing=other, out=tmp_path / "fresh")
    assert values(tmp_path / "cache") == values(tmp_path / "fresh")


def test_workers_change_no_bit(run: Any, values: Any, tmp_path: Path) -> None:
    run(recompute_first=True, dtype="int8")
    run(recompute_first=True, dtype="int8", workers=2, out=tmp_path / "workers")
    assert values(tmp_path / "workers") == values(tmp_path / "cache")


@pytest.mark.parametrize("name", ["\\kernel", "\\bias", "\\values", "image"])
def test_damage_is_found_and_repaired(
    run: Any, values: Any, tmp_path: Path, name: str, dataset: VocDataset
) -> None:
    cache = tmp_path / "cache"
    run(recompute_first=True, images_per_shard=2)
    before = values(cache)
    path = sorted(cache.glob("train-*-of-*.h5"))[1]
    with h5py.File(path) as file:
        place = f"{next(iter(file))}/image" if name == "image" else name
        at = file[place].id.get_offset()
    whole = bytearray(path.read_bytes())
    whole[at + 5] ^= 1
    path.write_bytes(whole)
    problems = verify_cache(cache)
    assert problems
    assert all(f"{place} is damaged" in problem.what for problem in problems)
    repair_cache(cache, dataset=dataset.root, weights="random")
    assert not verify_cache(cache)
    assert values(cache) == before


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_stage_two_runs_on_it(
    both: Any, dataset: VocDataset, tmp_path: Path, backbone: Backbone, dtype: str
) -> None:
    """And gives what it gives on a cache that stores the map, up to the rounding of that."""
    figures = []
    for cache in both(dtype=dtype, drawing=SMALL):
        sparse, dense = (cache.with_suffix(s) for s in (".sparse.safetensors", ".safetensors"))
        fit_sparse(cache, sparse, estimator="logistic", drawing=SMALL)
        fit_dense(cache, sparse, dense, settings=TrainSettings(epochs=1, batch_size=2))
        measured = cache.with_suffix(".json")
        figures.append(evaluate(cache, dense, split="val", out=measured))
        page = cache.with_suffix(".report")
        assert report(cache, {"d": dense}, {"d": measured}, page, images=1).exists()
    stored, computed = figures
    assert computed["pixel_accuracy"] == pytest.approx(stored["pixel_accuracy"], abs=0.05)

    image = dataset.read_image(dataset.image_ids("val")[0])
    segment = Segmenter(dense, weights="random")
    head: Head = load_head(dense)
    view = FeatureCache(cache)["val"]
    used = [torch.from_numpy(m) for m in view.maps(dataset.image_ids("val")[0], head.taps)]
    labels = head.scores(used, view.size(dataset.image_ids("val")[0])).argmax(dim=0)
    assert (segment(image) == labels.numpy()).mean() > 0.99
    assert predict(dense, [dataset.root / "JPEGImages"], tmp_path / "masks", weights="random")


def test_predict_computes_the_first_tap_as_the_cache_does(
    run: Any, dataset: VocDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    run(recompute_first=True, dtype="float32")
    fit_sparse(cache, tmp_path / "h.safetensors", estimator="logistic", drawing=SMALL)
    segment = Segmenter(tmp_path / "h.safetensors", weights="random")
    seen: list[list[torch.Tensor]] = []
    scores = type(segment.head).scores
    monkeypatch.setattr(
        type(segment.head), "scores", lambda self, m, size: seen.append(m) or scores(self, m, size)
    )
    image_id = dataset.image_ids("val")[0]
    segment(dataset.read_image(image_id))
    for found, cached in zip(seen[0], maps(cache)[image_id], strict=True):
        np.testing.assert_array_equal(found.numpy(), cached)
