"""From image files to records: batches, memory that does not suffice, files that change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import Backbone, FeatureCache, Preprocessing, VocDataset, load_backbone
from pipeline.cache import RESERVED, plan_shards
from pipeline.errors import DataError, DeviceMemoryError
from pipeline.stages.extract import identity_of
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.inspect import verify_cache
from pipeline.stages.room import bytes_of_shards

SQUARE = Preprocessing(input_size="48")


class SmallGpu:
    """The backbone of the tests, on a GPU whose memory holds so many images at a time."""

    def __init__(self, backbone: Backbone, holds: int) -> None:
        self._backbone, self.holds = backbone, holds
        self.batches: list[int] = []
        self.refused: list[int] = []
        self.takes_batches = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        if len(images) > self.holds:
            self.refused.append(len(images))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        self.batches.append(len(images))
        # Image by image, so that the bits are those of an undisturbed run.
        maps = [self._backbone(image[None]) for image in images]
        return [torch.cat(tap) for tap in zip(*maps, strict=True)]


def test_too_little_memory_halves_the_batch_once_and_says_so(
    run: Any, backbone: Backbone, values: Any, listening: Any, tmp_path: Path
) -> None:
    run(preprocessing=SQUARE, out=tmp_path / "plain", images_per_shard=9)
    gpu = SmallGpu(backbone, holds=2)
    result = run(
        backbone=gpu, preprocessing=SQUARE, images_per_shard=9, batch_size=4, progress=listening
    )
    assert result.computed == 7
    assert gpu.refused == [4]
    assert gpu.batches == [2, 2, 1, 2]  # five of train, two of val
    said = [line for line in listening.lines if "GPU" in line]
    assert said == ["the GPU's memory is full; going on with batches of 2"]
    assert values(tmp_path / "cache") == values(tmp_path / "plain")
    for name in ("train-00000-of-00001.h5", "val-00000-of-00001.h5", "train-samples.h5"):
        assert (tmp_path / "cache" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize(("holds", "refused"), [(1, [5, 3, 2, 2]), (3, [5]), (4, [5])])
def test_it_is_halved_until_it_fits(
    run: Any, backbone: Backbone, values: Any, tmp_path: Path, holds: int, refused: list[int]
) -> None:
    gpu = SmallGpu(backbone, holds)
    run(backbone=gpu, preprocessing=SQUARE, images_per_shard=9, batch_size=32)
    assert gpu.refused == refused
    assert sum(gpu.batches) == 7
    run(preprocessing=SQUARE, out=tmp_path / "plain", images_per_shard=9)
    assert values(tmp_path / "cache") == values(tmp_path / "plain")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_an_image_that_does_not_fit_alone_is_named_and_nothing_is_lost(
    run: Any, dataset: VocDataset, backbone: Backbone, values: Any, tmp_path: Path, on_error: str
) -> None:
    """Skipping is for images that are bad, and this one is not."""
    ids = dataset.image_ids("train")

    class OneTooLarge(SmallGpu):
        def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
            self.holds = 0 if images.shape[2:] == (80, 80) else 9
            return super().__call__(images)

    for path, mode in ((dataset.image_path(ids[3]), "RGB"), (dataset.mask_path(ids[3]), "L")):
        Image.new(mode, (80, 80)).save(path)
    expected = rf"{ids[3]}\.png: at 80x80 it does not fit the GPU's memory; use .*--device cpu"
    with pytest.raises(DeviceMemoryError, match=expected) as caught:
        run(backbone=OneTooLarge(backbone, 9), batch_size=2, on_error=on_error)
    assert isinstance(caught.value, MemoryError)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache").glob("*-of-?????.h5")] == [
        "train-00000-of-00003.h5"
    ]
    assert run().computed == 5
    assert verify_cache(tmp_path / "cache") == []


def test_other_errors_of_the_backbone_are_not_taken_for_lack_of_memory(
    run: Any, backbone: Backbone
) -> None:
    class Broken(SmallGpu):
        def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(backbone=Broken(backbone, 9), batch_size=4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_neighbours_of_one_size_go_together_and_order_is_kept(
    dataset: VocDataset, backbone: Backbone, listening: Any, batch_size: int
) -> None:
    gpu = SmallGpu(backbone, holds=9)
    ids = dataset.image_ids("train")
    for image_id in ids[:3]:
        for path, mode in (
            (dataset.image_path(image_id), "RGB"),
            (dataset.mask_path(image_id), "L"),
        ):
            Image.new(mode, (40, 50)).save(path)
    records = ImageRecords(
        dataset,
        gpu,
        Preprocessing(input_size="native"),
        batch_size=batch_size,
        skip=False,
        progress=listening,
    )
    skipped: dict[str, str] = {}
    identity = identity_of(
        dataset, backbone, Preprocessing("imagenet", "native"), geometry="half_pixel", dtype="int8"
    )
    found = list(records.each(records.sources(ids), lambda r: r.stored(identity), skipped))
    assert [record.image_id for record in found] == list(ids)
    together = {1: [1, 1, 1], 2: [2, 1], 3: [3], 8: [3]}[batch_size]
    assert gpu.batches[: len(together)] == together
    assert max(gpu.batches) <= batch_size
    assert skipped == {}
    for image in found:
        shapes = {name: array.values.shape for name, array in image.arrays.items()}
        assert shapes.keys() == {tap.name for tap in backbone.taps} | set(RESERVED)
        size = dataset.read_mask(image.image_id).shape
        assert size == shapes["label"] == shapes["label_original"] == shapes["image"][:2]
        for tap, shape in zip(backbone.taps, backbone.feature_shapes(*size), strict=True):
            assert shapes[tap.name] == shape


class TestFilesThatChangeMeanwhile:
    """What a file's features are filed under is what they were made from."""

    @pytest.fixture
    def changing(
        self, dataset: VocDataset, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[str], None]:
        """Let a file of the fourth image change when it has just been read."""

        def change(kind: str) -> None:
            changed = dataset.image_ids("train")[3]
            path: Path = getattr(dataset, f"{kind}_path")(changed)
            read = VocDataset.read_labelled

            def read_and_change(self: VocDataset, image_id: str) -> Any:
                found = read(self, image_id)
                if image_id == changed:
                    path.write_bytes(path.read_bytes() + b"\n")
                return found

            monkeypatch.setattr(VocDataset, "read_labelled", read_and_change)

        return change

    @pytest.mark.parametrize("kind", ["image", "mask"])
    def test_stop_it(
        self, run: Any, dataset: VocDataset, changing: Any, kind: str, tmp_path: Path
    ) -> None:
        changing(kind)
        with pytest.raises(DataError, match=r"it or its mask was changed during .* extract again"):
            run()
        assert [path.name for path in (tmp_path / "cache").glob("train-*-of-?????.h5")] == [
            "train-00000-of-00003.h5"
        ]

    @pytest.mark.parametrize("kind", ["image", "mask"])
    def test_or_are_left_out_and_tried_again(
        self,
        run: Any,
        dataset: VocDataset,
        changing: Any,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
    ) -> None:
        changing(kind)
        (skipped,) = run(on_error="skip").skipped
        assert skipped[:2] == ("train", dataset.image_ids("train")[3])
        monkeypatch.undo()
        again = run(on_error="skip")
        assert (again.computed, again.skipped) == (1, [])


@pytest.mark.parametrize("recompute_first", [False, True])
def test_sizes_are_known_before_anything_is_computed(
    dataset: VocDataset,
    backbone: Backbone,
    listening: Any,
    run: Any,
    tmp_path: Path,
    recompute_first: bool,
) -> None:
    records = ImageRecords(
        dataset,
        backbone,
        Preprocessing(input_size="native"),
        batch_size=1,
        skip=False,
        progress=listening,
    )
    run(splits=["val"], dtype="int8", recompute_first=recompute_first, images_per_shard=1)
    cache = FeatureCache(tmp_path / "cache")
    identity = cache.identity
    for plan in plan_shards(cache.path, "val", cache["val"].sources, 1):
        told = bytes_of_shards([plan], records, identity)
        assert told == pytest.approx(plan.path.stat().st_size, rel=0.1)
        (image_id,) = plan.sources
    dataset.image_path(image_id).write_bytes(b"no image")
    assert records.bytes_of(image_id, identity) == 0  # said when it is read


def test_values_are_those_of_the_image_as_it_is_preprocessed(
    run: Any, dataset: VocDataset, tmp_path: Path
) -> None:
    backbone = load_backbone("squeezenet1_0", weights="random", taps=["conv1"])
    run(backbone=backbone, preprocessing=SQUARE, splits=["val"], dtype="float32")
    split = FeatureCache(tmp_path / "cache")["val"]
    for image_id in split.image_ids:
        resized = SQUARE.resize_image(dataset.read_image(image_id))
        (expected,) = backbone(torch.from_numpy(SQUARE.normalize(resized))[None])
        np.testing.assert_array_equal(split.maps(image_id, ["conv1"])[0], expected[0].numpy())
