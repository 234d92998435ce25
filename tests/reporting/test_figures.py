"""Training curves, bars and confusion matrices: what is in the pixels of the PNG files."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from pipeline.errors import HeadError, ParamsError
from pipeline.reporting import plot_class_iou, plot_confusion, plot_history
from pipeline.reporting.style import LEAST_DPI, MOST_BYTES, SERIES, drawing

BLUE, ORANGE, GREEN = (
    tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in SERIES[:3]
)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def area(path: Path, colour: tuple[int, ...]) -> int:
    """Count the pixels of exactly this colour."""
    return int((pixels(path) == colour).all(axis=-1).sum())


def history(epochs: int) -> dict[str, object]:
    return {
        "epoch": list(range(1, epochs + 1)),
        "train_loss": [1 / n for n in range(1, epochs + 1)],
        "val_loss": [1.2 / n for n in range(1, epochs + 1)],
        "val_pixel_accuracy": [0.5 + 0.01 * n for n in range(epochs)],
        "val_mean_iou": [0.3 + 0.01 * n for n in range(epochs)],
        "best_epoch": epochs,
    }


@pytest.mark.parametrize("epochs", [1, 12])
def test_history_draws_both_losses(tmp_path: Path, epochs: int) -> None:
    path = tmp_path / "new" / "history.png"
    plot_history(history(epochs), path)
    assert area(path, BLUE) > 30
    assert area(path, ORANGE) > 30


def test_history_without_validation_has_the_training_curve_only(tmp_path: Path) -> None:
    path = tmp_path / "history.png"
    missing = {"val_loss": [None] * 3, "val_pixel_accuracy": None, "best_epoch": None}
    plot_history({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.0], **missing}, path)
    assert area(path, ORANGE) > 30
    assert area(path, BLUE) == 0


def test_history_marks_the_best_epoch_where_it_is(tmp_path: Path) -> None:
    columns = []
    for best in (3, 6, 9):
        path = tmp_path / f"{best}.png"
        flat = {"epoch": list(range(1, 12)), "val_mean_iou": [0.5] * 11, "best_epoch": best}
        plot_history(flat, path)
        grey = (pixels(path) == (0x7B, 0x87, 0x94)).all(axis=-1).sum(axis=0)
        columns.append(int(grey.argmax()))  # the dashed line is the tallest grey thing
    assert columns[0] < columns[1] < columns[2]
    assert columns[2] - columns[1] == pytest.approx(columns[1] - columns[0], abs=2)


def test_history_with_gaps_and_diverged_values_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "history.png"
    gaps = {**history(4), "val_mean_iou": [None, 0.2, None, 0.3]}
    gaps["train_loss"] = [1.0, float("nan"), float("inf"), 0.5]
    gaps["best_epoch"] = 3  # an epoch without a mean IoU
    plot_history(gaps, path)
    assert area(path, BLUE) > 30


def test_history_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.png"
    with pytest.raises(HeadError, match="2 values of val_loss"):
        plot_history({**history(3), "val_loss": [1.0, 2.0]}, path)
    with pytest.raises(HeadError, match="no epochs"):
        plot_history({"epoch": []}, path)
    assert not path.exists()


def test_bars_are_as_long_as_the_iou(tmp_path: Path) -> None:
    path = tmp_path / "iou.png"
    heads = {"sparse": {"a": 0.2, "b": 0.2, "c": None}, "dense": {"a": 0.6, "b": 0.2, "c": None}}
    plot_class_iou(heads, path)
    longest = {}
    for colour in (BLUE, ORANGE):
        bars = (pixels(path) == colour).all(axis=-1)
        longest[colour] = int(bars.sum(axis=1).max())
    assert longest[ORANGE] / longest[BLUE] == pytest.approx(3, rel=0.02)


def test_best_classes_are_on_top_and_absent_ones_have_no_bar(tmp_path: Path) -> None:
    path = tmp_path / "iou.png"
    plot_class_iou({"dense": {"low": 0.1, "absent": None, "high": 0.9, "zero": 0.0}}, path)
    bars = (pixels(path) == BLUE).all(axis=-1).sum(axis=1)
    bars = bars[60:]  # below the legend
    rows = np.flatnonzero(bars > 20)
    assert bars[rows[0] + 3] > 5 * bars[rows[-1] - 3]
    assert rows[-1] < len(bars) / 2  # "zero" and "absent" fill the lower half


def test_heads_must_share_their_classes(tmp_path: Path) -> None:
    wrong: list[dict[str, dict[str, float | None]]]
    wrong = [{}, {"a": {}}, {"a": {"cat": 0.5}, "b": {"dog": 0.5}}]
    for heads in wrong:
        with pytest.raises(ParamsError, match="same classes"):
            plot_class_iou(heads, tmp_path / "iou.png")


def test_confusion_shades_rows_by_share(tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    plot_confusion(np.array([[7, 0], [0, 90000]]), ["cat", "dog"], path)
    full = area(path, (0x00, 0x3D, 0x66))
    plot_confusion(np.array([[7, 0], [45000, 45000]]), ["cat", "dog"], path)
    half = area(path, (0x00, 0x3D, 0x66))
    assert half == pytest.approx(full / 2, rel=0.1)


def test_confusion_greys_classes_without_truth(tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    grey = (0xF1, 0xF3, 0xF5)
    plot_confusion(np.array([[5, 5], [5, 5]]), ["cat", "dog"], path)
    assert area(path, grey) == 0
    plot_confusion(np.array([[5, 5], [0, 0]]), ["cat", "dog"], path)
    assert area(path, grey) > 10_000


@pytest.mark.parametrize("n", [1, 21, 41])
def test_confusion_of_any_number_of_classes_stays_small(tmp_path: Path, n: int) -> None:
    path = tmp_path / "confusion.png"
    counts = np.random.default_rng(0).integers(1, 99, (n, n))
    plot_confusion(counts, [f"class {i}" for i in range(n)], path)
    assert path.stat().st_size < MOST_BYTES


def test_confusion_needs_a_name_for_each_row(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"2 class names do not fit a matrix of \(3, 3\)"):
        plot_confusion(np.zeros((3, 3), int), ["a", "b"], tmp_path / "confusion.png")


def test_names_are_never_read_as_mathematics(tmp_path: Path) -> None:
    names = ["$\\frac{", "a_b^c", "<script>"]
    plot_confusion(np.eye(3, dtype=int), names, tmp_path / "confusion.png")
    plot_class_iou({"$x": dict.fromkeys(names, 0.5)}, tmp_path / "iou.png")


def test_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.png", "two.png"):
        plot_history(history(5), tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_drawing_leaves_matplotlib_as_it_was_and_no_file_after_an_error(tmp_path: Path) -> None:
    before = dict(rcParams)
    path = tmp_path / "figure.png"
    with pytest.raises(ZeroDivisionError), drawing(path, width=2, height=2):
        1 / 0  # noqa: B018
    assert not path.exists()
    assert dict(rcParams) == before


def test_drawing_lowers_the_resolution_of_large_files(tmp_path: Path) -> None:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    with drawing(path, width=6, height=6) as figure:
        figure.subplots().imshow(noise)
    with Image.open(path) as image:
        dpi = image.info["dpi"][0]
    assert path.stat().st_size <= MOST_BYTES
    assert LEAST_DPI - 1 < dpi < 160
