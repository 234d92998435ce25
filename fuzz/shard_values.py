"""Shards taken apart and put together again, with the digests that belong to what was changed."""

import json
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from fuzz.json_values import mutate_json, to_text
from pipeline.cache.layout import (
    BIAS,
    DEFLATED,
    KERNEL,
    PLAIN,
    VALUES,
    Extent,
    Form,
    Front,
    Row,
    header_digest,
    place_digest,
    unpack_rows,
)

_BESIDE = (0, 511, 512, 2**32, 2**63, 2**64 - 1)


@dataclass
class ShardParts:
    """What a shard is made of.

    Attributes
    ----------
    content : bytearray
        The file as it was, and what is added to it.
    identity, details : bytes
        JSON.
    rows : list of Row
    names : list of (str, str)
        Image and array that each row belongs to.
    """

    content: bytearray
    identity: bytes
    details: bytes
    rows: list[Row]
    names: list[tuple[str, str]]

    @classmethod
    def of(cls, content: bytes) -> "ShardParts":
        """Take a sound shard apart."""
        front = Front.unpack(content[:512])
        identity, details, table = (
            content[part.offset : part.offset + part.bytes]
            for part in (front.identity, front.details, front.table)
        )
        said = json.loads(identity)
        computed = "recompute_first" in said
        names = [tap["name"] for tap in said["taps"][computed:]]
        names += ["scales"] if said["dtype"] == "int8" and names else []
        names += ["label", "image", "label_original"]
        places = [(image_id, name) for image_id in json.loads(details)["images"] for name in names]
        places += [("", name) for name in (KERNEL, BIAS, VALUES) if computed]
        return cls(bytearray(content), identity, details, unpack_rows(table), places)

    def index(self, image_id: str, name: str) -> int:
        """Give the row of an array."""
        return self.names.index((image_id, name))

    def payload(self, number: int) -> bytes:
        """Give the bytes of an array, as they are stored."""
        row = self.rows[number]
        return bytes(self.content[row.offset : row.offset + Form.unpack(row.form).bytes])

    def add(self, part: bytes) -> Extent:
        """Put bytes at the end of the file."""
        self.content += bytes(-len(self.content) % 64)
        self.content += part
        return Extent(len(self.content) - len(part), len(part))

    def set(self, number: int, form: bytes, payload: bytes) -> None:
        """Replace an array, whatever its form says."""
        self.rows[number] = Row(self.add(payload).offset, form, b"")
        self.vouch(number, payload)

    def put(self, number: int, values: NDArray[Any], *, deflated: bool = False) -> None:
        """Replace an array."""
        payload = zlib.compress(values.tobytes()) if deflated else values.tobytes()
        form = Form(len(payload), values.shape, values.dtype, DEFLATED if deflated else PLAIN)
        self.set(number, form.pack(), payload)

    def vouch(self, number: int, payload: bytes, place: tuple[str, str] | None = None) -> None:
        """Give a row the digest that belongs to it."""
        row = self.rows[number]
        digest = place_digest(*(place or self.names[number]), row.form)
        digest.update(payload)
        self.rows[number] = row._replace(digest=digest.digest())

    def together(self, **front: Any) -> bytes:
        """Put the shard together, with other fields of the userblock if they are given."""
        identity, details = self.add(self.identity), self.add(self.details)
        table = self.add(b"".join(row.pack() for row in self.rows))
        digest = header_digest(self.identity, self.details)
        found = Front(identity, details, table, len(self.content), digest)
        return replace(found, **front).pack() + bytes(self.content[512:])


def of_version(content: bytes, version: int) -> bytes:
    """Have a shard say that it is of another version."""
    begin = content[:24] + version.to_bytes(4, "little") + content[28:496]
    return begin + xxhash.xxh3_128_digest(begin) + content[512:]


def of_later_identity(content: bytes, **fields: Any) -> bytes:
    """Have a shard's identity say more than this version knows, or something else."""
    parts = ShardParts.of(content)
    parts.identity = json.dumps(json.loads(parts.identity) | fields).encode()
    return parts.together()


def changed(content: bytes, chances: Sequence[random.Random]) -> bytes:
    """Change what a shard says of itself, an array, or where something lies, and sign that."""
    parts, front = ShardParts.of(content), {}
    for chance in chances:
        action = chance.randrange(10)
        number = chance.randrange(len(parts.rows)) if parts.rows else None
        if action < 2:
            parts.details = _other_json(parts.details, chance)
        elif action < 4:
            parts.identity = _other_json(parts.identity, chance)
        elif action == 4:
            field = chance.choice(("identity", "details", "table", "size"))
            places = (*_BESIDE, len(parts.content), chance.randrange(len(parts.content)))
            some = chance.choice(places)
            front[field] = some if field == "size" else Extent(some, chance.choice(places))
        elif number is not None:
            _change_row(parts, number, chance)
    return parts.together(**front)


def _other_json(text: bytes, chance: random.Random) -> bytes:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # an earlier change
        return text
    return to_text(mutate_json(value, chance)).encode(errors="replace")


def _change_row(parts: ShardParts, number: int, chance: random.Random) -> None:
    row, action = parts.rows[number], chance.randrange(7)
    if action == 0:
        offset = chance.choice((*_BESIDE, len(parts.content), row.offset + 1, row.offset - 1))
        parts.rows[number] = row._replace(offset=max(offset, 0))
    elif action == 1:
        parts.rows[number], other = parts.rows[chance.randrange(len(parts.rows))], row
        parts.rows[chance.randrange(len(parts.rows))] = other
    elif action == 2:
        del parts.rows[number]
    elif action == 3:
        form = bytearray(row.form)
        form[chance.randrange(len(form))] = chance.choice((0, 1, 2, 127, 255))
        parts.set(number, bytes(form), b"\0" * 64)
    elif action == 4:
        shape = chance.choice(((10**4, 10**4), (3, 10**4, 10**4), (2**32 - 1,) * 3, (1, 1)))
        zeros = zlib.compress(bytes(1 << chance.choice((4, 16, 22))))
        form = Form(len(zeros), shape, np.dtype("u1"), DEFLATED)
        parts.set(number, form.pack(), zeros)
    else:
        array = _values(row, number, parts)
        parts.put(number, _other_values(array, chance), deflated=chance.random() < 0.3)


def _values(row: Row, number: int, parts: ShardParts) -> NDArray[Any]:
    """Give the values of an array, or others if it was changed before."""
    try:
        form = Form.unpack(row.form)
        payload = parts.payload(number)
        payload = zlib.decompress(payload) if form.filter == DEFLATED else payload
        return np.frombuffer(payload, form.dtype).reshape(form.shape)
    except (ValueError, zlib.error):
        return np.zeros((2, 2), np.uint8)


def _other_values(array: NDArray[Any], chance: random.Random) -> NDArray[Any]:
    changes = (
        lambda: array[:1],
        lambda: array[:0],
        lambda: array.T,
        lambda: array.ravel(),
        lambda: array.astype(chance.choice(("f2", "f4", "i1", "u1"))),
        lambda: array * 0 - 1,
        lambda: array * np.array(np.nan).astype(array.dtype),
        lambda: np.full_like(array, chance.choice((7, 127))),
    )
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(chance.choice(changes)())
