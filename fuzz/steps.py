"""Files made from a list of changes to a sound one.

A file whose bytes are changed at random stops at its first digest, so an input of the fuzzer is no
such file but says how to make one: a byte that chooses a sound file, then six bytes for each
change. Changes of the structure come first and are signed; changes of single bytes last.
"""

import random
from collections.abc import Callable, Sequence

_STEP = 6
_BYTE = 0xF0
_MOST_STEPS = 12


def made(
    data: bytes,
    sound: Sequence[bytes],
    change: Callable[[bytes, Sequence[random.Random]], bytes],
) -> bytes:
    """Make the file that an input stands for.

    Parameters
    ----------
    data : bytes
        The input.
    sound : sequence of bytes
        Files to begin with.
    change : callable
        Changes the structure of a file, once for every source of chance.
    """
    content = sound[data[0] % len(sound)] if data else sound[0]
    steps = [data[at : at + _STEP] for at in range(1, len(data) - _STEP + 1, _STEP)][:_MOST_STEPS]
    if structure := [random.Random(step) for step in steps if step[0] < _BYTE]:
        content = change(content, structure)
    flipped = bytearray(content)
    for step in steps:
        if step[0] >= _BYTE:
            flipped[int.from_bytes(step[1:5], "little") % len(flipped)] ^= step[5]
    return bytes(flipped)


def other_steps(data: bytes, chance: random.Random) -> bytes:
    """Change an input."""
    steps = [data[at : at + _STEP] for at in range(1, len(data) - _STEP + 1, _STEP)]
    first = data[:1] if chance.random() < 0.8 else chance.randbytes(1)
    at, action = chance.randrange(len(steps) + 1), chance.randrange(4)
    fresh = chance.randbytes(_STEP)
    if chance.random() < 0.9:
        fresh = bytes([fresh[0] % _BYTE]) + fresh[1:]
    if action == 0:
        del steps[at : at + 1]
    elif action == 1:
        steps[at : at + 1] = [fresh]
    else:
        steps.insert(at, fresh)
    return (first or b"\0") + b"".join(steps[:_MOST_STEPS])
