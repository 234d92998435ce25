"""A head on new images: from image files to palette masks at each image's own resolution."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbones import Backbone, Preprocessing, first_convolution
from pipeline.data import (
    list_images,
    read_image,
    read_note,
    require_file,
    write_mask,
    write_overlay,
)
from pipeline.errors import BackboneError, DataError
from pipeline.heads import Head, load_head
from pipeline.hypercolumn import FirstConvolution, labels_of
from pipeline.identity import file_digest
from pipeline.progress import Progress, Silent
from pipeline.refinement import choose_refinement
from pipeline.software import NAME, own_version
from pipeline.stages.device import choose_device, memory_named
from pipeline.stages.restore import restore_backbone
from pipeline.threads import MOST_AT_ONCE, in_order
from pipeline.wholefile import remove_leftovers

T = TypeVar("T")
R = TypeVar("R")


class Segmenter:
    """A head with its backbone: images in, labels out.

    Parameters
    ----------
    head : Path or str
        The head's file.
    weights : str or Path
        The backbone's weights: ``"DEFAULT"``, ``"random"`` or a file.
    seed : int
        Of random weights.
    refine : str, optional
        What corrects the predictions by the image, at the size that the network sees; see
        :func:`pipeline.refinement.parse_refinement`.
    device : {"auto", "cpu", "cuda"}
        Where to compute.
    trusted : sequence of str
        See :func:`pipeline.heads.load_head`.

    Attributes
    ----------
    head : Head
    backbone : Backbone
    preprocessing : Preprocessing
    refinement : Refinement or None
    device : torch.device
        Where it computes.

    Raises
    ------
    HeadError
        If the head cannot be read.
    WeightsError
        If the weights cannot be had, or are not those it was trained on.
    ParamsError
        If ``refine`` is no refinement, names a class that there is not, or needs what is not
        installed.
    """

    def __init__(
        self,
        head: Path | str,
        *,
        weights: str | Path,
        seed: int = 0,
        refine: str | None = None,
        device: str = "auto",
        trusted: Sequence[str] = (),
    ) -> None:
        self.device = choose_device(device)
        self.head: Head = load_head(head, trusted=trusted).to(self.device)
        identity = self.head.info.identity
        self.refinement = choose_refinement(refine, len(identity.classes))
        self.backbone: Backbone = restore_backbone(
            identity, weights=weights, seed=seed, device=self.device, what=str(head)
        )
        self.preprocessing = Preprocessing.from_dict(identity.preprocessing)
        # The head was trained on a map computed in this way, on whichever device it was trained.
        self._first: FirstConvolution | None = None
        if identity.recompute_first is not None and identity.tap_names[0] in self.head.taps:
            self._first = first_convolution(self.backbone, self.preprocessing)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ..."""
        return self.head.info.identity.classes

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label every pixel of an image.

        Parameters
        ----------
        image : array of uint8, shape (H, W, 3)
            RGB.

        Returns
        -------
        array of uint8, shape (H, W)
        """
        resized = self.preprocessing.resize_image(image)
        inputs = torch.from_numpy(self.preprocessing.normalize(resized))[None].to(self.device)
        names = [tap.name for tap in self.backbone.taps]
        maps = {n: m[0].float() for n, m in zip(names, self.backbone(inputs), strict=True)}
        if self._first is not None:
            maps[names[0]] = torch.from_numpy(self._first.map(resized)).to(self.device)
        used = [maps[name] for name in self.head.taps]
        scores = self.head.scores(used, (resized.shape[0], resized.shape[1]))
        if self.refinement is not None:
            scores = self.refinement(self.head.probabilities(scores), resized)
        return labels_of(scores, (image.shape[0], image.shape[1]))


def predict(
    head: Path | str,
    images: Sequence[Path | str],
    out: Path | str,
    *,
    weights: str | Path,
    seed: int = 0,
    refine: str | None = None,
    overlay: bool = False,
    on_error: Literal["stop", "skip"] = "stop",
    batch_size: int | None = None,
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """Segment images and write palette PNG masks, ``<name of the image>.png``.

    Masks that lie there already and were made by the same head from the same image, refined in the
    same way, are kept, so a run that was interrupted goes on where it stopped.

    Parameters
    ----------
    head, weights, seed, refine, device, trusted
        As :class:`Segmenter` takes them.
    images : sequence of Path or str
        Image files, and folders of image files.
    out : Path or str
        Folder for the masks, made if need be.
    overlay : bool
        Whether to write ``<name>-overlay.png`` as well, the mask laid over the image.
    on_error : {"stop", "skip"}
        What to do with an image that cannot be used; ``progress`` is told of those skipped.
    batch_size : int, optional
        Images in work at a time, each on one thread if there are several: by default as many as
        torch has threads, 16 at most, and one if there are fewer images or on a GPU.
    progress : Progress, optional
        What to report to.

    Returns
    -------
    list of Path
        The masks.

    Raises
    ------
    DataError
        If an image cannot be read and ``on_error`` is ``"stop"``, or two would give masks of one
        name.
    """
    out, progress = Path(out), progress or Silent()
    sources = _sources([Path(image) for image in images], out, overlay=overlay)
    segment = Segmenter(
        head, weights=weights, seed=seed, refine=refine, device=device, trusted=trusted
    )
    head_digest = _digest(Path(head))
    remove_leftovers(out / "*.png")  # once, not for each of maybe very many masks
    masks, skipped = [], {}

    def predicted(item: tuple[Path, Path]) -> str | None:
        try:
            _predict(segment, item[1], item[0], head_digest, overlay=overlay)
        except DataError as error:
            if on_error == "stop":
                raise
            return str(error)
        return None

    with _at_once(predicted, sources.items(), batch_size, segment.device) as results:
        done = progress.track(results, total=len(sources), unit="images", what="predicting")
        for (mask_path, source), failure in zip(sources.items(), done, strict=True):
            if failure is None:
                masks.append(mask_path)
            else:
                skipped[source] = failure
    for source, reason in skipped.items():
        progress.say(f"skipped {source}: {reason}")
    return masks


@contextmanager
def _at_once(
    work: Callable[[T], R], items: Collection[T], batch_size: int | None, device: torch.device
) -> Iterator[Iterator[R]]:
    """Do a piece of work for every item, several at a time if they are many, and give the results.

    One image after another has all cores to itself, which wait for one another: with one image for
    each core they do not.
    """
    if batch_size is None:
        threads = min(torch.get_num_threads(), MOST_AT_ONCE)
        batch_size = threads if device.type == "cpu" and len(items) >= threads else 1
    if batch_size == 1:
        yield map(work, items)
        return
    with closing(in_order(work, items, threads=batch_size, alone=device.type == "cpu")) as results:
        yield results


def _predict(
    segment: Segmenter, source: Path, mask_path: Path, head_digest: str, *, overlay: bool
) -> None:
    """Write the mask of one image, unless it is there."""
    require_file(source)  # a pipe would be waited for
    note = f"{NAME} {own_version()}, head {head_digest}, image {_digest(source)}"
    if segment.refinement is not None:
        note += f", refined by {segment.refinement}"
    written = (mask_path, _overlay_path(mask_path)) if overlay else (mask_path,)
    if all(read_note(path) == note for path in written):
        return
    image = read_image(source)
    try:
        with memory_named(str(source)):
            labels = segment(image)
    except BackboneError as error:
        raise DataError(f"{source}: cannot go through the backbone; {error}") from error
    write_mask(mask_path, labels, note=note, tidied=True)
    if overlay:
        write_overlay(_overlay_path(mask_path), image, labels, note=note, tidied=True)


def _sources(images: Sequence[Path], out: Path, *, overlay: bool) -> dict[Path, Path]:
    """Give every image file with the mask it will become."""
    files = [file for path in images for file in (list_images(path) if path.is_dir() else [path])]
    sources: dict[Path, Path] = {}
    written: dict[Path, Path] = {}
    for file in files:
        mask = out / f"{file.stem}.png"
        for target in (mask, _overlay_path(mask)) if overlay else (mask,):
            if target in written:
                raise DataError(
                    f"{file} and {written[target]} would both become {target}; "
                    "predict them into two folders"
                )
            written[target] = file
        if os.path.realpath(mask) == os.path.realpath(file):  # resolve() raises at a link to itself
            raise DataError(f"{file}: would be overwritten by its mask; give another --out")
        sources[mask] = file
    return sources


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _overlay_path(mask: Path) -> Path:
    return mask.with_name(f"{mask.stem}-overlay.png")
