"""Options that several commands share, and the params file beneath them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pipeline.params import Params

F = TypeVar("F", bound=Callable[..., Any])

PARAMS_FILE = Path("params.yaml")
_FEATURE_OPTIONS = ("activation", "context", "pixels_per_class", "pixels_per_image", "sample_seed")
# What stands at a path is found out where it is opened, and said in one line there.
PATH = click.Path(path_type=Path, readable=False)

cache_option = click.option(
    "--cache", type=PATH, required=True, help="Directory of the feature cache."
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu or cuda; auto takes a GPU where there is one.",
)
trust_option = click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="TYPE",
    help="Full name of a type outside scikit-learn that a stored estimator may be made of.",
)


context_option = click.option(
    "--context",
    metavar="SCOPES",
    help="Context taps: 'none', or a list out of 'global' and odd window sizes in cells, of the "
    "deepest tap or, as in fire5:global or fire5:3, of the one that is named "
    "[default: global,3,5].",
)


refine_option = click.option(
    "--refine",
    metavar="HOW",
    help="Correct predictions by the image: prior:STEPS[:BACKGROUND], guided:RADIUS:EPSILON, "
    "superpixels:COUNT, crf:COUNT:WEIGHT:COLOUR, several of them with commas between, or none "
    "[default: none].",
)


def params_option(command: F) -> F:
    """Add ``--params``: the file that says what the options leave out."""
    return click.option(
        "--params",
        "params_path",
        type=PATH,
        help="Params file [default: params.yaml, where there is one].",
    )(command)


def feature_options(command: F) -> F:
    """Add the options that choose what hypercolumns are made of."""
    options = (
        click.option(
            "--activation",
            type=click.Choice(["relu", "none"]),
            help="Applied to the cached maps before resampling [default: relu].",
        ),
        context_option,
        click.option(
            "--pixels-per-class", type=int, help="Samples of a class in an image [default: 3]."
        ),
        click.option(
            "--pixels-per-image",
            type=int,
            help="Samples of an image, of all its pixels alike, in place of that.",
        ),
        click.option("--sample-seed", type=int, help="Seed of the choice of pixels [default: 0]."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def has_params(path: Path | None) -> bool:
    """Tell whether :func:`read_params` will find a file."""
    # A link that leads nowhere is a mistake to report, not a folder without params.
    return path is not None or os.path.lexists(PARAMS_FILE)


def read_params(path: Path | None) -> "Params":
    """Read the given params file, or params.yaml if there is one, or give the defaults."""
    from pipeline.params import Params, load_params

    return load_params(path or PARAMS_FILE) if has_params(path) else Params()


def features_given(options: dict[str, Any]) -> bool:
    """Tell whether any of :func:`feature_options` was given."""
    return any(options[name] is not None for name in _FEATURE_OPTIONS)


def scopes_of(context: str | None) -> tuple[str, ...] | None:
    """Turn the text of ``--context`` into a list of scopes; None if it was not given."""
    if context is None:
        return None
    return () if context == "none" else tuple(context.split(","))


def with_features(params: "Params", options: dict[str, Any]) -> "Params":
    """Put the values of :func:`feature_options` into the params, taking them out of ``options``."""
    from pipeline.errors import ParamsError
    from pipeline.params import override

    activation, context, of_class, of_image, seed = map(options.pop, _FEATURE_OPTIONS)
    samples = {"pixels_per_class": of_class, "pixels_per_image": of_image, "seed": seed}
    features = {"activation": activation, "context": scopes_of(context)}
    if of_class is not None and of_image is not None:
        raise ParamsError(
            "samples are drawn by class or by image: give one of --pixels-per-class "
            "and --pixels-per-image"
        )
    drawn = params.samples
    if of_class is not None:  # it takes the place of what a params file says
        drawn = drawn.model_copy(update={"pixels_per_image": None})
    return params.model_copy(
        update={
            "features": override(params.features, features),
            "samples": override(drawn, samples),
        }
    )
