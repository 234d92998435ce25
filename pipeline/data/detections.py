"""Detections: boxes that a detector found, as a file in the form of COCO's results.

::

    [{"image_id": "2007_000063", "category_id": 12, "bbox": [x, y, width, height], "score": 0.9},
     ...]

``image_id`` is an image id here, as text or as a number; ``category_id`` is the class's label;
``bbox`` is in pixels from the image's upper left corner; ``score`` is not negative. Other keys are
ignored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.data.annotations import Box
from pipeline.data.files import require_file
from pipeline.errors import DataError

_MAX_BYTES = 2**30
_Edge = Annotated[float, Field(ge=-1e6, le=1e6)]
_Side = Annotated[float, Field(gt=0, le=1e6)]


class Detection(BaseModel):
    """A box that may hold an object of a class."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    image_id: str | int
    category_id: int
    bbox: tuple[_Edge, _Edge, _Side, _Side]
    score: float = Field(ge=0)

    @property
    def label(self) -> int:
        """The class."""
        return self.category_id

    @property
    def box(self) -> Box:
        """The box, by its edges."""
        x, y, width, height = self.bbox
        return Box(x, y, x + width, y + height)


_Detections = TypeAdapter(list[Detection])


def read_detections(path: Path, classes: Sequence[str]) -> dict[str, list[Detection]]:
    """Read a file of detections.

    Parameters
    ----------
    path
        A JSON file.
    classes
        The data set's, index = label; the first is background.

    Returns
    -------
    dict of image id to list of Detection
        In the order of the file.

    Raises
    ------
    DataError
        If the file is missing, no such list, or names a class that there is not.
    """
    require_file(path, max_bytes=_MAX_BYTES)
    try:
        listed = _Detections.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"{path} is no list of detections ({where}: {first['msg'][:200]}):"
            " write image_id, category_id, bbox and score, as COCO's results have them"
        ) from error
    by_image: dict[str, list[Detection]] = {}
    for number, detection in enumerate(listed):
        if not 0 < detection.label < len(classes):
            raise DataError(
                f"{path}: detection {number} has category_id {detection.label}, which is no label"
                f" of an object: give one from 1 to {len(classes) - 1}"
            )
        by_image.setdefault(str(detection.image_id), []).append(detection)
    return by_image
