"""Estimators inside heads, as skops writes them: the archive, its JSON and its arrays."""

import json
import random
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import skops.io  # noqa: F401 - imported here, its branches guide the search
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fuzz.bytes_values import flip
from fuzz.json_values import mutate_json, to_text
from fuzz.targets.heads import info_for, use
from pipeline.classifiers import dump_estimator, load_estimator
from pipeline.heads import Head

PACKAGES = "pipeline.classifiers pipeline.heads skops"

_SCHEMA = "schema.json"


def seeds() -> list[bytes]:
    """Give fitted estimators of 9 features and four classes."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 9)), np.arange(40) % 4
    kinds: tuple[Any, ...] = (
        GaussianNB(),
        RandomForestClassifier(1, max_depth=2, random_state=0),
        HistGradientBoostingClassifier(max_iter=1, max_depth=2),
        make_pipeline(StandardScaler(), SGDClassifier(max_iter=2, tol=None)),
    )
    return [dump_estimator(kind.fit(X, y)) for kind in kinds]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Change the JSON, an array's header or its numbers, or pack the archive otherwise."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(parts[_SCHEMA])
    if chance.random() < 0.6:
        parts[_SCHEMA] = to_text(mutate_json(schema, chance)).encode(errors="replace")
    else:
        name = chance.choice(list(parts))
        parts[name] = chance.choice((flip, _other_array))(parts[name], chance)
    packing = zipfile.ZIP_DEFLATED if chance.random() < 0.1 else zipfile.ZIP_STORED
    file = BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return file.getvalue()


def _other_array(data: bytes, chance: random.Random) -> bytes:
    old, new = chance.choice(
        (
            (b"'shape': (", b"'shape': (2, "),
            (b"'shape': (", b"'shape': (9999999999, "),
            (b"'<f8'", b"'<i8'"),
            (b"'<f8'", b"'|O'"),
            (b"'<f8'", b"'<f4'"),
            (b"False", b"True"),
        )
    )
    return data.replace(old, new)


def check(data: bytes, folder: Path) -> None:
    """Load an estimator and predict with it."""
    use(Head(info_for(), estimator=load_estimator(data)))
