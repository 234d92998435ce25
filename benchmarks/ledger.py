"""What has been measured so far, kept in files: hours of measuring can be interrupted."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import xxhash

from benchmarks.settings import ROOT
from benchmarks.stage_process import Measured
from pipeline.wholefile import write_whole


def digest_of_code() -> str:
    """Hash the source of the pipeline."""
    hasher = xxhash.xxh3_64()
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


@dataclass
class Ledger:
    """Measurements by name, each in a file of its own.

    Attributes
    ----------
    folder : Path
        Where they lie; what lies there was measured by a run that was stopped, and counts.
    code : str
        Of what the pipeline is now.
    others : list of str
        Names of measurements that were made when its code was another.
    """

    folder: Path
    code: str = field(default_factory=digest_of_code)
    others: list[str] = field(default_factory=list)

    def measured(self, name: str, measure: Callable[[], Measured]) -> Measured:
        """Give what a run before has found under a name, or measure it."""
        path = self.folder / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
        if path.is_file():
            known = json.loads(path.read_text())
            if known.pop("code") != self.code:
                self.others.append(name)
            return Measured(**known)
        found = measure()
        write_whole(path, json.dumps({**asdict(found), "code": self.code}) + "\n")
        print(f"{name}: {found}", flush=True)
        return found

    def notes(self) -> list[str]:
        """Say which measurements are of other code, if any are."""
        if not self.others:
            return []
        return [f"Measured with an earlier state of the code: {'; '.join(self.others)}."]
