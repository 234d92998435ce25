"""Params files."""

from pathlib import Path

import yaml

from pipeline.params import Params, load_params

PACKAGES = "pipeline.params pipeline.yaml_file yaml"


def seeds() -> list[bytes]:
    """Give the defaults, the recipes and some YAML that is no mapping."""
    recipes = Path(__file__).parents[2] / "recipes"
    return [
        Params().model_dump_json().encode(),
        *(path.read_bytes() for path in sorted(recipes.glob("*.yaml"))),
        b"&a [*a, *a]",
        b"a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n",
        b"extract: {seed: 2024-13-45, batch_size: 0x_}\n<<: {name: a}\n",
        b"? {a: 1}\n: 2\n",
        b"fit_sparse: {options: {epochs: 1e-3}}\n",
    ]


def check(data: bytes, folder: Path) -> None:
    """Load a file; what is accepted survives being written and loaded again."""
    path = folder / "params.yaml"
    path.write_bytes(data)
    params = load_params(path)
    text = yaml.safe_dump(params.model_dump(mode="json"))
    path.write_text(text, encoding="utf-8")
    assert yaml.safe_dump(load_params(path).model_dump(mode="json")) == text
