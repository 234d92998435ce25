"""What holds for every image size, split file, params file and head, tried on many of each."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pipeline import Preprocessing, VocDataset
from pipeline.backbones.preprocessing import MAX_PIXELS, MAX_SIDE
from pipeline.data import read_image, read_mask, read_note, write_mask, write_overlay
from pipeline.data.listings import parse_split
from pipeline.errors import BackboneError, DataError, HeadError, ParamsError
from pipeline.heads import FORMAT, HeadInfo, load_head
from pipeline.params import Params, load_params
from pipeline.tensorfile import write_tensors


def tried(examples: int) -> settings:
    """Try as many examples, the same ones every time."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def assert_one_line(error: Exception, path: Path) -> None:
    message = str(error)
    assert message.startswith(str(path))
    assert not set(message) & set("\n\r")
    assert len(message) < 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that all examples write to."""
    return tmp_path_factory.mktemp("properties")


# Image sizes

LENGTHS = st.integers(1, 10**6)
INPUT_SIZES = st.one_of(
    st.just("native"),
    st.integers(1, MAX_SIDE).map(str),
    st.integers(1, MAX_SIDE).map("short:{}".format),
)
SMALL = st.one_of(st.integers(1, 40), st.integers(1, 9).map(lambda n: 2 * n + 1))
# Up to 1 x 2000 and 2000 x 1.
SHAPES = st.one_of(
    st.tuples(SMALL, SMALL),
    st.tuples(st.integers(1, 3), st.integers(1, 2000)),
    st.tuples(st.integers(1, 2000), st.integers(1, 3)),
)
MASKS = SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape, elements=st.integers(0, 255)))


@tried(300)
@given(height=LENGTHS, width=LENGTHS, input_size=INPUT_SIZES)
@example(height=1, width=1, input_size="short:10000")
@example(height=1, width=10**6, input_size="short:101")
def test_the_input_size_is_met_and_the_aspect_kept(
    height: int, width: int, input_size: str
) -> None:
    preprocessing = Preprocessing(input_size=input_size)
    try:
        target = preprocessing.target_size(height, width)
    except BackboneError as error:
        side = int(input_size.rpartition(":")[2].replace("native", "0"))
        assert max(height * width, side**2 * max(height, width) / min(height, width)) > (
            0.99 * MAX_PIXELS
        )
        assert "\n" not in str(error)
        return
    assert target[0] * target[1] <= MAX_PIXELS
    assert min(target) >= 1
    if input_size == "native":
        assert target == (height, width)
    elif input_size.startswith("short:"):
        side = int(input_size.removeprefix("short:"))
        assert min(target) == side
        assert math.isclose(
            max(target), max(height, width) * side / min(height, width), abs_tol=0.5
        )
        assert (target[0] >= target[1]) == (height >= width) or height == width
    else:
        assert target == (int(input_size),) * 2


@tried(150)
@given(mask=MASKS, side=st.integers(1, 60), kind=st.sampled_from(["", "short:", "native"]))
def test_image_and_mask_are_resized_alike(mask: Any, side: int, kind: str) -> None:
    if kind == "short:":
        side = min(side, max(1, 60_000 * min(mask.shape) // max(mask.shape)))
    preprocessing = Preprocessing(input_size=kind if kind == "native" else f"{kind}{side}")
    target = preprocessing.target_size(*mask.shape)
    image = np.repeat(mask[..., None], 3, axis=2)
    resized, labels = preprocessing.resize_image(image), preprocessing.resize_mask(mask)
    assert resized.shape == (*target, 3)
    assert labels.shape == target
    assert resized.dtype == labels.dtype == np.uint8
    assert resized.min() >= image.min() and resized.max() <= image.max()
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(target, mask.shape, strict=True)
    )
    np.testing.assert_array_equal(labels, mask[np.ix_(rows, columns)])
    if target == mask.shape:
        np.testing.assert_array_equal(resized, image)
    normalized = preprocessing.normalize(resized)
    assert normalized.shape == (3, *target)
    assert np.isfinite(normalized).all()


@tried(150)
@given(mask=MASKS, note=st.text(st.characters(codec="latin-1", exclude_characters="\0")))
def test_a_mask_that_is_written_is_read(folder: Path, mask: Any, note: str) -> None:
    path = folder / "mask.png"
    write_mask(path, mask, note=note)
    np.testing.assert_array_equal(read_mask(path), mask)
    assert read_note(path) == note
    write_overlay(path, np.repeat(mask[..., None], 3, axis=2), mask, note=note)
    assert read_image(path).shape == (*mask.shape, 3)
    with pytest.raises(DataError, match="not an index mask"):
        read_mask(path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VocDataset:
    """Give a data set of three classes without images."""
    root = tmp_path_factory.mktemp("sizes") / "set"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    return VocDataset.open(root, classes=("ground", "cow", "sheep"))


@tried(150)
@given(
    mask=st.one_of(
        MASKS,
        SHAPES.flatmap(
            lambda shape: hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))
        ),
    ),
    shape=st.none() | SHAPES,
    suffix=st.sampled_from([".png", ".jpg"]),
)
def test_a_mask_is_given_only_where_it_fits(
    dataset: VocDataset, mask: Any, shape: tuple[int, int] | None, suffix: str
) -> None:
    images = dataset.root / "JPEGImages"
    for other in images.iterdir():
        other.unlink()
    colours = np.zeros((*(shape or mask.shape), 3), np.uint8)
    Image.fromarray(colours).save(images / f"a{suffix}")
    path = dataset.root / "SegmentationClass" / "a.png"
    write_mask(path, mask)
    assert dataset.read_image("a").shape == colours.shape
    labels = set(np.unique(mask).tolist())
    if colours.shape[:2] == mask.shape and labels <= {0, 1, 2, 255} and labels != {255}:
        np.testing.assert_array_equal(dataset.read_mask("a"), mask)
        return
    with pytest.raises(DataError) as caught:
        dataset.read_mask("a")
    assert_one_line(caught.value, path)


# Split files

LINES = st.one_of(
    st.text(max_size=12),
    st.text("ab.-_/\\ \t\0\x1b\x85\u2028\ufeff", max_size=6),
    st.sampled_from(["", " ", ".", "..", "../a", "/a", "a\\b", "a", "b", "CON", "~", "x" * 300]),
)


@tried(250)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(LINES, max_size=8).map("\n".join).map(lambda s: s.encode("utf-8", "replace")),
        st.lists(LINES, max_size=8).map("\r\n".join).map(lambda s: s.encode("utf-16")),
    )
)
def test_a_split_file_never_leads_out_of_a_folder(folder: Path, content: bytes) -> None:
    path = folder / "train.txt"
    path.write_bytes(content)
    ids, problems = parse_split(path)
    assert ids or problems
    assert len(set(ids)) == len(ids)
    for image_id in ids:
        file = folder / f"{image_id}.png"
        assert file.parent == folder and file.name == f"{image_id}.png"
        assert (folder / image_id).resolve().parent == folder.resolve()
        assert image_id.isprintable() or " " in image_id.replace("\xa0", " ") or image_id.split()
        assert not set(image_id) & set("/\\\0\n\r\x1b")
        file.touch()  # it is a name that a file can have
        file.unlink()
    assert not any(set(problem) & set("\n\r\x1b") for problem in problems)


@tried(200)
@given(names=st.lists(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1)))
def test_every_line_of_a_split_file_is_an_id_or_a_problem(folder: Path, names: list[str]) -> None:
    path = folder / "train.txt"
    path.write_text("\n".join(names), encoding="utf-8", newline="")
    ids, problems = parse_split(path)
    assert len(ids) + len(problems) == max(len(names), 1)
    assert set(ids) <= set(names)


# Params

SECTIONS = {name: field.annotation for name, field in Params.model_fields.items()}
KEYS = sorted({k for s in SECTIONS.values() for k in getattr(s, "model_fields", {})} | {*SECTIONS})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 300),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["vgg11", "1e-3", "train", "val", "224", "short:320", "int8", "half_pixel"]),
    st.dates(),
    st.binary(max_size=4),
)
KEY = st.one_of(st.sampled_from(KEYS), st.text(max_size=8), st.integers(), st.none())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=12,
)
MAPPINGS = st.one_of(
    st.dictionaries(KEY, VALUES, max_size=4),
    st.dictionaries(st.sampled_from([*SECTIONS]), VALUES, max_size=3),
    st.dictionaries(
        st.sampled_from([*SECTIONS]),
        st.dictionaries(st.sampled_from(KEYS), SCALARS, max_size=3),
        max_size=3,
    ),
)


def assert_kept(params: Params, path: Path) -> None:
    """Write params and load them again."""
    path.write_text(yaml.safe_dump(params.model_dump(mode="json")), encoding="utf-8")
    assert load_params(path) == params


@tried(200)
@given(content=MAPPINGS)
@example(content={"extract": {"a\nb": 1}})
@example(content={"name": "a\n"})
@example(content={"fit_sparse": {"options": {"a" * 5000: "b"}}, "x" * 5000: 1})
def test_params_are_loaded_or_refused_in_a_line(folder: Path, content: dict[Any, Any]) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try:
        params = load_params(path)
    except ParamsError as error:
        assert_one_line(error, path)
    else:
        assert_kept(params, path)


@tried(150)
@given(
    section=st.sampled_from(sorted(SECTIONS.keys() - {"name"})),
    key=st.text("abcxyz_", min_size=1, max_size=12),
)
def test_an_unknown_key_is_named(folder: Path, section: str, key: str) -> None:
    path = folder / "params.yaml"
    known = getattr(SECTIONS[section], "model_fields", {})
    path.write_text(yaml.safe_dump({section: {key: 1}}), encoding="utf-8")
    if key not in known:
        with pytest.raises(ParamsError, match=f"{section}.{key}: unknown key"):
            load_params(path)


@tried(150)
@given(text=st.one_of(st.text(max_size=40), st.text("&*!{}[]:,-?|>'\"#%@` \nab01<", max_size=40)))
@example(text="&a [*a]")
@example(text="a: !!python/object/apply:os.system [ls]")
@example(text="a: 2024-99-99")
@example(text="[" * 400)
@example(text="? [a]\n: 1")
@example(text="\ud800")
def test_any_text_is_params_or_refused_in_a_line(folder: Path, text: str) -> None:
    path = folder / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_params(path)
    except ParamsError as error:
        assert_one_line(error, path)


@tried(150)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,20}", fullmatch=True),
            "data": st.fixed_dictionaries(
                {},
                optional={
                    "root": st.text(),
                    "void": st.none() | st.integers(0, 255),
                    "classes": st.none() | st.lists(st.text(), min_size=1),
                },
            ),
            "extract": st.fixed_dictionaries(
                {},
                optional={
                    "backbone": st.none() | st.text(),
                    "splits": st.lists(st.text(), min_size=1, unique=True),
                    "input_size": st.text(),
                    "dtype": st.sampled_from(["float16", "float32", "int8"]),
                    "images_per_shard": st.integers(1, 10**9),
                    "seed": st.integers(0, 2**32 - 1),
                },
            ),
            "fit_sparse": st.fixed_dictionaries(
                {},
                optional={
                    "holdout": st.floats(0, 1, exclude_max=True),
                    "options": st.dictionaries(
                        st.text(), st.none() | st.booleans() | st.text() | st.floats(-1e9, 1e9)
                    ),
                },
            ),
        },
    )
)
def test_what_is_allowed_is_loaded_and_kept(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(changes), encoding="utf-8")
    assert_kept(load_params(path), path)


# Heads

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("label", "label_original", "image")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
TAPS = st.lists(
    st.fixed_dictionaries(
        {
            "name": NAMES,
            "modules": st.lists(st.text(), min_size=1, max_size=2),
            "channels": st.integers(1, 10**6),
            "stride": st.integers(0, 64),
        }
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda tap: tap["name"],
)
INFOS = TAPS.flatmap(
    lambda taps: st.fixed_dictionaries(
        {
            "stage": st.sampled_from(["sparse", "dense"]),
            "estimator": st.text(),
            "identity": st.fixed_dictionaries(
                {
                    "backbone": st.text(),
                    "weights": st.text(),
                    "taps": st.just(taps),
                    "preprocessing": st.dictionaries(st.text(), JSON, max_size=2),
                    "geometry": st.sampled_from(["half_pixel", "align_corners"]),
                    "dtype": st.sampled_from(["float16", "float32", "int8"]),
                    "classes": st.lists(st.text(), min_size=1, max_size=5),
                    "void": st.integers(0, 255),
                }
            ),
            "features": st.fixed_dictionaries(
                {
                    "activation": st.sampled_from(["relu", "none"]),
                    "context": st.lists(
                        st.sampled_from(["global", "1", "99999", f"{taps[0]['name']}:3"]),
                        max_size=3,
                    ),
                    "taps": st.lists(
                        st.sampled_from([tap["name"] for tap in taps]), max_size=3
                    ).map(lambda used: [*used, taps[0]["name"]] if used else used),
                }
            ),
        },
        optional={
            "settings": st.dictionaries(st.text(), JSON, max_size=2),
            "held_out": st.lists(st.text()),
            "selected_on": st.none() | st.text(),
            "software": st.dictionaries(st.text(), st.text(), max_size=2),
        },
    )
)


@tried(100)
@given(fields=INFOS)
def test_what_a_head_knows_of_itself_is_kept(fields: dict[str, Any]) -> None:
    info = HeadInfo.model_validate(fields)
    again = HeadInfo.model_validate_json(info.model_dump_json())
    assert again == info
    assert again.identity.fingerprint == info.identity.fingerprint
    assert len(info.channels) == len(info.features.taps or info.identity.taps) + len(
        info.features.context
    )


def place_of(fields: Any, draw: Any) -> tuple[Any, Any]:
    """Choose a place in nested mappings and lists."""
    holder = fields
    while True:
        key = draw(
            st.sampled_from(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        )
        if not (isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans())):
            return holder, key
        holder = holder[key]


@st.composite
def spoilt_infos(draw: Any) -> str:
    """Give the JSON of a head with one value replaced by another, or left out."""
    fields = json.loads(json.dumps(draw(INFOS)))
    holder, key = place_of(fields, draw)
    if draw(st.booleans()):
        holder[key] = draw(JSON)
    else:
        del holder[key]
    return json.dumps(fields)


@tried(150)
@given(text=st.one_of(spoilt_infos(), JSON.map(json.dumps), st.text(max_size=20)))
@example(text="[" * 100_000)
@example(text='{"stage": ' + "9" * 5000 + "}")
def test_any_json_in_place_of_a_head_is_refused_or_valid(folder: Path, text: str) -> None:
    path = folder / "head.safetensors"
    tensors = {"conv0.weight": torch.zeros(1, 1, 1, 1), "conv0.bias": torch.zeros(1)}
    write_tensors(path, tensors, {"head": text}, kind=FORMAT)
    try:
        head = load_head(path)
    except HeadError as error:
        assert_one_line(error, path)
    else:
        assert head.info == HeadInfo.model_validate_json(text)
        assert head.info.channels == [1]
