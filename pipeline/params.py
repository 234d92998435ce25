"""The parameters of a run: ``params.yaml``, typed, and checked once, at the edge.

Every section is one stage's; what a file leaves out has the defaults given here. Options of the
command line take precedence over the file.
"""

import difflib
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.boxes import BoxSettings, Task
from pipeline.cache import Drawing
from pipeline.errors import ParamsError
from pipeline.hypercolumn import MAX_GRID, Features
from pipeline.refinement import parse_refinement
from pipeline.training import TrainSettings
from pipeline.yaml_file import read_yaml

_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
# DVC puts the name into commands and paths.
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$"
# The largest that numpy, scikit-learn and torch all take.
_MAX_SEED = 2**32 - 1


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False
    )


class ScenesParams(_Section):
    """The embedded data set: how many images, and the seed of the drawing."""

    images: int = Field(default=180, ge=3, le=1_000_000)
    seed: int = Field(default=0, ge=0, le=_MAX_SEED)


class DataParams(_Section):
    """The data set: its folder, and what its labels mean where the folder does not say."""

    root: str | None = None
    classes: tuple[str, ...] | None = None
    void: int | None = Field(default=None, ge=0, le=255)
    scenes: ScenesParams = ScenesParams()


class ExtractParams(_Section):
    """Stage one, see :func:`pipeline.extract`; ``seed`` is that of random weights."""

    backbone: str | None = None
    weights: str = "DEFAULT"
    taps: tuple[str, ...] | None = None
    compute: Literal["float32", "bfloat16"] = "float32"
    splits: tuple[str, ...] = ("train", "val")
    input: Literal["imagenet", "raw"] = "imagenet"
    input_size: str = "224"
    geometry: Literal["half_pixel", "align_corners"] = "half_pixel"
    dtype: Literal["float16", "float32", "int8"] = "float16"
    recompute_first: bool = False
    compression: Literal["gzip"] | None = None
    images_per_shard: int = Field(default=64, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    on_error: Literal["stop", "skip"] = "stop"
    seed: int = Field(default=0, ge=0, le=_MAX_SEED)

    @field_validator("splits")
    @classmethod
    def _splits_are_distinct(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if not splits or len(set(splits)) < len(splits):
            raise ValueError("name one split or more, each once")
        return splits


class SamplesParams(_Section):
    """Which pixel samples are drawn, see :class:`pipeline.cache.Drawing`."""

    pixels_per_class: int = Field(default=3, ge=1)
    pixels_per_image: int | None = Field(default=None, ge=1)
    void_as_background: bool = False
    seed: int = Field(default=0, ge=0, le=_MAX_SEED)


class FitSparseParams(_Section):
    """The pixel classifier, see :func:`pipeline.fit_sparse`."""

    split: str = "train"
    estimator: str = "mlp"
    options: dict[str, Any] = {}
    grid: int = Field(default=1, ge=1, le=MAX_GRID)
    holdout: float = Field(default=0.1, ge=0, lt=1)
    max_samples: int | None = Field(default=None, ge=2)
    seed: int = Field(default=0, ge=0, le=_MAX_SEED)

    @field_validator("options")
    @classmethod
    def _numbers_are_numbers(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Take 1e-3 for a number: in YAML 1.1 it is a word, for want of a dot."""
        return {
            name: float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
            for name, value in options.items()
        }


class FitDenseParams(TrainSettings):
    """The dense head, see :func:`pipeline.fit_dense`.

    ``validate_on`` is a split, ``held-out`` or null.
    """

    split: str = "train"
    validate_on: str | None = "val"
    keep: Literal["best", "last"] = "best"

    def settings(self) -> TrainSettings:
        """Give the part that the trainer takes."""
        return TrainSettings(**self.model_dump(include=set(TrainSettings.model_fields)))


class EvaluateParams(_Section):
    """Which split is measured, and what corrects predictions by the image.

    ``predict`` reads ``refine`` too, so that its masks are what was measured; null is none.
    """

    split: str = "val"
    refine: str | None = None

    @field_validator("refine")
    @classmethod
    def _refinement_is_known(cls, refine: str | None) -> str | None:
        refinement = None if refine is None else parse_refinement(refine)
        return None if refinement is None else str(refinement)


class FitBoxesParams(BoxSettings):
    """The box head, see :func:`pipeline.fit_boxes`."""

    task: Task = "figure-ground"
    split: str = "train"

    def settings(self) -> BoxSettings:
        """Give the part that the trainer takes."""
        return BoxSettings(**self.model_dump(include=set(BoxSettings.model_fields)))


class EvaluateBoxesParams(_Section):
    """How a box head is measured, see :func:`pipeline.evaluate_boxes`."""

    split: str = "val"
    threshold: float = Field(default=0.5, gt=0, le=1)
    alpha: float = Field(default=0.1, gt=0)


class ReportParams(_Section):
    """What the report shows beside the numbers."""

    title: str = "Hypercolumn segmentation"
    split: str = "val"
    images: int = Field(default=6, ge=0)


class Params(_Section):
    """A whole ``params.yaml``; ``name`` is the folder of its cache, heads and results."""

    name: str = Field(default="run", pattern=_NAME)
    data: DataParams = DataParams()
    extract: ExtractParams = ExtractParams()
    features: Features = Features()
    samples: SamplesParams = SamplesParams()
    fit_sparse: FitSparseParams = FitSparseParams()
    fit_dense: FitDenseParams = FitDenseParams()
    evaluate: EvaluateParams = EvaluateParams()
    fit_boxes: FitBoxesParams = FitBoxesParams()
    evaluate_boxes: EvaluateBoxesParams = EvaluateBoxesParams()
    report: ReportParams = ReportParams()

    def drawing(self) -> Drawing:
        """Give how pixel samples are drawn."""
        return Drawing(features=self.features, **self.samples.model_dump())


S = TypeVar("S", bound=BaseModel)


def load_params(path: Path) -> Params:
    """Read a params file.

    Raises
    ------
    ParamsError
        If it is missing, is not YAML, or has an unknown key or a value out of range; the message
        names the key and what is allowed.
    """
    content = read_yaml(path)
    if content is None:
        return Params()
    if not isinstance(content, Mapping):
        raise ParamsError(
            f"{path}: its top level is not a mapping of sections; "
            "write it as recipes/scenes.yaml is"
        )
    return checked(Params, content, source=str(path))


def override(section: S, given: Mapping[str, Any]) -> S:
    """Give a section with some values replaced, those that are not None.

    Raises
    ------
    ParamsError
        If a value is not allowed.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    return checked(type(section), section.model_dump() | changes, source="options")


def checked(model: type[S], content: Mapping[str, Any], *, source: str) -> S:
    """Turn a mapping into a model, and what is wrong with it into one line."""
    _refuse_switches(model, content, source)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        reason = " ".join(_explain(model, error).split())  # a key may hold line ends
        raise ParamsError(f"{source}: {reason}") from error


def _refuse_switches(model: type[BaseModel], content: Mapping[str, Any], where: str) -> None:
    """Raise ParamsError for a yes or no where a number belongs: Python would count it as 1 or 0."""
    for key, value in content.items():
        field = model.model_fields.get(key)
        kind: Any = field.annotation if field else None
        if isinstance(value, bool) and field and kind is not bool:
            raise ParamsError(f"{where}: {key}: {value} is a yes or no, which it cannot be")
        if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, BaseModel):
            _refuse_switches(kind, value, f"{where}: {key}")


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part)[:40] for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg'][:200]}, but it is {reprlib.repr(first['input'])}"
    owner: Any = model
    for part in first["loc"][:-1]:
        owner = owner.model_fields[part].annotation
    known = sorted(owner.model_fields)
    close = difflib.get_close_matches(str(first["loc"][-1])[:40], known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}"
    return f"{where}: unknown key; {hint}"
