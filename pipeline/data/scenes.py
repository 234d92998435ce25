"""The embedded data set: procedurally drawn scenes in the VOC layout.

A class shows in its texture (stripes, checks, spots, grain), its outline and, only loosely, its
colours, which other classes and the background share. Colour alone and the deepest tap alone do
clearly worse than the hypercolumn, even with random weights: objects are small or thin beside a
deep tap's stride, and a texture is wider than a pixel.
"""

import math
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.annotations import AnnotatedObject, Box, Keypoint, write_annotation
from pipeline.data.drawing import HUES, THINGS, Field, Thing, smooth_noise, soft_step, tone
from pipeline.data.layout import ANNOTATIONS, IMAGES, INSTANCE_MASKS, MASKS, SPLITS
from pipeline.data.palette import write_mask
from pipeline.errors import DataError
from pipeline.progress import Progress, Silent
from pipeline.wholefile import remove_leftovers, write_whole, written_whole

SCENE_CLASSES = ("background", *THINGS)
"""Class names of the scenes, index = label."""

VOID = 255
_FOLDERS = tuple(part.folder for part in (IMAGES, MASKS, INSTANCE_MASKS, ANNOTATIONS))
_CLASSES_FILE = "".join(f"{line}\n" for line in (*SCENE_CLASSES, f"# void: {VOID}"))
_SCENE_FILE = re.compile(r"scene_\d{4,}\.(png|xml)")
# How far from a corner, in pixels, a pixel of its object shows it.
_CORNER_REACH = 1.5


@dataclass(frozen=True)
class Scene:
    """A drawn image and all that is known of it.

    Attributes
    ----------
    image
        ``(H, W, 3)`` uint8 RGB.
    labels
        ``(H, W)`` uint8 classes, void (255) on the two pixels where instances touch.
    instances
        ``(H, W)`` uint8 numbers of the objects that show, 0 for background, void as in ``labels``.
    objects
        Class, box and corners of the objects, in the order of their numbers.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]
    objects: tuple[AnnotatedObject, ...]


def write_scenes(
    out: Path | str,
    *,
    images: int = 180,
    seed: int = 0,
    size: tuple[int, int] = (128, 192),
    progress: Progress | None = None,
) -> Path:
    """Write a data set of scenes in the VOC layout; the same seed gives the same bytes.

    Two scenes in three belong to ``train``, the others to ``val``; ``trainval`` has all. A scene
    depends on the seed and its number only, so that a larger data set begins with a smaller one.
    Scenes of an earlier run in the same folder are replaced.

    Parameters
    ----------
    out
        Folder to write: a new or empty one, or one that this function wrote.
    images
        Number of scenes, at least 3.
    seed
        Seed of all scenes, not negative.
    size
        Least and greatest height and width in pixels, both inclusive.
    progress
        What to report to.

    Returns
    -------
    Path
        ``out``, ready for ``VocDataset.open``.

    Raises
    ------
    DataError
        If ``out`` holds anything else, or an argument is out of range.
    """
    if images < 3:
        raise DataError(f"{images} scenes do not fill a train and a val split: ask for at least 3")
    if seed < 0:
        raise DataError(f"the seed {seed} is negative: choose 0 or more")
    if not 16 <= size[0] <= size[1]:
        raise DataError(f"no image sizes lie in {size}: give (least, greatest), least 16 or more")
    out = Path(out)
    _clear(out)
    pictures, masks, instance_masks, annotations = (out / part for part in _FOLDERS)
    # First, because it is the mark by which a later run knows the folder.
    write_whole(out / "classes.txt", _CLASSES_FILE)
    names = [f"scene_{index:04d}" for index in range(images)]
    tracked = (progress or Silent()).track(names, total=images, unit="scenes", what="drawing")
    for index, name in enumerate(tracked):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        height, width = rng.integers(size[0], size[1] + 1, 2).tolist()
        scene = draw_scene(rng, height, width)
        with written_whole(pictures / f"{name}.png", tidied=True) as file:
            Image.fromarray(scene.image).save(file, format="PNG")
        write_mask(masks / f"{name}.png", scene.labels, tidied=True)
        write_mask(instance_masks / f"{name}.png", scene.instances, tidied=True)
        write_annotation(annotations / f"{name}.xml", f"{name}.png", (height, width), scene.objects)
    # Last, because a data set without split files is not taken for a complete one.
    train = [name for index, name in enumerate(names) if index % 3 != 2]
    members = {"train": train, "val": names[2::3], "trainval": names}
    for split, listed in members.items():
        write_whole(out / SPLITS / f"{split}.txt", "\n".join(listed) + "\n")
    return out


def _clear(out: Path) -> None:
    """Remove what an earlier run wrote to ``out``; refuse if there is anything else."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise DataError(f"{out} is not a folder: name one for the scenes")
    remove_leftovers(out / "classes.txt")
    for folder in _FOLDERS:
        remove_leftovers(out / folder / "scene_*")
    ours = {"classes.txt", SPLITS.parts[0], *_FOLDERS}
    present = [path for path in out.iterdir() if not path.name.startswith(".")]
    mark = out / "classes.txt"
    marked = mark.is_file() and mark.read_bytes() == _CLASSES_FILE.encode()
    foreign = [path for path in present if path.name not in ours or not marked]
    for folder in _FOLDERS:
        foreign += [p for p in (out / folder).glob("*") if not _SCENE_FILE.fullmatch(p.name)]
    if foreign:
        raise DataError(f"{out} holds {min(foreign)}, which is no scene: name a new folder")
    for name in sorted(ours):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)


def draw_scene(rng: np.random.Generator, height: int, width: int) -> Scene:
    """Draw one scene.

    Parameters
    ----------
    rng
        Source of all randomness.
    height, width
        Size in pixels.

    Returns
    -------
    Scene
    """
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) + np.float32(0.5)
    canvas = _background(rng, ys, xs)
    instances = np.zeros((height, width), dtype=np.uint8)
    labels = np.zeros((height, width), dtype=np.uint8)
    light = rng.uniform(-0.9, -0.1) * math.pi  # from above
    drawn: list[tuple[str, dict[str, tuple[float, float]]]] = []
    for number in range(1, 1 + int(rng.integers(4, 8))):
        label = int(rng.integers(1, len(SCENE_CLASSES)))
        thing = THINGS[SCENE_CLASSES[label]](rng, rng.uniform(0.85, 1.2))
        y, x = rng.uniform(0.08, 0.92) * height, rng.uniform(0.08, 0.92) * width
        angle = rng.uniform(-0.6, 0.6)
        cover = _paint(canvas, thing, ys - y, xs - x, angle, light)
        instances[cover >= 0.5] = number
        labels[cover >= 0.5] = label
        corners = {name: _turn_back(u, v, angle) for name, (u, v) in thing.corners.items()}
        placed = {name: (x + dx, y + dy) for name, (dx, dy) in corners.items()}
        drawn.append((SCENE_CLASSES[label], placed))
    canvas *= _lighting(rng, ys, xs, light)[..., None]
    canvas *= rng.normal(1, 0.04, 3).astype(np.float32)
    canvas += 0.012 * rng.standard_normal(canvas.shape, dtype=np.float32)
    seams = _seams(instances)
    labels[seams] = VOID
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    shown = [
        number for number in range(1, 1 + len(drawn)) if ((instances == number) & ~seams).any()
    ]
    objects = [_object(instances == number, *drawn[number - 1]) for number in shown]
    renumbered = np.zeros(1 + len(drawn), dtype=np.uint8)
    renumbered[shown] = np.arange(1, 1 + len(shown))
    numbers = renumbered[instances]
    numbers[seams] = VOID
    return Scene(image, labels, numbers, tuple(objects))


def _object(
    own: npt.NDArray[np.bool_], name: str, corners: dict[str, tuple[float, float]]
) -> AnnotatedObject:
    """Describe an object by its pixels and its corners (x, y), some of which others may cover."""
    ys, xs = np.nonzero(own)
    box = Box(float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    keypoints = {}
    for corner, (x, y) in corners.items():
        reached = np.hypot(ys + 0.5 - y, xs + 0.5 - x) <= _CORNER_REACH
        inside = 0 <= y < own.shape[0] and 0 <= x < own.shape[1]
        keypoints[corner] = Keypoint(float(x), float(y), bool(inside and reached.any()))
    return AnnotatedObject(name, box, keypoints)


def _background(rng: np.random.Generator, ys: Field, xs: Field) -> Field:
    """Blend two muted tones by soft noise, and weave a faint pattern into them."""
    hues = rng.choice(sorted(HUES), 2)
    first, second = (tone(rng, str(hue), saturation=0.28, value=0.72) for hue in hues)
    blend = soft_step(smooth_noise(rng, ys.shape, rng.uniform(30, 60)), 1.5)[..., None]
    canvas = first * blend + second * (1 - blend)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 16)
    weave = np.sin(2 * np.pi * _turn(xs, ys, angle)[0] / period)
    grain = smooth_noise(rng, ys.shape, rng.uniform(1.2, 3))
    strength = rng.uniform(0, 0.05, 2).astype(np.float32)
    return np.asarray(canvas + (strength[0] * weave + strength[1] * grain)[..., None], np.float32)


def _paint(canvas: Field, thing: Thing, dy: Field, dx: Field, angle: float, light: float) -> Field:
    """Paint a thing with its shadow onto the canvas, in place, and return its coverage (0 to 1)."""
    light_x, light_y = math.cos(light), math.sin(light)
    shadow = soft_step(thing.depth(*_turn(dx + 3 * light_x, dy + 3 * light_y, angle)), 3)
    canvas *= 1 - 0.35 * shadow[..., None]

    u, v = _turn(dx, dy, angle)
    depth = thing.depth(u, v)
    cover = soft_step(depth)
    mix = thing.texture(u, v)[..., None]
    facing = np.clip((light_x * dx + light_y * dy) / thing.radius, -1, 1)
    shade = 0.82 + 0.18 * soft_step(depth - 4, 4) + 0.2 * facing
    colour = (thing.tones[0] * (1 - mix) + thing.tones[1] * mix) * shade[..., None]
    canvas += cover[..., None] * (colour - canvas)
    return cover


def _turn(dx: Field, dy: Field, angle: float) -> tuple[Field, Field]:
    """Return offsets along the axes of a thing that is turned by ``angle``."""
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * dx + sin * dy, cos * dy - sin * dx


def _turn_back(u: float, v: float, angle: float) -> tuple[float, float]:
    """Return the offsets of a place on a thing that is turned by ``angle``; undoes `_turn`."""
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * u - sin * v, sin * u + cos * v


def _lighting(rng: np.random.Generator, ys: Field, xs: Field, light: float) -> Field:
    """Return the brightness over the scene: brighter towards the light."""
    height, width = ys.shape
    towards, _ = _turn(xs / width - 0.5, ys / height - 0.5, light)
    return rng.uniform(0.8, 1.1) * (1 + rng.uniform(0, 0.35) * towards)


def _seams(instances: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Mark the pixels that touch another instance above, below, left or right of them."""
    seams = np.zeros(instances.shape, dtype=np.bool_)
    across = instances[:, 1:] != instances[:, :-1]
    down = instances[1:] != instances[:-1]
    seams[:, 1:] |= across
    seams[:, :-1] |= across
    seams[1:] |= down
    seams[:-1] |= down
    return seams
