"""RefShapes scenes: what objects there are, where they lie, and how a picture of them is painted.

A scene is a list of ``Thing``s in painting order, later ones in front. The outline polygon of a thing is the one
truth: the annotation stores it, the mask is what pycocotools rasterises from it, and the picture is painted from
the same polygon at four times the resolution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from pycocotools import mask as coco_mask

SIDE = 96  # pictures are SIDE x SIDE pixels

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

# testC refers to these pairs; no picture of any other split shows one. Every colour loses one of its shapes.
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
    return coco_mask.decode(coco_mask.frPyObjects([outline], height, width))[..., 0].astype(bool)


def visible_masks(things: list[Thing]) -> list[np.ndarray]:
    """What of each thing is not hidden by the things in front of it, [SIDE, SIDE] bool each."""
    covered = np.zeros((SIDE, SIDE), bool)
    masks = []
    for thing in reversed(things):
        mask = rasterise(thing.outline())
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

_GRID_Y, _GRID_X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
_KNOTS = 7
_SMOOTH = np.maximum(0, 1 - abs(np.linspace(0, _KNOTS - 1, SIDE)[:, None] - np.arange(_KNOTS))).astype(np.float32)
_ZOOM = 4


def paint(things: list[Thing], seed: int) -> np.ndarray:
    """The picture of a scene, [SIDE, SIDE, 3] uint8. ``seed`` decides background, shading and texture only.

    RandomState, not default_rng: its stream is frozen between NumPy versions.
    """
    rng = np.random.RandomState(seed)
    picture = _background(rng)
    for thing in things:
        _paint_thing(picture, thing, rng)
    picture += rng.uniform(-4, 4, (SIDE, SIDE, 1)).astype(np.float32)
    return picture.clip(0, 255).round().astype(np.uint8)


def _background(rng: np.random.RandomState) -> np.ndarray:
    """Muted, never flat: a gradient between two greyish tones, soft clouds, and sometimes a faint grain."""
    tones = rng.uniform(85, 175, (2, 1)) + rng.uniform(-22, 22, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * _GRID_X + np.sin(angle) * _GRID_Y
    ramp = ((ramp - ramp.min()) / (ramp.max() - ramp.min()))[..., None]
    clouds = _SMOOTH @ rng.uniform(-1, 1, (_KNOTS, _KNOTS)).astype(np.float32) @ _SMOOTH.T
    picture = (1 - ramp) * tones[0] + ramp * tones[1] + rng.uniform(6, 22) * clouds[..., None]
    if rng.uniform() < 0.35:
        period, angle = rng.uniform(7, 16), rng.uniform(0, np.pi)
        wave = np.sin(2 * np.pi / period * (np.cos(angle) * _GRID_X + np.sin(angle) * _GRID_Y))
        picture = picture + rng.uniform(3, 9) * wave[..., None]
    return picture.astype(np.float32)


def _paint_thing(picture: np.ndarray, thing: Thing, rng: np.random.RandomState) -> None:
    """Blend one thing into the picture, its edge smoothed by painting at _ZOOM times the resolution."""
    points = np.array(thing.outline()).reshape(-1, 2)
    left, top = np.floor(points.min(0)).astype(int).clip(0)
    right, bottom = np.ceil(points.max(0)).astype(int).clip(max=SIDE)
    height, width = bottom - top, right - left
    zoomed = ((points - (left, top)) * _ZOOM).ravel().tolist()
    cover = rasterise(zoomed, height * _ZOOM, width * _ZOOM).reshape(height, _ZOOM, width, _ZOOM).mean((1, 3))

    colour = np.array(COLOURS[thing.colour], np.float32) * rng.uniform(0.9, 1.08) + rng.uniform(-10, 10, 3)
    shade = 1 + rng.uniform(-0.08, 0.08) * (_GRID_Y[top:bottom, left:right] - thing.y) / thing.radius
    tone = _texture(thing, rng, _GRID_X[top:bottom, left:right], _GRID_Y[top:bottom, left:right])[..., None]
    body = colour * (1 - 0.5 * tone) * shade[..., None]  # the second tone is the darker one

    patch = picture[top:bottom, left:right]
    patch += cover[..., None].astype(np.float32) * (body.astype(np.float32) - patch)


def _texture(thing: Thing, rng: np.random.RandomState, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Share of the second tone at every pixel, 0..1."""
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)  # drawn for every texture: one stream length
    period = 5.2 if thing.size == "small" else 6.4
    turn = angle if thing.texture == "striped" else 0.3 * angle - 0.5
    u = 2 * np.pi / period * (np.cos(turn) * x + np.sin(turn) * y) + phase[0]
    v = 2 * np.pi / period * (np.cos(turn) * y - np.sin(turn) * x) + phase[1]
    if thing.texture == "striped":
        return (np.sin(u) * 2.5 + 0.5).clip(0, 1)
    if thing.texture == "dotted":
        return ((np.cos(u) + np.cos(v) - 0.55) * 2.5).clip(0, 1)
    return np.zeros_like(x)
