"""Masks from images, and masks that are there already."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import FeatureCache, Segmenter, VocDataset, fit_sparse, load_head, predict
from pipeline.data import VOC_PALETTE, read_image, read_note
from pipeline.errors import DataError, WeightsError
from pipeline.hypercolumn import labels_of
from pipeline.identity import file_digest
from pipeline.refinement import parse_refinement
from pipeline.stages.evaluate import score_image


@pytest.fixture(scope="module")
def segmenter(sparse_head: Path) -> Segmenter:
    return Segmenter(sparse_head, weights="random")


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def photos(scenes: VocDataset, tmp_path: Path) -> Path:
    """Give a folder with two images in it, of different types, and a file that is no image."""
    folder = tmp_path / "photos"
    folder.mkdir()
    first, second = (scenes.image_path(image_id) for image_id in scenes.image_ids("val")[:2])
    shutil.copy(first, folder / "first.png")
    with Image.open(second) as image:
        image.save(folder / "second.JPG", quality=95)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_masks_are_what_evaluate_measures(
    scenes: VocDataset, cache: Path, sparse_head: Path, tmp_path: Path
) -> None:
    """The same head on the same image, from the file and from the cache (rounded to float16)."""
    ids = scenes.image_ids("val")
    masks = predict(
        sparse_head, [scenes.image_path(i) for i in ids], tmp_path / "masks", weights="random"
    )
    assert [mask.name for mask in masks] == [f"{image_id}.png" for image_id in ids]
    head, split = load_head(sparse_head), FeatureCache(cache)["val"]
    for image_id, mask in zip(ids, masks, strict=True):
        measured = labels_of(score_image(head, split, image_id, torch.device("cpu")))
        predicted = stored(mask)
        assert predicted.shape == measured.shape == scenes.read_image(image_id).shape[:2]
        assert len(np.unique(predicted)) > 1
        assert (predicted == measured).mean() >= 0.995


def test_refined_masks_are_what_evaluate_measures(
    scenes: VocDataset, cache: Path, sparse_head: Path, tmp_path: Path
) -> None:
    ids = scenes.image_ids("val")[:3]
    photos = [scenes.image_path(i) for i in ids]
    how = "guided:4:0.01"
    masks = predict(sparse_head, photos, tmp_path / "a", weights="random", refine=how)
    plain = predict(sparse_head, photos, tmp_path / "b", weights="random")
    head, split, cpu = load_head(sparse_head), FeatureCache(cache)["val"], torch.device("cpu")
    for image_id, mask, unrefined in zip(ids, masks, plain, strict=True):
        refined = score_image(head, split, image_id, cpu, parse_refinement(how))
        assert (stored(mask) == labels_of(refined)).mean() >= 0.995
        assert (stored(unrefined) == labels_of(refined)).mean() < 0.995


def test_masks_are_palette_files_in_the_colours_of_voc(
    sparse_head: Path, photos: Path, tmp_path: Path
) -> None:
    first, second = predict(sparse_head, [photos], tmp_path / "masks", weights="random")
    assert (first.name, second.name) == ("first.png", "second.png")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [first.name, second.name]
    for mask, photo in ((first, "first.png"), (second, "second.JPG")):
        with Image.open(mask) as image, Image.open(photos / photo) as original:
            assert (image.format, image.mode, image.size) == ("PNG", "P", original.size)
            indices = np.asarray(image)
            assert np.array_equal(np.asarray(image.convert("RGB")), VOC_PALETTE[indices])


def test_a_segmenter_labels_arrays(
    segmenter: Segmenter, photos: Path, sparse_head: Path, tmp_path: Path, scenes: VocDataset
) -> None:
    assert segmenter.classes == scenes.classes
    (mask,) = predict(sparse_head, [photos / "first.png"], tmp_path / "masks", weights="random")
    labels = segmenter(stored(photos / "first.png"))
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, stored(mask))


def test_overlays_keep_the_background(sparse_head: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    (mask,) = predict(sparse_head, [photos / "first.png"], out, weights="random", overlay=True)
    image, labels = stored(photos / "first.png"), stored(mask)
    overlay = stored(out / "first-overlay.png")
    assert overlay.shape == image.shape
    assert np.array_equal(overlay[labels == 0], image[labels == 0])
    things = labels > 0
    assert things.any()
    blended = (image[things].astype(int) + VOC_PALETTE[labels[things]]) // 2
    assert np.array_equal(overlay[things], blended)


def test_other_weights_are_refused(sparse_head: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"made with squeezenet1_0 weights .* but random are"):
        predict(sparse_head, [photos], tmp_path / "masks", weights="random", seed=1)
    with pytest.raises(WeightsError, match="no weights file"):
        predict(sparse_head, [photos], tmp_path / "masks", weights=tmp_path / "none.pth")
    assert not (tmp_path / "masks").exists()


class TestFinishedMasks:
    """Masks that lie there already are kept as long as all they were made from is the same."""

    @pytest.fixture
    def again(
        self, sparse_head: Path, photos: Path, tmp_path: Path, backbone_runs: Callable[[], int]
    ) -> Callable[..., int]:
        """Predict both photos, and count those that were computed."""

        def run(head: Path = sparse_head, **options: Any) -> int:
            masks = predict(head, [photos], tmp_path / "masks", weights="random", **options)
            assert [mask.name for mask in masks] == ["first.png", "second.png"]
            assert sorted(tmp_path.joinpath("masks").glob("*.partial")) == []
            return backbone_runs()

        assert run() == 2
        return run

    def test_are_kept(self, again: Callable[..., int], tmp_path: Path) -> None:
        before = written(tmp_path / "masks")
        assert again() == 0
        assert written(tmp_path / "masks") == before

    def test_what_a_killed_run_left_goes(self, again: Callable[..., int], tmp_path: Path) -> None:
        (tmp_path / "masks" / "second.png.01234567.partial").write_bytes(b"half")
        assert again() == 0

    def test_say_what_they_were_made_from(
        self, again: Callable[..., int], sparse_head: Path, photos: Path, tmp_path: Path
    ) -> None:
        note = read_note(tmp_path / "masks" / "first.png")
        assert file_digest(sparse_head) in note
        assert file_digest(photos / "first.png") in note

    def test_a_missing_one_alone_is_made(self, again: Callable[..., int], tmp_path: Path) -> None:
        before = contents(tmp_path / "masks")
        (tmp_path / "masks" / "second.png").unlink()
        assert again() == 1
        assert contents(tmp_path / "masks") == before

    def test_one_of_a_changed_image_is_made_again(
        self, again: Callable[..., int], photos: Path, tmp_path: Path
    ) -> None:
        before = contents(tmp_path / "masks")
        with Image.open(photos / "first.png") as image:
            image.rotate(180).save(photos / "first.png")
        assert again() == 1
        after = contents(tmp_path / "masks")
        assert after["second.png"] == before["second.png"]
        assert after["first.png"] != before["first.png"]

    def test_all_are_made_again_by_another_head(
        self, again: Callable[..., int], cache: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other.safetensors"
        fit_sparse(cache, other, estimator="sgd", options={"epochs": 2})
        assert again(other) == 2
        assert again(other) == 0

    def test_all_are_made_again_if_they_are_refined_otherwise(
        self, again: Callable[..., int], tmp_path: Path
    ) -> None:
        before = contents(tmp_path / "masks")
        assert again(refine="guided:4:0.01") == 2
        assert again(refine="guided:4:0.010") == 0
        assert again(refine="guided:5:0.01") == 2
        assert again(refine="none") == 2
        assert again() == 0
        assert contents(tmp_path / "masks") == before

    @pytest.mark.parametrize("share", [0.0, 0.5, 0.98])
    def test_a_truncated_one_is_made_again(
        self, again: Callable[..., int], tmp_path: Path, share: float
    ) -> None:
        mask = tmp_path / "masks" / "first.png"
        whole = mask.read_bytes()
        mask.write_bytes(whole[: int(share * len(whole))])
        assert again() == 1
        assert mask.read_bytes() == whole

    def test_a_flipped_byte_anywhere_before_the_end_mark_is_found(
        self, again: Callable[..., int], tmp_path: Path
    ) -> None:
        mask = tmp_path / "masks" / "first.png"
        whole, note = mask.read_bytes(), read_note(mask)
        assert note
        missed = []
        for position in range(len(whole) - 12):
            flipped = bytearray(whole)
            flipped[position] ^= 1
            mask.write_bytes(flipped)
            if read_note(mask) == note:
                missed.append(position)
        assert missed == []
        mask.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
        assert again() == 1
        assert mask.read_bytes() == whole

    def test_somebody_s_own_picture_in_their_place_is_replaced(
        self, again: Callable[..., int], tmp_path: Path
    ) -> None:
        mask = tmp_path / "masks" / "first.png"
        whole = mask.read_bytes()
        Image.new("L", (5, 5)).save(mask)
        assert again() == 1
        assert mask.read_bytes() == whole

    def test_overlays_are_made_for_them_and_kept(
        self, again: Callable[..., int], tmp_path: Path
    ) -> None:
        masks = contents(tmp_path / "masks")
        assert again(overlay=True) == 2
        assert contents(tmp_path / "masks").items() > masks.items()
        assert again(overlay=True) == 0
        (tmp_path / "masks" / "second-overlay.png").unlink()
        assert again(overlay=True) == 1
        assert again() == 0

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_an_interrupted_run_goes_on(
        self,
        batch_size: int,
        again: Callable[..., int],
        interrupted: Callable[..., Any],
        sparse_head: Path,
        photos: Path,
        tmp_path: Path,
        backbone_runs: Callable[[], int],
    ) -> None:
        whole = contents(tmp_path / "masks")
        shutil.rmtree(tmp_path / "masks")
        with pytest.raises(KeyboardInterrupt):
            predict(
                sparse_head,
                [photos],
                tmp_path / "masks",
                weights="random",
                batch_size=batch_size,
                progress=interrupted("predicting", after=0),
            )
        done = len(contents(tmp_path / "masks"))
        assert 1 <= done <= batch_size
        backbone_runs()
        assert again() == 2 - done
        assert contents(tmp_path / "masks") == whole


def written(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_images_of_one_name(sparse_head: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "first.png", photos / "second.png")
    with pytest.raises(DataError, match=r"both become .*second\.png; predict them into two"):
        predict(sparse_head, [photos], tmp_path / "masks", weights="random")


def test_an_overlay_takes_no_mask_s_name(sparse_head: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "first.png", photos / "second-overlay.png")
    assert len(predict(sparse_head, [photos], tmp_path / "plain", weights="random")) == 3
    with pytest.raises(DataError, match=r"both become .*second-overlay\.png"):
        predict(sparse_head, [photos], tmp_path / "masks", weights="random", overlay=True)


def test_an_image_is_not_overwritten(sparse_head: Path, photos: Path) -> None:
    before = (photos / "first.png").read_bytes()
    with pytest.raises(DataError, match=r"first\.png: would be overwritten"):
        predict(sparse_head, [photos / "first.png"], photos, weights="random")
    assert (photos / "first.png").read_bytes() == before


def test_what_is_no_image(sparse_head: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, expected in (
        (photos / "notes.txt", r"notes\.txt is not an image"),
        (photos / "none.png", r"none\.png does not exist"),
        (tmp_path / "empty", r"empty holds no image"),
    ):
        with pytest.raises(DataError, match=expected):
            predict(sparse_head, [source], tmp_path / "masks", weights="random")


@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_several_images_at_a_time_are_what_one_is(
    scenes: VocDataset, sparse_head: Path, tmp_path: Path, batch_size: int | None
) -> None:
    """In their order, and with those left out that cannot be used."""
    images = [scenes.image_path(i) for i in scenes.image_ids("val")]
    (tmp_path / "broken.png").write_bytes(images[0].read_bytes()[:100])
    images.insert(2, tmp_path / "broken.png")
    segment = Segmenter(sparse_head, weights="random")
    masks = predict(
        sparse_head,
        images,
        tmp_path / "masks",
        weights="random",
        on_error="skip",
        batch_size=batch_size,
    )
    del images[2]
    assert [mask.stem for mask in masks] == [image.stem for image in images]
    for image, mask in zip(images, masks, strict=True):
        assert (stored(mask) == segment(read_image(image))).all()
    with pytest.raises(DataError, match="broken"):
        predict(
            sparse_head,
            [tmp_path / "broken.png", *images],
            tmp_path / "others",
            weights="random",
            batch_size=batch_size,
        )


def test_an_image_too_small_for_the_backbone(sparse_head: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 3)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"thin\.png: cannot go through the backbone"):
        predict(sparse_head, [tmp_path / "thin.png"], tmp_path / "masks", weights="random")
