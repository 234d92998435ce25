"""Names that come from data sets and from files of others, before they reach a path or a screen."""

import unicodedata

MAX_BYTES = 240
"""Longest name: 255 bytes are the most on every common file system, and suffixes need some."""

_CONTROL = ("Cc", "Cs", "Zl", "Zp")


def has_control_characters(text: str) -> bool:
    """Tell whether a text has characters that a name cannot have.

    Those are control characters, line and paragraph separators, byte order marks, and the
    surrogates that Python puts where the name of a file is not UTF-8.
    """
    if text.isascii():  # nearly every name is, and there may be a hundred thousand
        return not text.isprintable()
    return any(c == "\ufeff" or unicodedata.category(c) in _CONTROL for c in text)


def is_path(name: str) -> bool:
    """Tell whether a name would lead out of the folder or HDF5 group it is looked up in."""
    return name in ("", ".", "..") or "/" in name or "\\" in name


def is_plain(name: str) -> bool:
    """Tell whether a name leads nowhere else, can be shown, and is short enough for a file."""
    if is_path(name) or has_control_characters(name):
        return False
    return len(name.encode()) <= MAX_BYTES
