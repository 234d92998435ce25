"""The text files of a data set: which images are in a split, and what the classes are called."""

import re
from pathlib import Path

from pipeline.data.files import read_lines
from pipeline.errors import DataError
from pipeline.names import MAX_BYTES, has_control_characters, is_path


def parse_split(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read a split file: one image id per line, blank lines and surrounding blanks ignored.

    Parameters
    ----------
    path
        Text file in UTF-8, with any line ends.

    Returns
    -------
    ids : tuple of str
        The ids, in the order of the file, without duplicates. Each is a bare name: joined to a
        folder it stays in there.
    problems : tuple of str
        What is wrong with the other lines, or with the file as a whole.
    """
    try:
        lines = read_lines(path)
    except DataError as error:
        return (), (str(error).removeprefix(f"{path} "),)
    first_line: dict[str, int] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        # strip() takes some control characters for blanks, so they are looked for before it.
        bare, image_id = line.strip(" \t"), line.strip()
        if not image_id:
            continue
        shown = repr(bare if len(bare) <= 80 else f"{bare[:77]}...")
        if is_path(image_id):
            problems.append(f"line {number}: {shown} is a path: write the bare image id")
        elif has_control_characters(bare):
            problems.append(f"line {number}: {shown} has control characters: type it anew")
        elif len(image_id.encode()) > MAX_BYTES:
            problems.append(
                f"line {number}: {shown} is longer than the name of a file can be:"
                " write one image id per line"
            )
        elif image_id in first_line:
            problems.append(
                f"line {number}: {shown} is listed in line {first_line[image_id]} already:"
                " remove one of them"
            )
        else:
            first_line[image_id] = number
    if not first_line and not problems:
        problems.append("lists no image: write one image id per line")
    return tuple(first_line), tuple(problems)


def parse_classes(path: Path) -> tuple[tuple[str, ...], int | None]:
    """Read class names, and the void label if a comment names it, from ``classes.txt``.

    Raises
    ------
    DataError
        If it cannot be read, or a line is neither a name nor a comment.
    """
    lines = read_lines(path)
    while lines and not lines[-1].strip():
        lines.pop()
    names = []
    void = None
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line:
            raise DataError(
                f"{path} line {number} is blank: name a class there, or remove the line"
            )
        if not line.startswith("#"):
            names.append(line)
            continue
        key, _, value = line.removeprefix("#").partition(":")
        if key.strip() == "void":
            if not re.fullmatch(r"\d{1,9}", value.strip(), re.ASCII):
                raise DataError(f"{path} line {number}: void is a number, such as '# void: 255'")
            void = int(value.strip())
    return tuple(names), void


def require_classes(source: Path, classes: tuple[str, ...], void: int) -> None:
    """Raise DataError unless the names are distinct and they and void fit 8-bit labels."""
    if not 0 <= void <= 255:
        raise DataError(f"{source}: void is {void}: choose a label from 0 to 255")
    if not 1 <= len(classes) <= 256:
        raise DataError(f"{source}: {len(classes)} classes: name between 1 and 256")
    if not all(classes) or len(set(classes)) < len(classes):
        raise DataError(f"{source}: class names repeat or are empty: give each class its own name")
    if strange := [name for name in classes if has_control_characters(name)]:
        raise DataError(
            f"{source}: the class name {strange[0][:80]!r} has control characters: type it anew"
        )
