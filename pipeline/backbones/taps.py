"""Taps: which layers of a backbone are kept, and how a user spells them.

The taps that come with a name (see :data:`NAMED_TAPS`):

=============  =======  =============  ========
backbone       tap      module         channels
=============  =======  =============  ========
vgg11          conv1_1  features.0     64
vgg11          conv2_1  features.3     128
vgg11          conv3_2  features.8     256
vgg11          conv4_2  features.13    512
vgg11          conv5_2  features.18    512
squeezenet1_0  conv1    features.0     96
squeezenet1_0  fire2    features.3     128
squeezenet1_0  fire3    features.4     128
squeezenet1_0  fire5    features.7     256
squeezenet1_0  fire7    features.9     384
squeezenet1_0  fire9    features.12    512
alexnet        pool2    features.5     192
alexnet        conv4    features.8     256
alexnet        fc7      classifier.4   4096
=============  =======  =============  ========

torchvision's AlexNet is the one-column network of 2014: 192 channels at pool2 where the AlexNet of
the hypercolumn paper (Hariharan et al., CVPR 2015) has 256.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from pipeline.errors import BackboneError

# What the cache stores beside the taps of an image.
_RESERVED = ("label", "label_original", "image")
_TAP_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)


@dataclass(frozen=True)
class Tap:
    """A layer to keep: a name, and the modules whose outputs are joined along the channels.

    Parameters
    ----------
    name
        What the cache calls it: letters, digits and ``_ . + -``.
    modules
        Module names as in ``network.named_modules()``, one or more.

    Raises
    ------
    BackboneError
        If the name cannot name a data set of the cache, or a module name is empty.
    """

    name: str
    modules: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the names."""
        if not self.modules or not all(self.modules):
            raise BackboneError(f"tap {self.name!r} names no module; write it as 'features.3'")
        if not _TAP_NAME.fullmatch(self.name):
            raise BackboneError(
                f"tap name {self.name!r} is not usable; begin with a letter, digit or '_' and go "
                "on with those and '.', '+', '-'"
            )
        if self.name in _RESERVED:
            raise BackboneError(f"a tap cannot be named {self.name!r}; choose another name")


@dataclass(frozen=True)
class TapInfo:
    """A tap of a loaded backbone.

    Parameters
    ----------
    name, modules
        As in :class:`Tap`; a module that stands for several is replaced by those.
    channels
        Channels of its feature map.
    stride
        Image pixels from one cell to the next; for a map of constant size, how many times smaller
        it is than an image of 224 pixels.
    """

    name: str
    modules: tuple[str, ...]
    channels: int
    stride: int


def _taps(modules: Mapping[str, str]) -> tuple[Tap, ...]:
    return tuple(Tap(name, (module,)) for name, module in modules.items())


NAMED_TAPS: Mapping[str, tuple[Tap, ...]] = MappingProxyType(
    {
        "vgg11": _taps(
            {
                "conv1_1": "features.0",
                "conv2_1": "features.3",
                "conv3_2": "features.8",
                "conv4_2": "features.13",
                "conv5_2": "features.18",
            }
        ),
        "squeezenet1_0": _taps(
            {
                "conv1": "features.0",
                "fire2": "features.3",
                "fire3": "features.4",
                "fire5": "features.7",
                "fire7": "features.9",
                "fire9": "features.12",
            }
        ),
        "alexnet": _taps({"pool2": "features.5", "conv4": "features.8", "fc7": "classifier.4"}),
    }
)
"""The taps a backbone has when none are asked for, shallow to deep."""


def parse_tap(spelling: str) -> Tap:
    """Read one tap as a user spells it.

    Parameters
    ----------
    spelling
        A module, ``features.3``; modules to join, ``features.3.expand1x1+features.3.expand3x3``;
        either with a name of one's own, ``fire2=features.3``. Without one the spelling is the name.

    Raises
    ------
    BackboneError
        If it is none of these.
    """
    name, equals, modules = spelling.partition("=")
    if not equals:
        modules = name
    return Tap(name.strip(), tuple(module.strip() for module in modules.split("+")))


def parse_taps(backbone: str, spellings: Sequence[str] | None) -> tuple[Tap, ...]:
    """Read the taps of a backbone.

    Parameters
    ----------
    backbone
        Its name. What :data:`NAMED_TAPS` lists for it may be asked for by name.
    spellings
        As :func:`parse_tap` reads them; none for all that :data:`NAMED_TAPS` lists.

    Raises
    ------
    BackboneError
        If there are no taps, two of one name, or a spelling that cannot be read.
    """
    named = {tap.name: tap for tap in NAMED_TAPS.get(backbone, ())}
    if spellings is None:
        if not named:
            raise BackboneError(
                f"{backbone} has no default taps; name some of its modules, as 'layer1.0.conv1' "
                "and 'layer4.1.conv2' in resnet18"
            )
        return tuple(named.values())
    taps = tuple(named.get(spelling) or parse_tap(spelling) for spelling in spellings)
    if not taps:
        raise BackboneError(f"no taps are given for {backbone}; name one module of it at least")
    names = [tap.name for tap in taps]
    for name in names:
        if names.count(name) > 1:
            raise BackboneError(f"the tap name {name!r} is given twice; name taps differently")
    return taps
