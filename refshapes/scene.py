"""RefShapes scenes: what objects there are, where they lie, and how an image of them is painted.

A scene is a list of ``Thing``s in painting order, later ones in front. The outline polygon of a thing is the one
truth: the annotation stores it, the mask is what pycocotools rasterises from it, and the image is painted from
the same polygon at four times the resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

SIDE = 96  # images are SIDE x SIDE pixels

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {  # sRGB, moderately saturated so that a darker tone of each stays recognisable
    "red": (214, 48, 49),
    "yellow": (245, 210, 40),
    "green": (46, 160, 67),
    "blue": (44, 92, 214),
    "purple": (140, 62, 190),
    "white": (240, 240, 240),
}
TEXTURES = ("plain", "striped", "dotted")
SIZES = {"small": (8.8, 10.2), "large": (13.5, 16.5)}  # radius in pixels, from and to

# testC refers to these pairs; no image of any other split shows one. Every colour loses one of its shapes.
HELD_OUT = frozenset(zip(COLOURS, ("star", "circle", "square", "triangle", "cross", "circle")))

MIN_VISIBLE = 0.65  # no thing is hidden by more than 35 % of its pixels
ATTRIBUTES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "texture": TEXTURES}


@dataclass(frozen=True)
class Thing:
    """One object of a scene; lengths in pixels, the origin in the upper left corner, ``angle`` in degrees."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float

    def outline(self) -> list[float]:
        """The polygon x0, y0, x1, y1, ... with two decimals: exactly what the annotation stores."""
        turn = math.radians(self.angle)
        points = _UNIT_OUTLINES[self.shape] * self.radius
        rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        return (points @ rotation + (self.x, self.y)).round(2).ravel().tolist()

    @property
    def area(self) -> float:
        """Area of the outline in square pixels, hidden parts included: what "largest" compares."""
        x, y = np.array(self.outline()).reshape(-1, 2).T
        return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _unit_outlines() -> dict[str, np.ndarray]:
    """One closed outline a shape, around the origin, y downwards, the farthest point at about distance one."""

    def ring(count: int, radius: float = 1.0, start: float = -90.0) -> np.ndarray:
        turn = np.radians(start + 360 / count * np.arange(count))
        return radius * np.stack([np.cos(turn), np.sin(turn)], 1)

    star = np.empty((10, 2))
    star[0::2], star[1::2] = ring(5), ring(5, 0.45, -54)
    a = 0.38  # half the width of an arm of the cross
    cross = [(-a, -1), (a, -1), (a, -a), (1, -a), (1, a), (a, a), (a, 1), (-a, 1), (-a, a), (-1, a), (-1, -a), (-a, -a)]
    return {
        "circle": ring(32, 0.95),
        "square": ring(4, 1.15, -45),
        "triangle": ring(3, 1.15),
        "star": star * 1.15,
        "cross": np.array(cross, float),
    }


_UNIT_OUTLINES = _unit_outlines()
_TURNS = {"circle": 0, "square": 14, "triangle": 14, "star": 16, "cross": 14}  # degrees either way


def rasterise(outline: list[float], height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """The pixels of a polygon as pycocotools counts them, [height, width] bool."""
    polygons: Any = [outline]
    return coco_mask.decode(coco_mask.frPyObjects(polygons, height, width))[..., 0].astype(bool)


def visible_masks(things: list[Thing], side: int = SIDE) -> list[np.ndarray]:
    """What of each thing is not hidden by the things in front of it, [side, side] bool each."""
    covered = np.zeros((side, side), bool)
    masks = []
    for thing in reversed(things):
        mask = rasterise(thing.outline(), side, side)
        masks.append(mask & ~covered)
        covered |= mask
    return masks[::-1]


def draw_scene(rng: Random, held_out: bool = False) -> list[Thing]:
    """Four to eight things that share attributes with one another, so that no single word gives the referent away.

    Args:
        rng: the only source of chance.
        held_out: the first two things are of HELD_OUT pairs (testC); otherwise no thing is.
    """
    count = rng.randint(4, 8)
    while True:  # a crowded layout may have no room for its last thing: begin again
        things: list[Thing] = []
        for _ in range(count):
            kind = _pick_kind(rng, things, must_be_held_out=held_out and len(things) < 2)
            placed = _place(rng, kind, things)
            if placed is None:
                break
            things.append(placed)
        if len(things) == count:
            rng.shuffle(things)  # the order of invention must not tell who is in front
            if _visible_enough(things):
                return things


def _pick_kind(rng: Random, things: list[Thing], must_be_held_out: bool) -> dict[str, str]:
    """Attributes of the next thing: most often those of an earlier one with one or two of them changed."""
    fresh = {
        "shape": rng.choice(SHAPES),
        "colour": rng.choice(tuple(COLOURS)),
        "size": rng.choice(tuple(SIZES)),
        "texture": rng.choice(("plain", *TEXTURES)),  # plain twice as often
    }
    if must_be_held_out:
        fresh["colour"], fresh["shape"] = rng.choice(sorted(HELD_OUT))
        return fresh
    if things and rng.random() < 0.7:
        model = rng.choice(things)
        for name in rng.sample(tuple(ATTRIBUTES), rng.choice((2, 2, 3))):
            fresh[name] = getattr(model, name)
    while (fresh["colour"], fresh["shape"]) in HELD_OUT:
        fresh["colour"] = rng.choice(tuple(COLOURS))
    return fresh


def _place(rng: Random, kind: dict[str, str], things: list[Thing]) -> Thing | None:
    """A free place for a thing of this kind, a small overlap allowed; None where 30 tries found none."""
    low, high = SIZES[kind["size"]]
    turn = _TURNS[kind["shape"]]
    for _ in range(30):
        radius = round(rng.uniform(low, high), 2)
        edge = 1.16 * radius
        x, y = (round(rng.uniform(edge, SIDE - edge), 2) for _ in range(2))
        if any(math.hypot(x - other.x, y - other.y) < 0.8 * (radius + other.radius) for other in things):
            continue
        return Thing(**kind, x=x, y=y, radius=radius, angle=round(rng.uniform(-turn, turn), 1))
    return None


def _visible_enough(things: list[Thing]) -> bool:
    whole = [rasterise(thing.outline()).sum() for thing in things]
    return all(seen.sum() >= MIN_VISIBLE * all_of_it for seen, all_of_it in zip(visible_masks(things), whole))


# ---------------------------------------------------------------------------------------------------- painting

_KNOTS = 7
_ZOOM = 4


@cache
def _grid(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y of every pixel, [side, side] each, and the matrix that blows _KNOTS values up to ``side`` of them."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    spread = np.maximum(0, 1 - abs(np.linspace(0, _KNOTS - 1, side)[:, None] - np.arange(_KNOTS))).astype(np.float32)
    return x, y, spread


def paint(things: list[Thing], seed: int) -> np.ndarray:
    """The image of a scene, [SIDE, SIDE, 3] uint8. ``seed`` decides background, shading and texture only."""
    return paint_clip([things], seed)[0]


def paint_clip(scenes: list[list[Thing]], seed: int, side: int = SIDE, noise: float = 4) -> list[np.ndarray]:
    """The images of one scene at several moments, [side, side, 3] uint8 each.

    Background and looks are those of the clip; only the noise is new in every image.

    Args:
        scenes: the same things in the same order, wherever each is at that moment.
        seed: decides background, shading, texture and noise.
        side: height and width in pixels.
        noise: grey levels either way that a pixel is off.
    """
    rng = np.random.RandomState(seed)  # not default_rng: this stream is frozen between NumPy versions
    background = _background(rng, side)
    looks = [_draw_look(rng, thing) for thing in scenes[0]]
    images = []
    for things in scenes:
        image = background.copy()
        for thing, look in zip(things, looks):
            _paint_thing(image, thing, look)
        image += rng.uniform(-noise, noise, (side, side, 1)).astype(np.float32)
        images.append(image.clip(0, 255).round().astype(np.uint8))
    return images


def _background(rng: np.random.RandomState, side: int) -> np.ndarray:
    """Muted, never flat: a gradient between two greyish tones, soft clouds, and sometimes a faint grain."""
    grid_x, grid_y, spread = _grid(side)
    tones = rng.uniform(85, 175, (2, 1)) + rng.uniform(-22, 22, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * grid_x + np.sin(angle) * grid_y
    ramp = ((ramp - ramp.min()) / (ramp.max() - ramp.min()))[..., None]
    clouds = spread @ rng.uniform(-1, 1, (_KNOTS, _KNOTS)).astype(np.float32) @ spread.T
    image = (1 - ramp) * tones[0] + ramp * tones[1] + rng.uniform(6, 22) * clouds[..., None]
    if rng.uniform() < 0.35:
        period, angle = rng.uniform(7, 16), rng.uniform(0, np.pi)
        wave = np.sin(2 * np.pi / period * (np.cos(angle) * grid_x + np.sin(angle) * grid_y))
        image = image + rng.uniform(3, 9) * wave[..., None]
    return image.astype(np.float32)


@dataclass(frozen=True)
class _Look:
    """What chance decides about the paint of a thing."""

    colour: np.ndarray
    shade: float  # how much lighter or darker it gets over a radius downwards
    angle: float  # of the texture, like phase
    phase: np.ndarray


def _draw_look(rng: np.random.RandomState, thing: Thing) -> _Look:
    return _Look(
        colour=np.array(COLOURS[thing.colour], np.float32) * rng.uniform(0.9, 1.08) + rng.uniform(-10, 10, 3),
        shade=rng.uniform(-0.08, 0.08),
        angle=rng.uniform(0, np.pi),  # drawn for every texture: one stream length
        phase=rng.uniform(0, 2 * np.pi, 2),
    )


def _paint_thing(image: np.ndarray, thing: Thing, look: _Look) -> None:
    """Blend one thing into the image, its edge smoothed by painting at _ZOOM times the resolution."""
    side = len(image)
    points = np.array(thing.outline()).reshape(-1, 2)
    left, top = np.floor(points.min(0)).astype(int).clip(0)
    right, bottom = np.ceil(points.max(0)).astype(int).clip(max=side)
    height, width = bottom - top, right - left
    zoomed = ((points - (left, top)) * _ZOOM).ravel().tolist()
    cover = rasterise(zoomed, height * _ZOOM, width * _ZOOM).reshape(height, _ZOOM, width, _ZOOM).mean((1, 3))

    x, y = (axis[top:bottom, left:right] for axis in _grid(side)[:2])
    shade = 1 + look.shade * (y - thing.y) / thing.radius
    body = look.colour * (1 - 0.5 * _texture(thing, look, x, y)[..., None]) * shade[..., None]  # its tone is darker

    patch = image[top:bottom, left:right]
    patch += cover[..., None].astype(np.float32) * (body.astype(np.float32) - patch)


def _texture(thing: Thing, look: _Look, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the second tone at every pixel, 0..1."""
    period = 5.2 if thing.size == "small" else 6.4
    turn = look.angle if thing.texture == "striped" else 0.3 * look.angle - 0.5
    u = 2 * np.pi / period * (np.cos(turn) * x + np.sin(turn) * y) + look.phase[0]
    v = 2 * np.pi / period * (np.cos(turn) * y - np.sin(turn) * x) + look.phase[1]
    if thing.texture == "striped":
        return (np.sin(u) * 2.5 + 0.5).clip(0, 1)
    if thing.texture == "dotted":
        return ((np.cos(u) + np.cos(v) - 0.55) * 2.5).clip(0, 1)
    return np.zeros_like(x)
