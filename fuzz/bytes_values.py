"""Changes to plain bytes, for formats whose checksums a target renews."""

import random


def flip(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, or cut out or repeat a run of them."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(changed) + 1)
        run = chance.choice((1, 2, 4, 8, 64))
        action = chance.randrange(5)
        if action == 0:
            del changed[at : at + run]
        elif action == 1:
            changed[at:at] = changed[at : at + run] * chance.choice((1, 16))
        elif action == 2:
            changed[at : at + run] = bytes([chance.choice((0, 1, 127, 255))]) * run
        elif at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
    return bytes(changed)
