import hashlib
import tarfile
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

from pipeline.data.voc import VocDataset
from pipeline.data.voc2012 import download_voc2012
from pipeline.errors import DataError


@pytest.fixture
def archive(make_voc: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pack a small data set as the official archive is, and have torchvision expect that one."""
    root = make_voc({"train": ["a"], "val": ["b"], "trainval": ["a", "b"]}, classes=None)
    path = tmp_path / "server" / "VOC.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        tar.add(root, "VOCdevkit/VOC2012")
    release = DATASET_YEAR_DICT["2012"] | {
        "md5": hashlib.md5(path.read_bytes()).hexdigest(),
        "filename": path.name,
        "url": "http://127.0.0.1:9/VOC.tar",  # the discard port: nobody answers
    }
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", release)
    return path


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_downloads_and_unpacks(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = partial(_QuietHandler, directory=str(archive.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        DATASET_YEAR_DICT["2012"]["url"] = f"http://127.0.0.1:{server.server_port}/VOC.tar"
        root = download_voc2012(tmp_path / "out", progress=False)
        server.shutdown()
    assert root == tmp_path / "out" / "VOCdevkit" / "VOC2012"
    assert capfd.readouterr().err == ""
    dataset = VocDataset.open(root)
    assert dataset.image_ids("trainval") == ("a", "b")
    assert dataset.read_mask("b").shape == dataset.read_image("b").shape[:2]
    # Complete now: neither the server nor the archive is needed again.
    (tmp_path / "out" / "VOC.tar").unlink()
    assert download_voc2012(tmp_path / "out") == root


def test_an_archive_brought_by_hand_needs_no_network(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    archive.rename(tmp_path / "out" / "VOC.tar")
    root = download_voc2012(tmp_path / "out")
    (root / "JPEGImages" / "a.png").unlink()
    download_voc2012(tmp_path / "out")
    assert (root / "JPEGImages" / "a.png").is_file()


@pytest.mark.usefixtures("archive")
def test_no_network_is_one_line_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"check the network .* put http.*VOC\.tar") as caught:
        download_voc2012(tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
