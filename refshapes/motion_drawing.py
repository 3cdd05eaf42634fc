"""Drawing the clips of RefShapes-Video: who stands where and does what, so that only motion tells look-alikes apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from refshapes.motion import (
    CENTRE,
    DIRECTIONS,
    FRAMES,
    SIDE,
    Clip,
    Motion,
    Sentence,
    pixels,
    referent,
)
from refshapes.motion_wording import motion_sentences, passing_sentences, static_sentence
from refshapes.scene import COLOURS, MIN_VISIBLE, SHAPES, Thing

_RADIUS = (6.5, 9.0)
_SPEED = (2.6, 4.0)  # pixels per frame
_PASSING_SPEED = (4.4, 5.2)
_GROWTH = (1.16, 1.18)  # per frame: 0.73 to 1.37 of the radius in the centre frame
_SPIN = {"square": (25.5, 28.5), "triangle": (20, 26), "star": (25, 28.5), "cross": (25.5, 28.5)}  # degrees per frame
_TILT = 15  # degrees either way

# How often a thing of a group does what. Standing still and moving on can be asked less often than the others.
_WEIGHTS = {
    "left": 1.0,
    "right": 1.0,
    "up": 1.0,
    "down": 1.0,
    "turning": 1.5,
    "stopping": 0.9,
    "starting": 0.9,
    "still": 1.2,
    "growing": 0.8,
    "shrinking": 0.8,
}
# Sentences about motion and others of a clip, and how often.
_COUNTS = {(1, 1): 0.2, (2, 0): 0.25, (2, 1): 0.35, (3, 0): 0.2}
_PASSING_SHARE = 0.2


def invent(rng: Random) -> tuple[Clip, list[str], list[Sentence]]:
    """A clip, the name of each thing's motion, and two or three sentences about different things.

    The sentences about motion are chosen first, and no clip is thrown away for want of the others: a place that is
    taken must not tell who is meant.
    """
    passing = rng.random() < _PASSING_SHARE
    (counts,) = rng.choices(tuple(_COUNTS), tuple(_COUNTS.values()))
    while True:
        drawn = _draw_passing(rng) if passing else _draw_groups(rng)
        if drawn is None:
            continue
        clip, motions = drawn
        asked = passing_sentences(clip, motions, rng) if passing else motion_sentences(clip, motions, counts[0], rng)
        if asked is None:
            continue
        for _ in range(1 if passing else counts[1]):
            asked.append(static_sentence(clip, {sentence.referent for sentence in asked}, rng))
        return clip, motions, asked


@dataclass(frozen=True)
class _Part:
    """A thing yet to be placed: at the origin, or beside the others of its unit. It may get any of ``motions``."""

    thing: Thing
    motions: tuple[Motion, ...]

    def path(self) -> np.ndarray:
        """x, y and radius relative to the place of the unit, [motions, FRAMES, 3]."""
        states = [[motion.at(self.thing, t - CENTRE) for t in range(FRAMES)] for motion in self.motions]
        return np.array([[(thing.x, thing.y, thing.radius) for thing in row] for row in states])


def _draw_groups(rng: Random) -> tuple[Clip, list[str]] | None:
    """Two or three look-alikes, sometimes two more, and one or two others; None where there is no room for them."""
    sizes = rng.choice(((2,), (3,), (3,), (2, 2), (3, 2)))
    singles = 1 if sum(sizes) == 5 else rng.randint(1, 2)
    kinds = _draw_kinds(len(sizes) + singles, rng)
    groups = []
    for size, kind in zip((*sizes, *[1] * singles), kinds):
        motions = _draw_motions(kind[0], size, rng)
        radius = rng.uniform(*_RADIUS)
        groups.append([_Part(_draw_thing(kind, radius, rng), motions) for _ in range(size)])
    places = _place([[part] for group in groups for part in group], rng)
    if places is None:
        return None
    things, motions = [], []
    for group in groups:
        things += [replace(part.thing, x=x, y=y) for part, (x, y) in zip(group, places)]
        places = places[len(group) :]
        motions += rng.sample(group[0].motions, len(group))  # who does what is decided last
    order = rng.sample(range(len(things)), len(things))  # the order of invention must not tell who is in front
    clip = _film([things[i] for i in order], [motions[i] for i in order])
    if min(clip.visible) < MIN_VISIBLE:
        return None
    return clip, [motions[i].name for i in order]


def _draw_kinds(count: int, rng: Random) -> list[tuple[str, str]]:
    """Different pairs of shape and colour; most share one of the two with an earlier pair."""
    kinds: list[tuple[str, str]] = []
    while len(kinds) < count:
        shape, colour = rng.choice(SHAPES), rng.choice(tuple(COLOURS))
        if kinds and rng.random() < 0.75:
            model = rng.choice(kinds)
            shape, colour = (model[0], colour) if rng.random() < 0.6 else (shape, model[1])
        if (shape, colour) not in kinds:
            kinds.append((shape, colour))
    return kinds


def _draw_thing(kind: tuple[str, str], radius: float, rng: Random) -> Thing:
    shape, colour = kind
    tilt = 0.0 if shape == "circle" else round(rng.uniform(-_TILT, _TILT), 1)
    return Thing(shape, colour, "small", "plain", 0.0, 0.0, round(radius * rng.uniform(0.98, 1.02), 2), tilt)


def _draw_motions(shape: str, count: int, rng: Random) -> tuple[Motion, ...]:
    """Different motions for look-alikes."""
    weights = {name: weight for name, weight in _WEIGHTS.items() if name != "turning" or shape in _SPIN}
    motions = []
    for _ in range(count):
        (name,) = rng.choices(tuple(weights), tuple(weights.values()))
        del weights[name]
        motions.append(_draw_motion(name, shape, rng))
    return tuple(motions)


def _draw_motion(name: str, shape: str, rng: Random) -> Motion:
    if name == "turning":
        return Motion(name, spin=round(rng.choice((-1, 1)) * rng.uniform(*_SPIN[shape]), 1))
    if name in ("growing", "shrinking"):
        growth = rng.uniform(*_GROWTH)
        return Motion(name, growth=growth if name == "growing" else 1 / growth)
    if name == "still":
        return Motion(name)
    dx, dy = DIRECTIONS[name] if name in DIRECTIONS else rng.choice(tuple(DIRECTIONS.values()))
    speed = round(rng.uniform(*_SPEED), 2)
    return Motion(name, dx * speed, dy * speed)


def _film(things: Sequence[Thing], motions: Sequence[Motion]) -> Clip:
    return Clip([[m.at(thing, t - CENTRE) for thing, m in zip(things, motions)] for t in range(FRAMES)])


def _place(
    units: list[list[_Part]], rng: Random, border: float = 2.0, apart: tuple[float, float] = (0.85, 0.65)
) -> list[tuple[float, float]] | None:
    """A place for every unit where it may do any of its motions, whatever the others do; None where none was found.

    Args:
        units: the parts of each keep their places relative to one another.
        rng: source of chance.
        border: pixels that are free between a thing and the border in the centre frame. In the other frames it may
            be cut by the border: else its place would tell its motion.
        apart: least distance in sums of radii, in the centre frame and in the others.
    """
    least = np.full(FRAMES, apart[1])
    least[CENTRE] = apart[0]
    paths = [np.concatenate([part.path() for part in unit]) for unit in units]
    reach = [max(math.hypot(part.thing.x, part.thing.y) + 1.16 * part.thing.radius for part in u) for u in units]
    for _ in range(8):
        places: list[tuple[float, float]] = []
        taken: list[np.ndarray] = []
        for path, radius in zip(paths, reach):
            for _ in range(25):
                x, y = (round(rng.uniform(radius + border, SIDE - radius - border), 2) for _ in range(2))
                path_here = path + (x, y, 0)
                if all(_keep_apart(path_here, other, least) for other in taken):
                    places.append((x, y))
                    taken.append(path_here)
                    break
            else:
                break
        if len(places) == len(units):
            return places
    return None


def _keep_apart(a: np.ndarray, b: np.ndarray, least: np.ndarray) -> bool:
    difference = a[:, None] - b[None]
    distance = difference[..., 0] ** 2 + difference[..., 1] ** 2
    return bool((distance >= (least * (a[:, None, :, 2] + b[None, :, :, 2])) ** 2).all())


def _draw_passing(rng: Random) -> tuple[Clip, list[str]] | None:
    """Two look-alikes half hidden by two things of one shape: one passes, the other rests or comes and goes back."""
    shape, behind = rng.choice([(a, b) for a in SHAPES for b in ("square", "circle") if a != b])
    kind = shape, rng.choice(tuple(COLOURS))
    covers = [(behind, rng.choice([colour for colour in COLOURS if colour != kind[1]])) for _ in range(2)]
    other = next(k for k in _draw_kinds(4, rng) if k != kind and k not in covers)

    horizontal, radius = rng.random() < 0.5, rng.uniform(*_RADIUS)
    speeds = [rng.choice((-1, 1)) * round(rng.uniform(*_PASSING_SPEED), 2) for _ in range(2)]
    through = Motion("passing", *((speeds[0], 0.0) if horizontal else (0.0, speeds[0])))
    back = Motion("returning", *((speeds[1], 0.0) if horizontal else (0.0, speeds[1])))
    motions = through, rng.choice((Motion("still"), back))

    units = []
    for cover in covers:
        front = _draw_thing(cover, rng.uniform(7.5, _RADIUS[1]), rng)
        hidden = _put_behind(_draw_thing(kind, radius, rng), front, horizontal, rng)
        if hidden is None:
            return None
        units.append([_Part(hidden, motions), _Part(front, (Motion("still"),))])
    units.append([_Part(_draw_thing(other, rng.uniform(*_RADIUS), rng), _draw_motions(other[0], 1, rng))])
    places = _place(units, rng, border=1.0, apart=(1.0, 0.9))
    if places is None:
        return None
    placed = [
        [replace(part.thing, x=round(part.thing.x + x, 2), y=round(part.thing.y + y, 2)) for part in unit]
        for unit, (x, y) in zip(units, places)
    ]
    things = [placed[0][0], placed[1][0], placed[2][0], placed[0][1], placed[1][1]]
    still, alone = Motion("still"), units[2][0].motions[0]
    form = {"motion": "passing", "behind": behind, "of": {"filter": {"shape": shape, "colour": kind[1]}}}
    deals = [[*order, alone, still, still] for order in (motions, motions[::-1])]
    clips = [_film(things, deal) for deal in deals]
    if [referent(form, clip) for clip in clips] != [0, 1]:  # either of the two could have passed
        return None
    if min(clips[0].visible[2:]) < MIN_VISIBLE:
        return None
    chosen = rng.randrange(2)
    return clips[chosen], [motion.name for motion in deals[chosen]]


def _put_behind(thing: Thing, front: Thing, horizontal: bool, rng: Random) -> Thing | None:
    """The thing beside the centre of ``front``, across the direction of passing, so that about half of it shows."""
    for _ in range(12):
        offset = round(rng.choice((-1, 1)) * rng.uniform(0.4, 1.2) * front.radius, 2)
        put = replace(thing, **({"y": offset} if horizontal else {"x": offset}))
        whole, over = (pixels(replace(t, x=t.x + SIDE / 2, y=t.y + SIDE / 2)) for t in (put, front))
        if 0.4 <= (whole & over).sum() / whole.sum() <= 0.6:
            return put
    return None
