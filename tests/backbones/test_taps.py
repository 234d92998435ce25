"""How taps are spelled."""

import subprocess
import sys

import pytest

from pipeline.backbones import NAMED_TAPS, Tap, parse_tap, parse_taps
from pipeline.errors import BackboneError


@pytest.mark.parametrize(
    ("spelling", "name", "modules"),
    [
        ("features.3", "features.3", ("features.3",)),
        ("a.b+a.c", "a.b+a.c", ("a.b", "a.c")),
        ("fire2=features.3", "fire2", ("features.3",)),
        (" both = a + b ", "both", ("a", "b")),
        ("block4-0.f", "block4-0.f", ("block4-0.f",)),
    ],
)
def test_spellings(spelling, name, modules):
    assert parse_tap(spelling) == Tap(name, modules)


@pytest.mark.parametrize("spelling", ["", "=", "a=", "=a", "a+", "+a", "a/b", "x/y=a", ".a", "é=a"])
def test_spellings_that_are_refused(spelling):
    with pytest.raises(BackboneError):
        parse_tap(spelling)


def test_the_masks_name_is_refused():
    with pytest.raises(BackboneError, match="label"):
        parse_tap("label=features.0")


def test_no_spellings_mean_the_named_taps():
    assert parse_taps("vgg11", None) == NAMED_TAPS["vgg11"]
    assert [tap.modules for tap in parse_taps("alexnet", None)] == [
        ("features.5",),
        ("features.8",),
        ("classifier.4",),
    ]


def test_a_named_tap_can_be_asked_for_beside_others():
    assert parse_taps("squeezenet1_0", ["fire9", "features.5"]) == (
        Tap("fire9", ("features.12",)),
        Tap("features.5", ("features.5",)),
    )


def test_a_backbone_without_named_taps_needs_spellings():
    with pytest.raises(BackboneError, match="resnet50 has no default taps"):
        parse_taps("resnet50", None)


def test_empty_and_doubled_taps_are_refused():
    with pytest.raises(BackboneError, match="no taps"):
        parse_taps("vgg11", [])
    with pytest.raises(BackboneError, match="'a' is given twice"):
        parse_taps("vgg11", ["a=features.0", "a=features.3"])


def test_reading_a_configuration_does_not_import_torch():
    program = (
        "import sys, pipeline.backbones as b; b.Preprocessing(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
