"""Locks between real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.errors import BusyError, WriteError
from pipeline.locks import Lock, signature, sole_writer

Start = Callable[..., "subprocess.Popen[str]"]

HOLD = """
import sys
from pathlib import Path
from pipeline.locks import Lock
lock = Lock.{how}(Path(sys.argv[1]))
print(lock is not None, flush=True)
sys.stdin.read()
if lock is not None:
    lock.release()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start processes that take a lock or share it, say whether they have it, and then wait."""
    processes = []

    def run(how: str, path: Path, *, wait: bool = True) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(how=how), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        if wait:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[str]") -> None:
    """Let a process release its lock and end."""
    process.communicate("", timeout=30)
    assert process.returncode == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "thing.lock"


def test_what_another_process_holds_cannot_be_taken(start: Start, path: Path) -> None:
    process = start("take", path)
    assert Lock.take(path) is None
    end(process)
    assert not path.exists()
    with Lock.take(path) as lock:
        assert lock.path == path


def test_a_lock_ends_with_its_process_however_that_ends(start: Start, path: Path) -> None:
    process = start("take", path)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert path.exists()
    with Lock.take(path) as lock:
        assert lock is not None
        assert Lock.take(path) is None
    assert not path.exists()


def test_a_file_that_somebody_left_is_no_lock(path: Path) -> None:
    path.write_text("whatever")
    with Lock.take(path) as lock:
        assert lock.note == "whatever"
    assert not path.exists()


def test_those_who_share_keep_out_who_wants_it_alone(start: Start, path: Path) -> None:
    first, second = start("join", path), start("join", path)
    assert Lock.take(path) is None
    end(first)
    assert path.exists()  # the other still has it
    assert Lock.take(path) is None
    end(second)
    assert not path.exists()


def test_sharing_waits_for_one_who_has_it_alone(start: Start, path: Path) -> None:
    process = start("take", path)
    waiting = start("join", path, wait=False)
    time.sleep(0.3)
    assert waiting.poll() is None
    end(process)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "True\n"  # on the file that was made anew
    assert Lock.take(path) is None


def test_the_first_lets_others_in(start: Start, path: Path) -> None:
    lock = Lock.take(path)
    assert lock is not None
    lock.write_note("what I do")
    waiting = start("join", path, wait=False)
    lock.share()
    assert lock.held
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "True\n"
    joined = Lock.join(path)
    assert joined.note == "what I do"
    joined.release()
    assert not lock.alone()
    end(waiting)
    with Lock.take(path) as again:
        assert again is not None
    lock.release()


def test_the_last_of_several_is_alone(path: Path) -> None:
    locks = [Lock.join(path) for _ in range(3)]
    assert [lock.alone() for lock in locks] == [False, False, True]
    assert locks[2].alone()  # once more changes nothing
    for lock in locks:
        lock.release()
    assert not path.exists()


def test_of_many_that_end_at_once_one_is_the_last(path: Path) -> None:
    for _ in range(50):
        locks = [Lock.join(path) for _ in range(4)]
        together = threading.Barrier(len(locks))
        found: list[bool] = []

        def try_it(lock: Lock) -> None:
            together.wait()  # noqa: B023
            found.append(lock.alone())  # noqa: B023

        threads = [threading.Thread(target=try_it, args=[lock]) for lock in locks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(found) == 1
        for lock in locks:
            lock.release()
    assert not path.exists()


def test_many_processes_take_turns(path: Path, tmp_path: Path) -> None:
    """Each adds one to a number many times; none may get lost."""
    number = tmp_path / "number"
    number.write_text("0")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.locks import Lock\n"
        "path, number = map(Path, sys.argv[1:])\n"
        "left = 40\n"
        "while left:\n"
        "    lock = Lock.take(path)\n"
        "    if lock is not None:\n"
        "        with lock:\n"
        "            number.write_text(str(int(number.read_text()) + 1))\n"
        "        left -= 1\n"
    )
    command = [sys.executable, "-c", script, str(path), str(number)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert number.read_text() == "120"
    assert not path.exists()


def test_a_lock_is_not_passed_on_to_child_processes(path: Path) -> None:
    with Lock.take(path) as lock:
        assert lock is not None
        child = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        again = Lock.take(path)
        assert again is not None
        again.release()
    finally:
        child.kill()
        child.wait()


def test_a_note_is_read_by_others_and_added_to(path: Path) -> None:
    first = Lock.join(path)
    second = Lock.join(path)
    first.write_note("one\n")
    second.write_note("two, Schäfchen\n")
    assert first.note == second.note == "one\ntwo, Schäfchen\n"
    second.write_note("new", anew=True)
    assert first.note == "new"
    first.release()
    second.release()


def test_no_lock_is_taken_through_a_link(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("of value")
    path.symlink_to(mine)
    with pytest.raises(WriteError, match=r"thing\.lock: cannot be written"):
        Lock.take(path)
    assert mine.read_text() == "of value"


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for take in (Lock.take, Lock.join):
        with pytest.raises(WriteError, match=r"file/thing\.lock: cannot be written \(Not a direc"):
            take(tmp_path / "file" / "thing.lock")


def open_files() -> list[str]:
    return sorted(path.name for path in Path("/dev/fd").iterdir())


def test_no_descriptor_is_left_open(path: Path) -> None:
    before = open_files()
    with Lock.take(path):
        assert Lock.take(path) is None
        with pytest.raises(BusyError), sole_writer(path.with_suffix("")):
            pass
    with Lock.join(path), Lock.join(path):
        pass
    assert open_files() == before


def test_one_writer_at_a_time(start: Start, tmp_path: Path) -> None:
    out = tmp_path / "new" / "head.safetensors"
    expected = r"head\.safetensors: another run is writing it; wait"
    with sole_writer(out), pytest.raises(BusyError, match=expected), sole_writer(out):
        pass
    assert list(out.parent.iterdir()) == []
    process = start("take", out.with_name("head.safetensors.lock"))
    with pytest.raises(BusyError), sole_writer(out):
        pass
    process.kill()
    process.wait(30)
    with sole_writer(out):
        pass
    assert list(out.parent.iterdir()) == []


def test_a_process_is_named_by_number_and_machine() -> None:
    assert signature().startswith(f"process {os.getpid()} on ")
