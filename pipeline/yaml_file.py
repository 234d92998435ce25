"""Reading a file of YAML that may be anything: plain values, in little time and memory."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.data.files import require_file
from pipeline.errors import DataError, ParamsError

_MAX_BYTES = 2**20
_MAX_NODES = 10_000


def read_yaml(path: Path) -> Any:
    """Read what a file says.

    Raises
    ------
    ParamsError
        If it is missing, is not YAML, gives a key twice, or holds more than params can need.
    """
    if not os.path.lexists(path):
        raise ParamsError(f"{path}: no such file; name another with --params")
    try:
        require_file(path, max_bytes=_MAX_BYTES)
    except DataError as error:
        raise ParamsError(str(error)) from error
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    # PyYAML leaves it to Python to refuse a value such as the date 2024-99-99, or [[[[... .
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(
            f"{path}: not readable as YAML ({reason[:200]}); correct it, as recipes/scenes.yaml is"
        ) from error


class _Loader(yaml.SafeLoader):
    """Plain YAML, without keys that are given twice and without aliases that grow beyond bounds."""

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > _MAX_NODES:
            raise yaml.YAMLError(f"more than {_MAX_NODES} values, aliases counted")
        return self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen and key != "<<":
                raise yaml.YAMLError(f"the key {key!r} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """Count the values of a node, an alias as often as it is used; a node in itself is infinite."""
    if node not in known:
        known[node] = float("inf")
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[node] = 1 + sum(_size(part, known) for part in parts)
    return known[node]
