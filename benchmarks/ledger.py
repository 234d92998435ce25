"""What has been measured so far, kept in files: hours of measuring can be interrupted."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.stage_process import Measured
from pipeline.wholefile import write_whole


@dataclass(frozen=True)
class Ledger:
    """Measurements by name, each in a file of its own.

    Attributes
    ----------
    folder : Path
        Where they lie; what lies there was measured by a run that was stopped, and counts.
    """

    folder: Path

    def measured(self, name: str, measure: Callable[[], Measured]) -> Measured:
        """Give what a run before has found under a name, or measure it."""
        path = self.folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
        if path.is_file():
            return Measured(**json.loads(path.read_text()))
        found = measure()
        write_whole(path, json.dumps(asdict(found)) + "\n")
        print(f"{name}: {found}", flush=True)
        return found
