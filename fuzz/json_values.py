"""Changes to JSON values that keep them JSON."""

import copy
import json
import random
from typing import Any

DEEP = "a value nested too deeply for a parser"
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    2**31,
    2**63,
    2**64,
    10**30,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "a",
    "..",
    "../a",
    "/a",
    "a\nb",
    "a\0b",
    "\x1b[2J",
    "<b>",
    "é\u202e",
    "a" * 300,
    "global",
    "native",
    "align_corners",
    "int8",
    [],
    [0],
    [[]],
    {},
    {"a": 1},
    DEEP,
)


def mutate_json(value: Any, chance: random.Random) -> Any:
    """Change one place of a JSON value, or a few."""
    changed = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        changed = _change(changed, chance)
    return changed


def to_text(value: Any) -> str:
    """Write JSON; :data:`DEEP` becomes what it says."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace(json.dumps(DEEP), "[" * 5000 + "]" * 5000)


def _change(value: Any, chance: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return copy.deepcopy(chance.choice(_VALUES))
    holder, key = chance.choice(places)
    action = chance.randrange(7)
    if action == 0:
        del holder[key]
    elif action == 1:
        other, other_key = chance.choice(places)
        holder[key] = copy.deepcopy(other[other_key])
    elif action == 2 and isinstance(holder, dict):
        holder[chance.choice(("a", "", "__id__", "../a", *map(str, holder)))] = holder[key]
    elif action == 2:
        holder.extend([copy.deepcopy(holder[key])] * chance.choice((1, 1, 300)))
    elif action == 3 and isinstance(holder[key], int | float):
        holder[key] += chance.choice((-1, 1, 0.5, 256, -holder[key], holder[key]))
    elif action == 3 and isinstance(holder[key], str):
        holder[key] = holder[key][: chance.randrange(len(holder[key]) + 1)] + chance.choice(
            ("", "a", "\n", "/", "é")
        )
    elif action == 4:
        holder[key] = chance.choice(([holder[key]], {"a": holder[key]}, str(holder[key])))
    else:
        holder[key] = copy.deepcopy(chance.choice(_VALUES))
    return value


def _places(value: Any) -> Any:
    """Give every (holder, key) in a value."""
    pending = [value] if isinstance(value, dict | list) else []
    while pending:
        holder = pending.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], dict | list):
                pending.append(holder[key])
