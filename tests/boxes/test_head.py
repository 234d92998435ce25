"""Box heads: what they predict, and what is refused when one is read."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.boxes import BoxHead, BoxHeadInfo, BoxTarget, hottest, load_box_head, save_box_head
from pipeline.boxes.grid import rescaled
from pipeline.boxes.head import FORMAT
from pipeline.boxes.heat_maps import box_columns
from pipeline.data import Box
from pipeline.errors import HeadError
from pipeline.hypercolumn import Features
from pipeline.identity import Identity, TapIdentity
from pipeline.tensorfile import read_tensors, write_tensors

IDENTITY = Identity(
    backbone="none",
    weights="0",
    taps=tuple(
        TapIdentity(name=name, modules=(name,), channels=channels, stride=1)
        for name, channels in (("shallow", 3), ("deep", 5))
    ),
    preprocessing={},
    geometry="half_pixel",
    dtype="float32",
    classes=("ground", "cat", "dog"),
    void=255,
)
MAPS = [(3, 20, 30), (5, 4, 6), (5, 1, 1)]


def make_head(targets: tuple[BoxTarget, ...], grid: int = 2, **changes: object) -> BoxHead:
    info = BoxHeadInfo(
        task="keypoints" if targets[0].keypoint else "figure-ground",
        identity=IDENTITY,
        features=Features(context=("global",)),
        targets=targets,
        grid=grid,
        points=6,
        expansion=1.2,
    )
    generator = torch.Generator().manual_seed(0)
    shape = (len(targets), grid**2, 13)
    return BoxHead(
        info.model_copy(update=changes),
        torch.randn(shape, generator=generator),
        torch.randn(shape[:2], generator=generator),
    )


REGIONS = (BoxTarget(label=1), BoxTarget(label=2))
KEYPOINTS = (
    BoxTarget(label=1, keypoint="ear"),
    BoxTarget(label=1, keypoint="tail"),
    BoxTarget(label=2, keypoint="ear"),
)


def test_heat_maps_are_those_of_the_class_in_the_window() -> None:
    head = make_head(KEYPOINTS)
    maps = [torch.randn(shape) for shape in MAPS]
    original, size = (40, 60), (20, 30)
    window = head.window(Box(10, 10, 30, 20), original)
    assert window == Box(8, 9, 32, 21)
    found = head.heat_maps(maps, 1, window, original, size)
    columns = box_columns(
        maps, box=rescaled(window, original, size), size=size, geometry="half_pixel", points=6
    )
    logits = torch.einsum("tkd,dyx->tkyx", head.weight[:2], columns) + head.bias[:2, :, None, None]
    outputs = logits.sigmoid()
    # With a grid of 2 x 2, points 0 and 1 lie before the first centre, at 1/4 of the box.
    torch.testing.assert_close(found[:, 0, 0], outputs[:, 0, 0, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, 5, 0], outputs[:, 2, 5, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, 1, 4], outputs[:, 1, 1, 4], atol=1e-4, rtol=1e-4)
    mixed = outputs[:, :2, 0, 2] @ torch.tensor([2 / 3, 1 / 3])
    torch.testing.assert_close(found[:, 0, 2], mixed, atol=1e-4, rtol=1e-4)
    assert head.heat_maps(maps, 2, window, original, size).shape == (1, 6, 6)


def test_a_class_it_does_not_know_has_no_heat_maps() -> None:
    head = make_head(REGIONS[:1])
    maps = [torch.randn(shape) for shape in MAPS]
    window = head.window(Box(1, 1, 9, 9), (20, 30))
    assert head.heat_maps(maps, 2, window, (20, 30), (20, 30)).shape == (0, 6, 6)


def test_hottest_is_the_place_of_the_greatest_heat() -> None:
    heat = torch.zeros(4, 4)
    heat[1, 3] = 0.7
    assert hottest(heat, Box(10, 20, 18, 28)) == pytest.approx((17, 23, 0.7))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    for name, head in (("a", make_head(REGIONS)), ("b", make_head(KEYPOINTS, grid=1))):
        save_box_head(tmp_path / name, head)
        found = load_box_head(tmp_path / name)
        assert found.info == head.info
        assert torch.equal(found.weight, head.weight)
        assert torch.equal(found.bias, head.bias)
        save_box_head(tmp_path / "again", found)
        assert (tmp_path / "again").read_bytes() == (tmp_path / name).read_bytes()


def test_a_head_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    head = make_head(REGIONS)
    head.weight[0, 0, 0] = float("nan")
    with pytest.raises(HeadError, match="not finite; lower learning_rate"):
        save_box_head(tmp_path / "h", head)
    assert list(tmp_path.iterdir()) == []


def forged(path: Path, **changes: object) -> Path:
    """Write a head whose description or tensors are otherwise, signed as a true one is."""
    head = make_head(REGIONS)
    info, tensors = head.info.model_dump(mode="json"), {"weight": head.weight, "bias": head.bias}
    for name, value in changes.items():
        (tensors if name in ("weight", "bias", "more") else info)[name] = value
    write_tensors(path, tensors, {"head": json.dumps(info)}, kind=FORMAT)
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": "sing"}, "not a box head that this version can read"),
        ({"task": "keypoints"}, "not a box head that this version can read .*its task"),
        ({"targets": ()}, "not a box head"),
        ({"targets": [{"label": 1}, {"label": 1}]}, "a target is there twice"),
        ({"targets": [{"label": 1}, {"label": 3}]}, "its classes do not have"),
        ({"targets": [{"label": 1}, {"label": 0}]}, "not a box head"),
        ({"grid": 7}, "no more cells than"),
        ({"grid": 3}, "do not fit its targets and taps"),
        ({"points": 10**6}, "not a box head"),
        ({"expansion": 0.5}, "not a box head"),
        ({"features": {"taps": ["nowhere"]}}, "not a box head .*no tap 'nowhere'"),
        ({"features": {"context": []}}, "do not fit its targets and taps"),
        ({"surprise": 1}, "not a box head"),
        ({"weight": torch.zeros(2, 4, 12)}, "do not fit its targets and taps"),
        ({"weight": torch.zeros(2, 4, 13, dtype=torch.float64)}, "do not fit its targets"),
        ({"bias": torch.full((2, 4), float("inf"))}, "do not fit its targets and taps"),
        ({"more": torch.zeros(1)}, "do not fit its targets and taps"),
    ],
)
def test_what_cannot_be_a_head_is_one_line(tmp_path: Path, changes, expected: str) -> None:
    path = forged(tmp_path / "forged", **changes)
    with pytest.raises(HeadError, match=expected) as caught:
        load_box_head(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    assert load_box_head(forged(tmp_path / "h")).info.grid == 2
    with pytest.raises(HeadError, match="no such file"):
        load_box_head(tmp_path / "gone")
    content = bytearray((tmp_path / "h").read_bytes())
    content[-3] ^= 1
    (tmp_path / "h").write_bytes(content)
    with pytest.raises(HeadError, match="damaged, its content does not match its digest"):
        load_box_head(tmp_path / "h")
    write_tensors(tmp_path / "other", {"a": torch.zeros(1)}, {}, kind="hypercolumn-head")
    with pytest.raises(HeadError, match="not a hypercolumn-box-head"):
        load_box_head(tmp_path / "other")
    assert read_tensors(tmp_path / "other", kind="hypercolumn-head", remedy="")[0].keys() == {"a"}
