"""The side-by-side picture: which colours it shows, and how much of each."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ParamsError
from pipeline.reporting import plot_comparison
from pipeline.reporting.comparison import VOID_COLOUR, ComparisonRow

NAMES = ["background", "cat", "dog"]
PALETTE = np.zeros((256, 3), np.uint8)
PALETTE[:3] = [[10, 20, 30], [200, 0, 40], [0, 150, 60]]
PALETTE[255] = [255, 0, 255]


def row(truth: np.ndarray, *predictions: np.ndarray) -> ComparisonRow:
    heads = {f"head {n}": labels for n, labels in enumerate(predictions)}
    image = np.full((*truth.shape, 3), 77, np.uint8)
    return "image-1", image, truth, heads


def areas(path: Path) -> dict[str, int]:
    with Image.open(path) as image:
        picture = np.asarray(image.convert("RGB"))
    colours = {
        "image": (77, 77, 77),
        "void": VOID_COLOUR,
        "palette's void": PALETTE[255],
        **dict(zip(NAMES, PALETTE, strict=False)),
    }
    return {name: int((picture == colour).all(axis=-1).sum()) for name, colour in colours.items()}


def labels(value: int) -> np.ndarray:
    return np.full((8, 12), value, np.uint8)


def test_each_panel_has_its_colour_and_the_same_size(tmp_path: Path) -> None:
    path = tmp_path / "new" / "comparison.png"
    plot_comparison([row(labels(1), labels(2), labels(2))], NAMES, PALETTE, path)
    found = areas(path)
    panel = found["image"]
    assert panel > 10_000
    assert found["cat"] == pytest.approx(panel, rel=0.1)  # a legend patch more
    assert found["dog"] == pytest.approx(2 * panel, rel=0.1)
    assert found["background"] == found["void"] == 0  # not in the legend either


def test_void_is_light_grey_and_the_palette_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "comparison.png"
    before = PALETTE.copy()
    truth = labels(0)
    truth[:4] = 255
    plot_comparison([row(truth, labels(0))], NAMES, PALETTE, path)
    found = areas(path)
    assert found["palette's void"] == 0
    assert found["void"] == pytest.approx(found["image"] / 2, rel=0.2)
    np.testing.assert_array_equal(PALETTE, before)


def test_another_void_value(tmp_path: Path) -> None:
    path = tmp_path / "comparison.png"
    plot_comparison([row(labels(0), labels(1))], NAMES, PALETTE, path, void=0)
    found = areas(path)
    assert found["void"] == pytest.approx(found["image"], rel=0.1)
    assert found["background"] == 0


def test_images_of_any_shape_keep_their_proportions(tmp_path: Path) -> None:
    path = tmp_path / "comparison.png"
    shapes = [(20, 60), (60, 20), (1, 1)]
    rows = [row(np.zeros(s, np.uint8), np.ones(s, np.int64)) for s in shapes]
    for one, (height, width) in zip(rows, shapes, strict=True):
        plot_comparison([one], NAMES, PALETTE, path)
        with Image.open(path) as image:
            inside = (np.asarray(image.convert("RGB")) == 77).all(axis=-1)
        drawn = inside.any(axis=1).sum() / inside.any(axis=0).sum()
        assert drawn == pytest.approx(height / width, rel=0.05)
    plot_comparison(rows, NAMES, PALETTE, path)


def test_rows_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "comparison.png"
    good = row(labels(0), labels(1))
    wrong = [
        ([], "at least one image"),
        ([good, row(labels(0))], "not of head 0"),
        (
            [row(labels(0), labels(1)[:4])],
            r"head 0 of image-1 is \(4, 12\) but the image \(8, 12\)",
        ),
        ([row(labels(7), labels(1))], "label 7 is beyond the 3 class names"),
    ]
    for rows, message in wrong:
        with pytest.raises(ParamsError, match=message):
            plot_comparison(rows, NAMES, PALETTE, path)
    assert not path.exists()


def test_long_names_do_not_change_the_layout(tmp_path: Path) -> None:
    sizes = []
    for n in (1, 20):
        path = tmp_path / "comparison.png"
        image_id, image, truth, _ = row(labels(0))
        plot_comparison([(n * image_id, image, truth, {"h": truth})], NAMES, PALETTE, path)
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes[0] == pytest.approx(sizes[1], abs=20)
