"""What a person chooses for a run of the benchmarks, and how large the work is then."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """The choices.

    Attributes
    ----------
    scale : {"full", "quick", "tiny"}
        ``full`` gives the figures to report, ``quick`` shows in minutes that all is well, and
        ``tiny`` is for the tests: its figures mean nothing.
    rounds : int or None
        How often everything is measured; by default as the scale says.
    results : Path
        Folder for what is written.
    work : Path
        Folder for what is needed meanwhile, on the disk that is to be measured.
    opponents_python : str
        Interpreter that has the packages of the extra ``bench``.
    """

    scale: Literal["full", "quick", "tiny"] = "full"
    rounds: int | None = None
    results: Path = RESULTS
    work: Path = ROOT / "build" / "benchmarks"
    opponents_python: str = sys.executable

    def pick(self, full: T, quick: T, tiny: T) -> T:
        """Give the value of this run's scale."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.scale]

    def times(self, full: int, quick: int = 2, tiny: int = 1) -> int:
        """Give the number of rounds: as asked for, or else as the scale says."""
        return self.rounds or self.pick(full, quick, tiny)

    @property
    def side(self) -> int:
        """Height and width of the backbone's input, in pixels."""
        return self.pick(224, 224, 64)

    @property
    def backbones(self) -> tuple[str, ...]:
        """The backbones to measure."""
        both = ("vgg11", "squeezenet1_0")
        return self.pick(both, both, both[1:])

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty folder on the disk to be measured, and remove it afterwards."""
        self.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            yield Path(folder)

    @contextmanager
    def kept_folder(self, name: str) -> Iterator[Path]:
        """Give a folder on the disk to be measured, which a run that is stopped leaves to the next.

        It is removed at the end.
        """
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        shutil.rmtree(folder)
