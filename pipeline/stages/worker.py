"""A worker of an extraction: the same work in another process, made from what can be sent there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.backbones import Backbone, Preprocessing
from pipeline.cache import Drawing, ShardPlan, total_images
from pipeline.data import VocDataset
from pipeline.errors import ParamsError
from pipeline.identity import Identity
from pipeline.stages.image_records import ImageRecords
from pipeline.stages.parallel import Leash
from pipeline.stages.part import Plans
from pipeline.stages.restore import restore_backbone
from pipeline.stages.shard_work import ShardWork


@dataclass(frozen=True)
class WorkerJob:
    """What a worker is to do. All paths are absolute: it may have another working directory.

    Attributes
    ----------
    out, leash : Path
        The cache, and the lock that is held as long as somebody waits for the worker.
    dataset, dataset_name : VocDataset, str
    identity : Identity
    weights, seed, device : str, int, str
        Of the backbone, which is loaded anew.
    preprocessing, drawing, plans
    images_per_shard, compression, batch_size, skip, replace, thorough
        As for :func:`pipeline.extract`.
    threads : int, optional
        How many threads to compute with.
    """

    out: Path
    leash: Path
    dataset: VocDataset
    dataset_name: str
    identity: Identity
    weights: str
    seed: int
    device: str
    preprocessing: Preprocessing
    drawing: Drawing
    plans: Plans
    images_per_shard: int
    compression: Literal["gzip"] | None
    batch_size: int | None
    skip: bool
    replace: bool
    thorough: bool
    threads: int | None

    def __call__(self, number: int) -> int:
        """Do it, together with all others that do; give how many images were computed.

        Parameters
        ----------
        number : int
            Which of the workers this is; of several GPUs of a machine it chooses one.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        progress = Leash(self.leash)
        device = torch.device(self.device)
        if device.type == "cuda" and device.index is None and self.threads is not None:
            device = torch.device("cuda", number % torch.cuda.device_count())
        backbone = restore_backbone(
            self.identity, weights=self.weights, seed=self.seed, device=device, what=str(self.out)
        )
        records = ImageRecords(
            self.dataset,
            backbone,
            self.preprocessing,
            batch_size=self.batch_size,
            skip=self.skip,
            progress=progress,
        )
        work = ShardWork(
            self.out,
            self.identity,
            records,
            self.drawing,
            images_per_shard=self.images_per_shard,
            compression=self.compression,
            dataset=self.dataset_name,
            skip=self.skip,
            progress=progress,
        )
        work.plans = self.plans
        with work.session(replace=self.replace, thorough=self.thorough):
            return work.write()


def portable_weights(backbone: Backbone) -> str:
    """Give where a worker finds the weights of a backbone.

    Raises
    ------
    ParamsError
        If they are from no file.
    """
    if backbone.source in ("DEFAULT", "random"):
        return backbone.source
    path = Path(backbone.source).absolute()
    if not path.is_file():
        raise ParamsError(
            f"{backbone.source}: no file that workers could read the weights from; save them, and "
            "load the backbone from there"
        )
    return str(path)


def written_since(plans: Sequence[ShardPlan]) -> Callable[[], int]:
    """Give a function that counts the images in those of the shards that were written since."""
    before = {plan.path: _stamp(plan.path) for plan in plans}

    def count() -> int:
        now = ((plan, _stamp(plan.path)) for plan in plans)
        return total_images([p for p, stamp in now if stamp not in (None, before[p.path])])

    return count


def _stamp(path: Path) -> tuple[int, int] | None:
    """Tell one file at a path from a later one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
