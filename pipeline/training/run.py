"""The course of a training run: its history, its best epoch, and the checkpoint to go on from."""

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from pipeline.errors import HeadError, ParamsError
from pipeline.tensorfile import read_tensors, write_tensors
from pipeline.training.team import Team
from pipeline.training.trainer import DenseTrainer
from pipeline.wholefile import write_whole

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
            If the checkpoint is damaged, or no state of such a run.
        """
        if not self.checkpoint.exists():
            return False
        remedy = "delete it to begin anew"
        tensors, metadata = read_tensors(self.checkpoint, kind=CHECKPOINT, remedy=remedy)
        if metadata.get("key") != self.key:
            return False
        now, best = _under("now.", tensors), _under("best.", tensors)
        try:
            history = _History.model_validate_json(metadata.get("history", ""))
        except ValidationError as error:
            raise HeadError(f"{self.checkpoint}: its history is damaged; {remedy}") from error
        own = self.trainer.state()
        if not _forms(now) == _forms(best) == _forms(own):
            raise HeadError(f"{self.checkpoint}: holds no state of this head; {remedy}")
        self.history = history.model_dump()
        self.trainer.restore(now)
        self._best = best
        return True

    def set_aside(self) -> Path | None:
        """Give the checkpoint of another run, if there is one, a name of its own.

        Returns
        -------
        Path or None
            Where it lies now. One that lay there before is overwritten.
        """
        if not self.checkpoint.exists():
            return None
        other = self.checkpoint.with_name(self.checkpoint.name + ".other")
        return self.checkpoint.replace(other)

    def follow(self, team: Team) -> None:
        """Go on from where the first process of a team stands.

        Raises
        ------
        ParamsError
            If that one trains something else.
        """
        if team.size == 1:
            return
        key, history, now, best = team.agreed(
            (self.key, self.history, self.trainer.state(), self._best)
        )
        if key != self.key:
            raise ParamsError(
                f"process {team.rank} was given another cache, head or settings than process 0; "
                "give all of them the same"
            )
        if not team.leads:
            self.history, self._best = history, best
            self.trainer.restore(now)

    def write_history(self, path: Path) -> None:
        """Write the history as CSV, one row per epoch, for people and for DVC's plots."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(zip(*(self.history[name] for name in COLUMNS), strict=True))
        write_whole(path, text.getvalue())

    def finish(self) -> None:
        """Put the trainer back to the epoch to keep."""
        self.trainer.restore(self._best)

    def _is_best(self) -> bool:
        scores = [-1.0 if score is None else score for score in self.history["val_mean_iou"]]
        return scores[-1] > max(scores[:-1], default=-2.0)


class _History(BaseModel):
    """What a checkpoint says about the epochs behind it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    epoch: list[int] = Field(min_length=1)
    train_loss: list[float | None]
    val_loss: list[float | None]
    val_pixel_accuracy: list[float | None]
    val_mean_iou: list[float | None]
    best_epoch: int

    @model_validator(mode="after")
    def _is_one_row_per_epoch(self) -> Self:
        count = len(self.epoch)
        rows = [len(getattr(self, name)) for name in COLUMNS]
        if (
            self.epoch != list(range(count))
            or set(rows) != {count}
            or not 0 <= self.best_epoch < count
        ):
            raise ValueError("the columns do not belong together")
        return self


def _forms(tensors: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
