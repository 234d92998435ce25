"""What a run has the operating system do so that files outlast a loss of power."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.identity import file_digest


class Journal:
    """Writes down every sync, renaming and making of a folder, with what files hold at the time.

    Parameters
    ----------
    path : Path
        Where to: a line of JSON for each.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("x", buffering=1)

    def install(self) -> None:
        """Begin."""
        fsync, mkdir = os.fsync, os.mkdir

        def noted_fsync(descriptor: int) -> None:
            fsync(descriptor)
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._note("sync", path, None if path.is_dir() else file_digest(path))

        def noted_mkdir(path: Any, *arguments: Any, **more: Any) -> None:
            mkdir(path, *arguments, **more)
            self._note("mkdir", Path(path), None)

        os.fsync, os.mkdir = noted_fsync, noted_mkdir
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._noted_renaming(getattr(os, name)))

    def _noted_renaming(self, rename: Any) -> Any:
        def noted(source: Any, target: Any, **more: Any) -> None:
            rename(source, target, **more)
            self._note("rename", Path(source), file_digest(Path(target)), Path(target))

        return noted

    def _note(self, what: str, path: Path, digest: str | None, target: Path | None = None) -> None:
        paths = [str(p.absolute()) for p in (path, target) if p is not None]
        self._file.write(json.dumps([what, paths, digest]) + "\n")


def read(path: Path) -> list[tuple[str, list[Path], str | None]]:
    """Read a journal: what was done, to which paths, and the digest of what lay there then."""
    lines = map(json.loads, path.read_text().splitlines())
    return [(what, [Path(p) for p in paths], digest) for what, paths, digest in lines]
