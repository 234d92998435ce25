"""The identity of a cache: every field counts, and a difference is named."""

import json

import pytest
from pydantic import ValidationError

from pipeline.identity import ConvolutionIdentity, Identity, TapIdentity


def tap(name="shallow", modules=("a.0",), channels=3, stride=1):
    return TapIdentity(name=name, modules=modules, channels=channels, stride=stride)


FIRST = ConvolutionIdentity(kernel=(3, 3), stride=(1, 1), padding=(1, 1))
CHANGES = [
    ("backbone", "vgg11"),
    ("weights", "4567"),
    ("taps", (tap(),)),
    ("taps", (tap(), tap("deep", ("b.0", "b.1"), 4, 8))),
    ("taps", (tap(), tap("deep", ("b.1", "b.0"), 4, 4))),
    ("taps", (tap(), tap("deep", ("b.0", "b.1"), 5, 4))),
    ("taps", (tap("deep", ("b.0", "b.1"), 4, 4), tap())),
    ("preprocessing", {"normalization": "imagenet", "input_size": "native"}),
    ("preprocessing", {"normalization": "raw", "input_size": "224"}),
    ("geometry", "align_corners"),
    ("dtype", "int8"),
    ("compute", "bfloat16"),
    ("classes", ("ground", "cow")),
    ("classes", ("cow", "ground", "Schäfchen")),
    ("void", 254),
    ("recompute_first", FIRST),
]


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_every_field_changes_the_fingerprint_and_is_named(make_identity, field, value):
    one, other = make_identity(), make_identity(**{field: value})
    assert one.fingerprint != other.fingerprint
    (difference,) = one.differences(other)
    assert difference.startswith(f"{field}: ")
    mine, theirs = difference.removeprefix(f"{field}: ").split(", not ")
    assert mine != theirs


def test_the_table_above_covers_every_field():
    assert {field for field, _ in CHANGES} == set(Identity.model_fields)


def test_differences_say_what_is_and_what_is_not(make_identity):
    one, other = make_identity(), make_identity(dtype="int8", void=0)
    assert one.differences(other) == ["dtype: float32, not int8", "void: 255, not 0"]
    assert one.differences(make_identity()) == []


def test_what_is_recomputed_is_named_briefly(make_identity):
    one, other = make_identity(recompute_first=FIRST), make_identity()
    assert one.differences(other) == ["recompute_first: true, not false"]
    assert other.differences(one) == ["recompute_first: false, not true"]
    assert one.differences(one) == []
    wider = FIRST.model_copy(update={"stride": (2, 2)})
    (difference,) = one.differences(make_identity(recompute_first=wider))
    assert difference.startswith("recompute_first: ")
    again = Identity.model_validate_json(one.model_dump_json())
    assert (again, again.fingerprint) == (one, one.fingerprint)


def test_caches_from_before_there_was_recompute_first_keep_their_fingerprints(make_identity):
    one = make_identity()
    assert "recompute_first" not in one.model_dump_json()
    assert one.fingerprint == "abcbdf72fa4ac2370867801967ffaab7"


def test_taps_are_named_briefly(make_identity):
    (difference,) = make_identity().differences(make_identity(taps=(tap(),)))
    assert difference == 'taps: ["shallow", "deep"], not ["shallow"]'


def test_long_values_are_shown_where_they_part(make_identity):
    names = tuple(f"class {i}" for i in range(50))
    one, other = (make_identity(classes=(*names, name)) for name in ("cow", "Schäfchen"))
    (difference,) = one.differences(other)
    assert '"cow"' in difference
    assert '"Schäfchen"' in difference
    assert len(difference) < 200
    (difference,) = one.differences(make_identity())
    assert len(difference) < 200


def test_the_fingerprint_survives_json_and_the_order_of_keys(make_identity):
    one = make_identity()
    fields = json.loads(one.model_dump_json())
    fields["preprocessing"] = dict(reversed(fields["preprocessing"].items()))
    again = Identity.model_validate(dict(reversed(fields.items())))
    assert again == one
    assert again.fingerprint == one.fingerprint
    assert len(one.fingerprint) == 32


def test_a_field_too_many_is_refused(make_identity):
    with pytest.raises(ValidationError):
        Identity(**make_identity().model_dump(), batch_size=4)
