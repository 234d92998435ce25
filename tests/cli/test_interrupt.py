import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import VocDataset
from pipeline.cli import main

pytestmark = pytest.mark.slow

IMAGES = 24


@pytest.fixture
def long_split(scenes: VocDataset, tmp_path: Path) -> Path:
    """Give a data set of many images, all of them the same one."""
    root = tmp_path / "many"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    image_id = scenes.image_ids("val")[0]
    for source, part in (
        (scenes.image_path(image_id), "JPEGImages"),
        (scenes.mask_path(image_id), "SegmentationClass"),
    ):
        for number in range(IMAGES):
            (root / part / f"image{number:02}.png").symlink_to(source)
    ids = "".join(f"image{number:02}\n" for number in range(IMAGES))
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text(ids)
    (root / "classes.txt").write_text("\n".join(scenes.classes))
    return root


def test_ctrl_c_keeps_what_is_finished(
    long_split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    words = ["extract", "--backbone", "squeezenet1_0", "--weights", "random", "--split", "val"]
    words += ["--tap", "conv1", "--tap", "fire9", "--input-size", "224", "--images-per-shard", "2"]
    words += ["--dataset", str(long_split), "--out", str(cache)]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(cache.glob("*-of-?????.h5")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; what was finished is kept"
    assert "Traceback" not in said

    finished = {path: path.stat().st_mtime_ns for path in cache.glob("val-*-of-?????.h5")}
    assert 0 < len(finished) < IMAGES // 2

    assert main(words) == 0
    captured = capsys.readouterr()
    kept = 2 * len(finished)
    assert f"{kept} images are in the cache already and stay as they are" in captured.err
    assert f"{IMAGES} images, {IMAGES - kept} computed now, 0 skipped" in captured.out
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert {path.suffix for path in cache.iterdir()} == {".h5", ".json"}
