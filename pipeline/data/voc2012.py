"""The official release of PASCAL VOC 2012, through torchvision."""

import contextlib
import http.client
import io
import shutil
import tarfile
from pathlib import Path

from pipeline.data.voc import VocDataset
from pipeline.errors import DataError, SpaceError

_ROOT = Path("VOCdevkit", "VOC2012")
_ROOM = 4_500_000_000
"""Bytes of the archive and of what is in it, rounded up."""


def download_voc2012(out: str | Path, *, progress: bool = True) -> Path:
    """Download and unpack the training and validation images of PASCAL VOC 2012.

    An archive that lies in ``out`` already is checked and unpacked without a download, and a
    complete data set is left as it is.

    Parameters
    ----------
    out
        Folder for the archive (2 GB) and, below it, ``VOCdevkit/VOC2012``.
    progress
        Whether to show torchvision's progress bar on stderr.

    Returns
    -------
    Path
        The root of the data set, ready for ``VocDataset.open``.

    Raises
    ------
    DataError
        If the download fails or the archive is damaged.
    SpaceError
        If there is not enough room on the disk.
    """
    out = Path(out)
    root = out / _ROOT
    if _is_complete(root):
        return root
    # Heavy, and needed by nothing else here.
    from torchvision.datasets import VOCSegmentation
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    archive = DATASET_YEAR_DICT["2012"]
    try:
        out.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
        if free < _ROOM and not (out / archive["filename"]).exists():
            raise SpaceError(
                f"{out} has room for {free / 1e9:.1f} GB, PASCAL VOC 2012 needs"
                f" {_ROOM / 1e9:.1f} GB: make room, or name another folder"
            )
        quiet = contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO())
        with quiet:
            VOCSegmentation(str(out), year="2012", image_set="trainval", download=True)
    except SpaceError:
        raise
    except (OSError, RuntimeError, tarfile.TarError, http.client.HTTPException, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"PASCAL VOC 2012 could not be brought to {out} ({reason}): check the network and try"
            f" again, or put {archive['url']} there yourself"
        ) from error
    return root


def _is_complete(root: Path) -> bool:
    """Tell whether every image and mask of the segmentation splits has been unpacked."""
    try:
        dataset = VocDataset.open(root)
        for image_id in dataset.image_ids("trainval"):
            dataset.image_path(image_id)
            dataset.mask_path(image_id)
        return {"train", "val"} <= set(dataset.splits())
    except DataError:
        return False
