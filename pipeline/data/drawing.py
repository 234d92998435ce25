"""Shapes, textures and colours of the objects in the procedural scenes.

Everything is evaluated analytically at pixel centres, with edges softened over one pixel, so that a
scene needs no supersampling and no drawing library. Lengths are in pixels.
"""

import colorsys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.floating[Any]]
Surface = Callable[[Field, Field], Field]
Corners = Mapping[str, tuple[float, float]]

HUES = {"brick": 0.03, "ochre": 0.11, "moss": 0.29, "teal": 0.49, "denim": 0.6, "plum": 0.87}


@dataclass(frozen=True)
class Thing:
    """One object before it is placed: functions of its own coordinates.

    Attributes
    ----------
    depth
        Distance to the outline in pixels at ``(u, v)``, positive inside (approximate).
    texture
        Mixture of the two tones at ``(u, v)``, 0 to 1.
    tones
        Two RGB colours, ``(2, 3)``, values 0 to 1.
    radius
        Half the extent along the longer axis, in pixels.
    corners
        Named places ``(u, v)`` on the outline: the keypoints of its class.
    """

    depth: Surface
    texture: Surface
    tones: Field
    radius: float
    corners: Corners


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> Field:
    """Draw noise of unit variance whose features are about ``cell`` pixels wide.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Height and width of the result.
    cell
        Distance between independent values, in pixels; 1 gives white noise.

    Returns
    -------
    Field
        ``(H, W)`` float32 of mean 0 and standard deviation 1.
    """
    height, width = shape
    coarse = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2), dtype=np.float32)
    fine = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise: Field = np.asarray(fine, dtype=np.float32)
    noise = (noise - noise.mean()) / (noise.std() + np.float32(1e-6))
    return noise


def soft_step(field: Field, width: float = 0.5) -> Field:
    """Return 0 where ``field`` is well below zero, 1 well above, and a ramp between."""
    ramp: Field = np.clip(field / (2 * width) + 0.5, 0, 1)
    return ramp


def tone(rng: np.random.Generator, hue: str, *, saturation: float, value: float) -> Field:
    """Draw an RGB colour ``(3,)`` near a named hue, components 0 to 1."""
    colour = colorsys.hsv_to_rgb(
        (HUES[hue] + rng.normal(0, 0.02)) % 1,
        float(np.clip(saturation + rng.normal(0, 0.08), 0, 1)),
        float(np.clip(value + rng.normal(0, 0.05), 0, 1)),
    )
    return np.array(colour, dtype=np.float32)


def _two_tones(rng: np.random.Generator, usual: str, other: str) -> Field:
    """Draw a darker and a lighter tone of the usual hue, or (one in three) of the other."""
    hue = other if rng.random() < 1 / 3 else usual
    light = tone(rng, hue, saturation=0.38, value=0.88)
    dark = tone(rng, hue, saturation=0.62, value=0.48)
    return np.stack([dark, light])


def _ellipse(a: float, b: float) -> Surface:
    def depth(u: Field, v: Field) -> Field:
        inside: Field = (1 - np.hypot(u / a, v / b)) * min(a, b)
        return inside

    return depth


def _ellipse_corners(a: float, b: float) -> Corners:
    return {"right": (a, 0), "bottom": (0, b), "left": (-a, 0), "top": (0, -b)}


def _panel(a: float, b: float, shear: float) -> Surface:
    def depth(u: Field, v: Field) -> Field:
        return np.minimum(a - np.abs(u + shear * v), b - np.abs(v))

    return depth


def _panel_corners(a: float, b: float, shear: float) -> Corners:
    return {
        "top left": (-a + shear * b, -b),
        "top right": (a + shear * b, -b),
        "bottom right": (a - shear * b, b),
        "bottom left": (-a - shear * b, b),
    }


def _blob(radius: float, lobes: Field, phases: Field) -> Surface:
    def depth(u: Field, v: Field) -> Field:
        angle = np.arctan2(v, u)
        outline = np.full_like(u, radius)
        for order, (lobe, phase) in enumerate(zip(lobes, phases, strict=True), start=2):
            outline += radius * lobe * np.cos(order * angle + phase)
        inside: Field = outline - np.hypot(u, v)
        return inside

    return depth


def _blob_corners(radius: float, lobes: Field, phases: Field) -> Corners:
    corners = {}
    for quarter, name in enumerate(("right", "bottom", "left", "top")):
        angle = quarter * np.pi / 2
        waves = lobes * np.cos(np.arange(2, 2 + len(lobes)) * angle + phases)
        reach = radius * (1 + float(waves.sum()))
        corners[name] = (reach * np.cos(angle), reach * np.sin(angle))
    return corners


def _ribbon(length: float, width: float, sway: float, wave: float, phase: float) -> Surface:
    def depth(u: Field, v: Field) -> Field:
        turn = 2 * np.pi / wave
        bend = u * turn + phase
        slope = sway * turn * np.cos(bend)
        across = np.abs(v - sway * np.sin(bend)) / np.sqrt(1 + slope**2)
        inside: Field = np.minimum(width - across, length - np.abs(u))
        return inside

    return depth


def _ribbon_corners(length: float, sway: float, wave: float, phase: float) -> Corners:
    ends = {"left end": -length, "right end": length}
    return {name: (u, sway * np.sin(u * 2 * np.pi / wave + phase)) for name, u in ends.items()}


def melon(rng: np.random.Generator, scale: float) -> Thing:
    """Draw an ellipse with broad, wavering stripes along it."""
    a = scale * rng.uniform(20, 32)
    b = a * rng.uniform(0.65, 0.95)
    period = scale * rng.uniform(11, 15)
    phase = rng.uniform(0, 2 * np.pi)

    def texture(u: Field, v: Field) -> Field:
        waver = 1.5 * np.sin(u / 5 + phase)
        return soft_step(np.sin(2 * np.pi * (v + waver) / period + phase), 0.4)

    tones = _two_tones(rng, "moss", "ochre")
    return Thing(_ellipse(a, b), texture, tones, a, _ellipse_corners(a, b))


def deckchair(rng: np.random.Generator, scale: float) -> Thing:
    """Draw a slanted panel with narrow stripes across it."""
    a = scale * rng.uniform(18, 30)
    b = a * rng.uniform(0.45, 0.75)
    period = scale * rng.uniform(4.5, 6)
    phase = rng.uniform(0, 2 * np.pi)

    def texture(u: Field, v: Field) -> Field:
        return soft_step(np.sin(2 * np.pi * u / period + phase), 0.5)

    tones = _two_tones(rng, "denim", "teal")
    shear = rng.uniform(-0.3, 0.3)
    return Thing(_panel(a, b, shear), texture, tones, a, _panel_corners(a, b, shear))


def quilt(rng: np.random.Generator, scale: float) -> Thing:
    """Draw a nearly square panel of checks."""
    a = scale * rng.uniform(16, 25)
    b = a * rng.uniform(0.8, 1)
    half = scale * rng.uniform(4.5, 6.5)

    def texture(u: Field, v: Field) -> Field:
        return soft_step(np.sin(np.pi * u / half) * np.sin(np.pi * v / half), 0.12)

    tones = _two_tones(rng, "plum", "denim")
    shear = rng.uniform(-0.15, 0.15)
    return Thing(_panel(a, b, shear), texture, tones, a, _panel_corners(a, b, shear))


def ladybird(rng: np.random.Generator, scale: float) -> Thing:
    """Draw a nearly round body with staggered dark spots."""
    a = scale * rng.uniform(16, 25)
    b = a * rng.uniform(0.8, 1)
    pitch = scale * rng.uniform(8, 9.5)

    def texture(u: Field, v: Field) -> Field:
        row = np.round(v / (0.8 * pitch))
        across = u / pitch + 0.5 * (row % 2)
        along = v - row * 0.8 * pitch
        return soft_step(np.hypot((across - np.round(across)) * pitch, along) - 0.27 * pitch, 0.7)

    tones = _two_tones(rng, "brick", "plum")
    return Thing(_ellipse(a, b), texture, tones, a, _ellipse_corners(a, b))


def pebble(rng: np.random.Generator, scale: float) -> Thing:
    """Draw an irregular blob of fine grain."""
    radius = scale * rng.uniform(15, 25)
    lobes = rng.uniform(0.02, 0.1, 4).astype(np.float32)
    phases = rng.uniform(0, 2 * np.pi, 4).astype(np.float32)
    side = int(4 * radius) + 2
    grain: Field = np.clip(0.5 + 0.28 * smooth_noise(rng, (side, side), 1.6), 0, 1)

    def texture(u: Field, v: Field) -> Field:
        column = np.clip(np.round(u + side / 2), 0, side - 1).astype(np.intp)
        row = np.clip(np.round(v + side / 2), 0, side - 1).astype(np.intp)
        return grain[row, column]

    tones = _two_tones(rng, "ochre", "brick")
    corners = _blob_corners(radius, lobes, phases)
    return Thing(_blob(radius, lobes, phases), texture, tones, radius, corners)


def snake(rng: np.random.Generator, scale: float) -> Thing:
    """Draw a thin winding ribbon with bands across it."""
    length = scale * rng.uniform(30, 52)
    width = scale * rng.uniform(4, 5.5)
    period = scale * rng.uniform(7, 10)
    phase = rng.uniform(0, 2 * np.pi)
    sway, wave = scale * rng.uniform(5, 10), scale * rng.uniform(36, 60)

    def texture(u: Field, v: Field) -> Field:
        return soft_step(np.sin(2 * np.pi * u / period + phase) + 0.25, 0.3)

    depth = _ribbon(length, width, sway, wave, phase)
    tones = _two_tones(rng, "teal", "moss")
    return Thing(depth, texture, tones, length, _ribbon_corners(length, sway, wave, phase))


THINGS: dict[str, Callable[[np.random.Generator, float], Thing]] = {
    "melon": melon,
    "deckchair": deckchair,
    "quilt": quilt,
    "ladybird": ladybird,
    "pebble": pebble,
    "snake": snake,
}
