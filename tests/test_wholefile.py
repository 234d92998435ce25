"""Files exist whole or not at all: with processes that are killed, and disks that are full."""

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import wholefile
from pipeline.errors import SpaceError, WriteError
from pipeline.wholefile import leftovers, remove_leftovers, write_whole, written_whole

WRITE = """
import sys
from pathlib import Path
from pipeline.wholefile import written_whole
with written_whole(Path(sys.argv[1])) as file:
    file.write(b"new" * 1000)
    print("half", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "thing.bin"


@pytest.fixture
def writing(path: Path) -> "Iterator[subprocess.Popen[str]]":
    """Start a process that has written half of the file, and goes on when its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    yield process
    process.kill()
    process.communicate()


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def partials(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.partial"))


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 1000, "Schäfchen\n"])
def test_what_is_written_is_there(path: Path, content: bytes | str) -> None:
    write_whole(path, content)
    expected = content.encode() if isinstance(content, str) else content
    assert path.read_bytes() == expected
    assert names(path.parent) == [path.name]


def test_its_folder_is_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "c", "text")
    assert (tmp_path / "a" / "b" / "c").read_text() == "text"


def test_it_can_be_read_and_changed_before_it_is_finished(path: Path) -> None:
    with written_whole(path) as file:
        file.write(memoryview(b"0123456789"))
        file.seek(4)
        assert file.read(2) == b"45"
        file.seek(0)
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc3456789"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_error_leaves_what_was_there_before(path: Path, error: type[BaseException]) -> None:
    path.write_text("old")
    with pytest.raises(error), written_whole(path) as file:
        file.write(b"new")
        raise error
    assert path.read_text() == "old"
    assert names(path.parent) == [path.name]


def test_a_killed_writer_leaves_what_was_there_before(
    path: Path, writing: "subprocess.Popen[str]"
) -> None:
    path.write_text("old")
    (partial,) = partials(path)
    assert leftovers(path) == []  # it is alive
    remove_leftovers(path)
    assert partial.exists()
    writing.send_signal(signal.SIGKILL)
    writing.wait(30)
    assert path.read_text() == "old"
    assert leftovers(path) == [partial]
    write_whole(path, "another")  # which tidies up
    assert path.read_text() == "another"
    assert partials(path) == []


def test_two_writers_do_not_hurt_one_another(path: Path, writing: "subprocess.Popen[str]") -> None:
    write_whole(path, "mine")
    assert path.read_text() == "mine"
    assert len(partials(path)) == 1
    writing.communicate("", timeout=30)
    assert writing.returncode == 0
    assert path.read_bytes() == b"new" * 1000
    assert partials(path) == []


def test_leftovers_are_those_of_the_file_and_no_others(tmp_path: Path) -> None:
    mine = tmp_path / "head[1].safetensors"
    dead = [tmp_path / f"head[1].safetensors.0123456{n}.partial" for n in range(2)]
    others = [
        tmp_path / "head1.safetensors.01234567.partial",
        tmp_path / "head[1].safetensors.checkpoint",
        tmp_path / "head[1].partial",
        tmp_path / "head[1].safetensors.notes.partial",
        tmp_path / "head[1].safetensors.0123456g.partial",
        tmp_path / "thesis.2026.partial",
    ]
    for path in (*dead, *others):
        path.touch()
    assert leftovers(mine) == dead
    write_whole(mine, "content")
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in others)
    assert leftovers(tmp_path / "*") == [others[0]]


def test_in_a_folder_that_has_been_tidied_no_names_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one of very many"
    dead = tmp_path / f"{path.name}.01234567.partial"
    dead.touch()

    def listed(*_: object) -> None:
        raise AssertionError("the folder was listed")

    for name in ("glob", "iterdir"):
        monkeypatch.setattr(Path, name, listed)
    with written_whole(path, tidied=True) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert dead.exists()


def test_a_full_disk_leaves_what_was_there_before(path: Path) -> None:
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(SpaceError, match=r"thing\.bin: no room to write it \(.*make room"):
            write_whole(path, b"x" * 100_001)
        write_whole(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == 100_000
    assert names(path.parent) == [path.name]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file: is no folder; give another path, or remove it"):
        write_whole(tmp_path / "file" / "thing", "x")


def test_a_folder_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(WriteError, match="link: is a link that leads nowhere; give"):
        write_whole(tmp_path / "link" / "thing", "x")
    with pytest.raises(WriteError, match="link: is a link that leads nowhere"):
        write_whole(tmp_path / "link" / "new" / "thing", "x")


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(WriteError, match=r"thing\.bin: cannot be written \(Is a directory\)"):
        write_whole(path, "x")
    assert names(path.parent) == [path.name]


def test_a_link_in_its_place_is_replaced_and_not_written_through(
    path: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("of value")
    path.symlink_to(mine)
    write_whole(path, "new")
    assert mine.read_text() == "of value"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_errors_of_other_files_are_passed_on_as_they_are(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.bin"), written_whole(path):
        (tmp_path / "elsewhere.bin").read_bytes()
    assert names(path.parent) == []


def test_a_large_file_is_synced_while_it_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(wholefile, "_SYNCED_AT_ONCE", 1000)
    with written_whole(path) as file:
        for _ in range(3):
            file.write(bytes(1000))
            file._wait()
    assert sizes[:4] == [1000, 2000, 3000, 3000]
    assert path.read_bytes() == bytes(3000)


def test_an_error_of_the_disk_is_not_lost_where_it_is_met_in_between(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells it to one sync alone: the last one ends well."""
    answers = iter([OSError(errno.EIO, "Input/output error")])
    fsync = os.fsync

    def fails_once(descriptor: int) -> None:
        for error in answers:
            raise error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fails_once)
    monkeypatch.setattr(wholefile, "_SYNCED_AT_ONCE", 1000)
    refused = pytest.raises(WriteError, match=r"thing\.bin.*Input/output error")
    with refused, written_whole(path) as file:
        file.write(bytes(1500))
    assert names(path.parent) == []
