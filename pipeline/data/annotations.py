"""Annotation files of PASCAL VOC: what is called what in an image, and where.

An ``Annotations/<image id>.xml`` lists the objects of an image. Of each one these parts are read::

    <object>
      <name>cat</name>
      <bndbox><xmin>12</xmin><ymin>7</ymin><xmax>80</xmax><ymax>95</ymax></bndbox>
      <keypoints>
        <keypoint name="left ear" visible="1" x="20.5" y="9.25"/>
      </keypoints>
    </object>

``keypoints`` is not VOC's own and may be missing. In the file the centre of the first pixel is
``(1, 1)`` and a box includes its last row and column. In memory the first pixel covers ``[0, 1)``
and a box is bounded by edges, so that ``xmin`` 1 and ``xmax`` 3 become 0 and 3.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, TreeBuilder, indent, tostring
from xml.parsers import expat

from pipeline.data.files import require_file
from pipeline.errors import DataError
from pipeline.names import has_control_characters
from pipeline.wholefile import write_whole

_MAX_BYTES = 2**20
_MAX_DEPTH = 16
_MAX_NAME = 200
_NUMBER = re.compile(r"[-+]?\d{1,9}(\.\d{0,30})?", re.ASCII)


class Box(NamedTuple):
    """A box in an image, by its edges: the pixel of column ``c`` covers ``[c, c + 1)``."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels from edge to edge."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels from edge to edge."""
        return self.bottom - self.top


class Keypoint(NamedTuple):
    """A named place of an object; the first pixel's centre is ``(0.5, 0.5)``."""

    x: float
    y: float
    visible: bool


@dataclass(frozen=True)
class AnnotatedObject:
    """One object of an annotation file.

    Attributes
    ----------
    name
        Its class.
    box
        Where it is.
    keypoints
        By name; those that are not annotated are missing.
    """

    name: str
    box: Box
    keypoints: Mapping[str, Keypoint] = field(default_factory=dict)


def read_annotation(path: Path) -> tuple[AnnotatedObject, ...]:
    """Read the objects of an annotation file, in its order.

    Raises
    ------
    DataError
        If the file is missing, larger than a mebibyte, no XML, declares a document type or
        entities, or has an object that is not as the module's text says.
    """
    require_file(path, max_bytes=_MAX_BYTES)
    root = _parse(path)
    if root.tag != "annotation":
        raise DataError(f"{path} is no annotation file: its first element is to be <annotation>")
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        try:
            objects.append(_object(element))
        except ValueError as error:
            raise DataError(f"{path}: object {number} {error}: correct the file") from error
    return tuple(objects)


def _parse(path: Path) -> Element:
    """Read an XML file without a document type: nothing in it can expand or lead elsewhere."""
    tree = TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise DataError(f"{path} is nested more than {_MAX_DEPTH} deep: correct the file")
        tree.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        tree.end(tag)

    def refuse(*declared: object) -> None:
        raise DataError(f"{path} declares a document type, which is not read: remove <!DOCTYPE>")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = tree.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except DataError:
        raise
    # ValueError and LookupError: an encoding that Python does not have, or that expat cannot use
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise DataError(f"{path} is not readable as XML ({error}): write it anew") from error
    return tree.close()


def _object(element: Element) -> AnnotatedObject:
    corner = element.find("bndbox")
    if corner is None:
        raise ValueError("has no <bndbox>")
    left, top, right, bottom = (
        _number(f"<{tag}>", corner.findtext(tag)) for tag in ("xmin", "ymin", "xmax", "ymax")
    )
    box = Box(left - 1, top - 1, right, bottom)
    if box.width <= 0 or box.height <= 0:
        raise ValueError("has a box whose end lies before its start")
    keypoints: dict[str, Keypoint] = {}
    for found in element.iterfind("keypoints/keypoint"):
        name = _name("a keypoint", found.get("name"))
        if name in keypoints:
            raise ValueError(f"has two keypoints named {name!r}")
        if found.get("visible") not in ("0", "1"):
            raise ValueError(f"has a keypoint {name!r} of which visible is neither 0 nor 1")
        x, y = (_number(f"{axis} of {name!r}", found.get(axis)) for axis in ("x", "y"))
        keypoints[name] = Keypoint(x - 0.5, y - 0.5, found.get("visible") == "1")
    return AnnotatedObject(_name("an object", element.findtext("name")), box, keypoints)


def _name(what: str, text: str | None) -> str:
    name = (text or "").strip()
    if not name or len(name) > _MAX_NAME or has_control_characters(name):
        raise ValueError(f"has {what} without a name that can be printed")
    return name


def _number(what: str, text: str | None) -> float:
    """Read a number; in files by others there are some like 45.70000076293945."""
    if not _NUMBER.fullmatch((text or "").strip()):
        raise ValueError(f"has no number as {what}, but {(text or '')[:40]!r}")
    return float(text or "")


def write_annotation(
    path: Path, image: str, size: tuple[int, int], objects: Sequence[AnnotatedObject]
) -> None:
    """Write an annotation file in VOC's form; it exists whole or not at all.

    Parameters
    ----------
    path
        File to write.
    image
        Name of the image file.
    size
        The image's (height, width).
    objects
        In the order of their numbers in the instance mask. Boxes have whole numbers as edges.
    """
    root = Element("annotation")
    SubElement(root, "filename").text = image
    sides = SubElement(root, "size")
    for tag, value in (("width", size[1]), ("height", size[0]), ("depth", 3)):
        SubElement(sides, tag).text = str(value)
    SubElement(root, "segmented").text = "1"
    for thing in objects:
        element = SubElement(root, "object")
        SubElement(element, "name").text = thing.name
        SubElement(element, "difficult").text = "0"
        corners = SubElement(element, "bndbox")
        left, top, right, bottom = (round(edge) for edge in thing.box)
        for tag, edge in (("xmin", left + 1), ("ymin", top + 1), ("xmax", right), ("ymax", bottom)):
            SubElement(corners, tag).text = str(edge)
        if thing.keypoints:
            named = SubElement(element, "keypoints")
            for name, (x, y, visible) in thing.keypoints.items():
                place = {"x": f"{x + 0.5:.2f}", "y": f"{y + 0.5:.2f}"}
                SubElement(named, "keypoint", {"name": name, "visible": str(int(visible)), **place})
    indent(root)
    write_whole(path, tostring(root, encoding="unicode") + "\n")
