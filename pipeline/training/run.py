"""The course of a training run: its history, its best epoch, and the checkpoint to go on from."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.tensorfile import read_tensors, write_tensors
from pipeline.training.trainer import DenseTrainer

CHECKPOINT = "hypercolumn-checkpoint"
COLUMNS = ("epoch", "train_loss", "val_loss", "val_pixel_accuracy", "val_mean_iou")


@dataclass
class TrainingRun:
    """A run that can be interrupted after any epoch and go on to the same result.

    Attributes
    ----------
    trainer : DenseTrainer
    checkpoint : Path
        Where the state after the latest epoch lies while the run lasts.
    key : str
        Identity of the run: a checkpoint with another key is of another run and is not used.
    keep_best : bool
        Whether the epoch of the best validation mean IoU is kept, rather than the last one.
    history : dict of str to list
        One value per epoch, the initial head as epoch 0, and ``best_epoch``.
    """

    trainer: DenseTrainer
    checkpoint: Path
    key: str
    keep_best: bool
    history: dict[str, Any] = field(
        default_factory=lambda: {**{name: [] for name in COLUMNS}, "best_epoch": None}
    )
    _best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def epochs_done(self) -> int:
        """Number of epochs behind it; -1 before the initial head has been recorded."""
        return len(self.history["epoch"]) - 1

    def record(self, *, train_loss: float | None, validation: dict[str, float | None]) -> None:
        """Add an epoch to the history, and remember the head if it is the one to keep so far.

        Parameters
        ----------
        train_loss : float or None
            Mean over the epoch's steps; None for the initial head.
        validation : dict
            Values of the ``val_`` columns; missing where there was no validation.
        """
        row = {"epoch": self.epochs_done + 1, "train_loss": train_loss, **validation}
        for name in COLUMNS:
            self.history[name].append(row.get(name))
        if not self.keep_best or self._is_best():
            self.history["best_epoch"] = row["epoch"]
            self._best = self.trainer.state()

    def save(self) -> None:
        """Write the checkpoint."""
        tensors = {f"now.{name}": t for name, t in self.trainer.state().items()}
        tensors |= {f"best.{name}": t for name, t in self._best.items()}
        metadata = {"key": self.key, "history": json.dumps(self.history)}
        write_tensors(self.checkpoint, tensors, metadata, kind=CHECKPOINT)

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one of this run.

        Raises
        ------
        HeadError
            If the checkpoint is damaged.
        """
        if not self.checkpoint.exists():
            return False
        remedy = "delete it to begin anew"
        tensors, metadata = read_tensors(self.checkpoint, kind=CHECKPOINT, remedy=remedy)
        if metadata["key"] != self.key:
            return False
        self.history = json.loads(metadata["history"])
        self.trainer.restore(_under("now.", tensors))
        self._best = _under("best.", tensors)
        return True

    def write_history(self, path: Path) -> None:
        """Write the history as CSV, one row per epoch, for people and for DVC's plots."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(zip(*(self.history[name] for name in COLUMNS), strict=True))

    def finish(self) -> None:
        """Put the trainer back to the epoch to keep."""
        self.trainer.restore(self._best)

    def _is_best(self) -> bool:
        scores = [-1.0 if score is None else score for score in self.history["val_mean_iou"]]
        return scores[-1] > max(scores[:-1], default=-2.0)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
