import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pipeline.cli import cli, main


def commands(group: click.Group = cli, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the words of every command."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name)


EVERY = list(commands())


def test_the_commands_are_those_of_the_contract() -> None:
    assert {" ".join(words) for words in EVERY} == {
        "data scenes",
        "data voc2012",
        "data check",
        "extract",
        "fit-sparse",
        "fit-dense",
        "evaluate",
        "fit-boxes",
        "evaluate-boxes",
        "report",
        "predict",
        "cache info",
        "cache verify",
        "cache repair",
        "cache gc",
    }


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_explains_and_gives_examples(
    words: tuple[str, ...], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, flag]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    usage, _, rest = captured.out.partition("\n")
    name = " ".join(["pipeline", *words])
    assert usage.startswith(f"Usage: {name} ")
    assert "Examples:\n" in rest
    assert f"  {name} " in rest.partition("Examples:\n")[2] + " "
    assert max(map(len, captured.out.splitlines())) <= 100


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_option_is_explained(words: tuple[str, ...]) -> None:
    command: click.Command | None = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), word)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{' '.join(words)} {parameter.opts[0]}"


def test_first_page_lists_the_commands_in_working_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    names = ["data", "extract", "fit-sparse", "fit-dense", "evaluate", "fit-boxes"]
    names += ["evaluate-boxes", "report", "predict", "cache"]
    listing = out.partition("Commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listing.splitlines()] == names
    assert "A first run" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("pipeline, version ")


def test_no_help_waits_for_torch() -> None:
    """Help is there at once: nothing heavy is imported for any of it."""
    pages = [["--help"], ["data", "--help"], ["cache", "--help"]]
    pages += [[*words, "--help"] for words in EVERY]
    script = (
        "import sys\n"
        "from pipeline.cli import main\n"
        f"codes = [main(page) for page in {pages!r}]\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'h5py', 'matplotlib', 'pydantic', 'numba'}\n"
        "sys.exit(f'{codes} {heavy & sys.modules.keys()}')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == f"{[0] * len(pages)} set()"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "Usage: pipeline [OPTIONS] COMMAND"),
        ("extrakt", "No such command 'extrakt'"),
        ("extract", "Missing option '--out'"),
        ("extract --out c --colour red", "No such option"),
        ("extract --out c --dtype float64", "'float64' is not one of 'float16'"),
        ("extract --out c --seed one", "'one' is not a valid int"),
        ("fit-sparse --cache c --out h --option hidden", "form NAME=VALUE"),
        ("fit-sparse --cache c --out h --option hidden=[3", "'hidden=[3' is not YAML"),
        ("fit-dense --cache c", "Missing option '--init'"),
        ("predict --head h --weights random --out m", "'IMAGE_OR_DIR...'"),
        ("report --cache c --out r --head h --metrics h=m", "'h' is not of the form NAME=PATH"),
        ("report --cache c --out r --head a=h --head a=i --metrics a=m", "'a' is given twice"),
        ("data scenes --images 2", "2 is not in the range x>=3"),
        ("cache info", "Missing argument 'CACHE'"),
    ],
)
def test_wrong_usage_exits_with_2(
    command: str, expected: str, capsys: pytest.CaptureFixture[str], empty_folder: Path
) -> None:
    assert main(command.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert list(empty_folder.iterdir()) == []
