"""Split files and lists of classes."""

from pathlib import Path

from pipeline.data.listings import parse_classes, parse_split, require_classes

PACKAGES = "pipeline.data"


def seeds() -> list[bytes]:
    """Give lists as people write them, rightly and wrongly."""
    return [
        b"2007_000032\n2007_000039\n",
        b"\xef\xbb\xbfa\r\nb \r\n\r\n\tc\r\n",
        "schäfchen\n../a\n/etc/passwd\na\\b\n..\na\na\n".encode(),
        b"# void: 255\nbackground\ncow\n",
        b"\xff\xfea\0\n\0",
        b"a b\0c\x1b[2J\x85d\xe2\x80\xa8e\n",
    ]


def check(data: bytes, folder: Path) -> None:
    """Parse a file as both kinds."""
    path = folder / "train.txt"
    path.write_bytes(data)
    ids, problems = parse_split(path)
    assert ids or problems
    assert len(set(ids)) == len(ids)
    for image_id in ids:
        assert (folder / image_id).parent == folder, image_id
        assert (folder / f"{image_id}.png").name == f"{image_id}.png"
        assert image_id == image_id.strip() and image_id not in ("", ".", "..")
        assert not set(image_id) & set("/\\\0\n\r")
        assert not (folder / f"{image_id}.png").exists()  # a name that a file can have
    assert not any("\n" in problem or "\r" in problem for problem in problems)
    names, void = parse_classes(path)
    require_classes(path, names, 255 if void is None else void)
