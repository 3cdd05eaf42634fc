"""RefShapes-Video clips: look-alikes that only their motion tells apart, and sentences that each mean one thing.

A clip is five scenes of the same things; the centre one is annotated. Every motion is defined around the centre frame,
and the motions of a group of look-alikes are dealt out to its members by chance after everything in that frame is
settled, at places where each member could have any of them. So for a sentence about motion the centre frame alone
leaves all members of the group equally likely.

A *form* is plain JSON:

==================================================  ===============================================================
{"motion": "left", "of": {"filter": {...}}}         the one of those that does this; see MOTIONS
{"motion": "passing", "behind": "square", "of": .}  the one that passes behind a thing of that shape
{"most": "left", "of": {"filter": {...}}}           as in ``language``, in the centre frame
{"filter": {"shape": "star", "colour": "red"}}      as in ``language``
==================================================  ===============================================================

``referent`` proves a form: one thing satisfies it, by a clear margin, and no other thing might. It looks at where the
things are in the frames, not at the motions they were given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from random import Random

import numpy as np

from refseg.datasets.refshapes import language
from refseg.datasets.refshapes.language import Form
from refseg.datasets.refshapes.scene import COLOURS, MIN_VISIBLE, SHAPES, Thing, rasterise, visible_masks

SIDE = 64  # frames are SIDE x SIDE pixels
FRAMES = 5
CENTRE = 2  # index of the annotated frame

KINDS = ("direction", "turn", "stop", "still", "size", "pass", "attribute", "position")
_KIND_OF = {  # what a thing can do, and the kind of sentence that asks for it; coming back is only ever a distraction
    "left": "direction",
    "right": "direction",
    "up": "direction",
    "down": "direction",
    "turning": "turn",
    "stopping": "stop",
    "starting": "stop",
    "still": "still",
    "growing": "size",
    "shrinking": "size",
    "passing": "pass",
    "returning": None,
}
MOTIONS = tuple(_KIND_OF)
STATIC_KINDS = ("attribute", "position")

_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_RADIUS = (6.5, 9.0)
_SPEED = (2.6, 4.0)  # pixels per frame
_PASSING_SPEED = (4.4, 5.2)
_GROWTH = (1.16, 1.18)  # per frame: 0.73 to 1.37 of the radius in the centre frame
_SPIN = {"square": (25.5, 28.5), "triangle": (20, 26), "star": (25, 28.5), "cross": (25.5, 28.5)}  # degrees per frame
_PERIOD = {"square": 90, "triangle": 120, "star": 72, "cross": 90}  # degrees after which a shape looks the same
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

# Margins of the proof, in pixels per frame, degrees per frame, and so on.
_MOVES, _RESTS = 2.0, 0.5
_TURNS, _KEEPS_ANGLE = 15.0, 1.0
_NEW_LOOK = 12.0  # degrees that a turning thing is off from looking as before
_GROWS, _KEEPS_SIZE = 1.1, 1.02
_ALIKE = 1.06  # of two radii in the centre frame
_HALF_HIDDEN = (0.36, 0.64)  # of a thing that passes, and of its look-alike, in the centre frame
_FREE = 0.25  # hidden at most, where it comes from and goes to


@dataclass(frozen=True)
class Motion:
    """What a thing does around its state in the centre frame; pixels, degrees and a factor, per frame."""

    name: str
    dx: float = 0.0
    dy: float = 0.0
    spin: float = 0.0
    growth: float = 1.0

    def at(self, thing: Thing, time: int) -> Thing:
        """The thing ``time`` frames after the centre frame."""
        phase = {"stopping": min(time, 0), "starting": max(time, 0), "returning": abs(time)}.get(self.name, time)
        return replace(
            thing,
            x=round(thing.x + self.dx * phase, 2),
            y=round(thing.y + self.dy * phase, 2),
            radius=round(thing.radius * self.growth**phase, 2),
            angle=round(thing.angle + self.spin * phase, 1),
        )


@dataclass(frozen=True)
class Clip:
    """``frames[t][i]`` is thing i in frame t, in painting order, later ones in front."""

    frames: list[list[Thing]]

    @property
    def centre(self) -> list[Thing]:
        """The things in the annotated frame."""
        return self.frames[CENTRE]

    @cached_property
    def masks(self) -> list[np.ndarray]:
        """What can be seen of each thing in the annotated frame, [SIDE, SIDE] bool each."""
        return visible_masks(self.centre, SIDE)

    @cached_property
    def visible(self) -> list[float]:
        """The share of each thing that can be seen in the annotated frame."""
        return [mask.sum() / _mask(thing).sum() for mask, thing in zip(self.masks, self.centre)]

    def track(self, index: int) -> list[Thing]:
        """One thing in all frames."""
        return [things[index] for things in self.frames]


@dataclass(frozen=True)
class Sentence:
    """What is said of one thing; ``candidates`` are those that its form fits without the motion or the place."""

    kind: str
    form: Form
    referent: int
    candidates: tuple[int, ...]
    text: str


def _mask(thing: Thing) -> np.ndarray:
    return rasterise(thing.outline(), SIDE, SIDE)


# --------------------------------------------------------------------------------------------------------- proof


def candidates(form: Form, clip: Clip) -> list[int]:
    """The things that a form fits if its motion or place is not heard."""
    return sorted(language.referents(form.get("of", form), clip.centre))


def referent(form: Form, clip: Clip) -> int | None:
    """The one thing that satisfies ``form``; None if it is none, several, or not clear.

    A form of motion must need its motion: at least two things fit the rest of it, and they are look-alikes in the
    centre frame: one shape, one colour, one size, and as much of them is hidden.
    """
    fitting = candidates(form, clip)
    if "motion" in form:
        verdicts = {i: does(form, i, clip) for i in fitting}
        meant = [i for i, verdict in verdicts.items() if verdict]
        clear = None not in verdicts.values() and _look_alike(fitting, clip, half_hidden=form["motion"] == "passing")
    elif "most" in form:
        meant = list(language.referents(form, clip.centre))
        clear = len(fitting) > 1 and language.clearly_ranked(form["most"], set(fitting), clip.centre, places=1)
    else:
        meant, clear = fitting, True
    return meant[0] if clear and len(meant) == 1 else None


def _look_alike(indices: Sequence[int], clip: Clip, half_hidden: bool) -> bool:
    """Nothing tells them apart in the centre frame; a half hidden pair may be asked in other words than passing."""
    things = [clip.centre[i] for i in indices]
    radii = [thing.radius for thing in things]
    states = [(1 - _HALF_HIDDEN[1], 1 - _HALF_HIDDEN[0])] + [(MIN_VISIBLE, 1)] * (not half_hidden)
    return (
        len(things) > 1
        and len({(thing.shape, thing.colour) for thing in things}) == 1
        and max(radii) <= _ALIKE * min(radii)
        and any(all(low <= clip.visible[i] <= high for i in indices) for low, high in states)
    )


def does(form: Form, index: int, clip: Clip) -> bool | None:
    """Whether a thing does what a form of motion says; None where people might disagree."""
    motion, track = form["motion"], clip.track(index)
    if motion == "passing":
        return _passes(index, form["behind"], clip)
    if motion in _DIRECTIONS:
        return _moves(track, *_DIRECTIONS[motion])
    if motion == "turning":
        return _turns(track)
    if motion in ("growing", "shrinking"):
        return _grows(track if motion == "growing" else track[::-1])
    pace = _pace(track)
    if motion == "still":
        if pace == "MMMM":
            return False
        return True if pace == "RRRR" and _turns(track) is False and _keeps_size(track) else None
    if pace is None or _turns_back(track):
        return None
    return pace == {"stopping": "MMRR", "starting": "RRMM"}[motion]


def _steps(track: Sequence[Thing]) -> list[tuple[float, float]]:
    return [(b.x - a.x, b.y - a.y) for a, b in pairwise(track)]


def _moves(track: Sequence[Thing], dx: int, dy: int) -> bool | None:
    """Along an axis in every step; no where it never does."""
    along = [x * dx + y * dy for x, y in _steps(track)]
    across = [abs(x * dy) + abs(y * dx) for x, y in _steps(track)]
    if min(along) >= _MOVES and max(across) <= _RESTS:
        return True
    return False if max(along) <= _RESTS else None


def _pace(track: Sequence[Thing]) -> str | None:
    """A letter for each step, M for moving and R for resting; None where a step is neither."""
    lengths = [math.hypot(x, y) for x, y in _steps(track)]
    if any(_RESTS < length < _MOVES for length in lengths):
        return None
    return "".join("M" if length >= _MOVES else "R" for length in lengths)


def _turns_back(track: Sequence[Thing]) -> bool:
    return any(a[0] * b[0] + a[1] * b[1] < -_RESTS for a, b in pairwise(_steps(track)))


def _turns(track: Sequence[Thing]) -> bool | None:
    turns = [b.angle - a.angle for a, b in pairwise(track)]
    if max(map(abs, turns)) <= _KEEPS_ANGLE:
        return False
    if track[0].shape not in _PERIOD or min(map(abs, turns)) < _TURNS or len({turn > 0 for turn in turns}) > 1:
        return None
    period = _PERIOD[track[0].shape]
    first, middle, last = track[0].angle, track[CENTRE].angle, track[-1].angle
    off = [abs((a - b + period / 2) % period - period / 2) for a, b in ((first, middle), (first, last), (middle, last))]
    return True if min(off) >= _NEW_LOOK else None


def _keeps_size(track: Sequence[Thing]) -> bool:
    radii = [thing.radius for thing in track]
    return max(radii) <= _KEEPS_SIZE * min(radii)


def _grows(track: Sequence[Thing]) -> bool | None:
    ratios = [b.radius / a.radius for a, b in pairwise(track)]
    if min(ratios) >= _GROWS:
        return True
    return False if _keeps_size(track) or max(ratios) <= 1 / _GROWS else None


def _passes(index: int, shape: str, clip: Clip) -> bool | None:
    """Straight through behind a thing of ``shape``: free of it, half hidden by it in the centre frame, free again.

    No for what ends where it began, and for what nothing of that shape ever hides.
    """
    track = clip.track(index)
    whole = [_mask(thing) for thing in track]
    hidden = []  # of each thing of that shape in front, the share that it hides in every frame
    for i in range(index + 1, len(clip.centre)):
        if clip.centre[i].shape == shape:
            over = [_mask(thing) for thing in clip.track(i)]
            hidden.append([(mine & other).sum() / mine.sum() for mine, other in zip(whole, over)])
    if math.hypot(track[-1].x - track[0].x, track[-1].y - track[0].y) <= _RESTS or not np.any(hidden):
        return False
    straight = any(_moves(track, *direction) for direction in _DIRECTIONS.values())
    through = any(h[CENTRE] >= _HALF_HIDDEN[0] and max(h[0], h[-1]) <= _FREE for h in hidden)
    return True if straight and through else None


# ------------------------------------------------------------------------------------------------------- drawing


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
        asked = _passing_sentences(clip, motions, rng) if passing else _motion_sentences(clip, motions, counts[0], rng)
        if asked is None:
            continue
        for _ in range(1 if passing else counts[1]):
            asked.append(_static_sentence(clip, {sentence.referent for sentence in asked}, rng))
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
    dx, dy = _DIRECTIONS[name] if name in _DIRECTIONS else rng.choice(tuple(_DIRECTIONS.values()))
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
        whole, over = (_mask(replace(t, x=t.x + SIDE / 2, y=t.y + SIDE / 2)) for t in (put, front))
        if 0.4 <= (whole & over).sum() / whole.sum() <= 0.6:
            return put
    return None


# ----------------------------------------------------------------------------------------------------- sentences


def _motion_sentences(clip: Clip, motions: list[str], count: int, rng: Random) -> list[Sentence] | None:
    """``count`` sentences about the motions of different things; None if the clip does not carry them."""
    found = [s for i in range(len(motions)) if (s := _motion_sentence(clip, motions[i], i, rng)) is not None]
    # Standing still can seldom be asked for: only where all look-alikes keep moving. So it is asked for then.
    found.sort(key=lambda sentence: rng.random() + 0.5 * (sentence.kind == "still"), reverse=True)
    return found[:count] if len(found) >= count else None


def _motion_sentence(clip: Clip, motion: str, index: int, rng: Random, **more: str) -> Sentence | None:
    """What tells a thing from its look-alikes by its motion; the colour is named, or not where the shape will do."""
    thing = clip.centre[index]
    filters = [{"shape": thing.shape, "colour": thing.colour}, {"shape": thing.shape}]
    fitting = [language.referents({"filter": f}, clip.centre) for f in filters]
    short = fitting[0] == fitting[1] and rng.random() < 0.5
    form = {"motion": motion, **more, "of": {"filter": filters[short]}}
    if _KIND_OF[motion] is None or referent(form, clip) != index:
        return None
    return _say(form, index, clip, rng)


def _passing_sentences(clip: Clip, motions: list[str], rng: Random) -> list[Sentence]:
    """The one about passing, and sometimes that its look-alike stands still."""
    passing = motions.index("passing")
    asked = [_motion_sentence(clip, "passing", passing, rng, behind=clip.centre[-1].shape)]
    if motions[1 - passing] == "still" and rng.random() < 0.5:
        asked.append(_motion_sentence(clip, "still", 1 - passing, rng))
    return asked


def _static_sentence(clip: Clip, taken: set[int], rng: Random) -> Sentence:
    """About a thing that no sentence means yet: its place among its like, or its shape and colour alone.

    There always is one: some thing is the only one of its shape and colour, and never asked for by its motion.
    """
    free = [i for i in range(len(clip.centre)) if i not in taken]
    found: dict[str, list[tuple[Form, int]]] = {"position": [], "attribute": []}
    for i in free:
        thing = clip.centre[i]
        for f in ({"shape": thing.shape, "colour": thing.colour}, {"shape": thing.shape}):
            forms = [{"filter": f}] + [{"most": axis, "of": {"filter": f}} for axis in _PLACES]
            for form in forms:
                if referent(form, clip) == i:
                    found["position" if "most" in form else "attribute"].append((form, i))
    kind = "position" if found["position"] and rng.random() < 0.5 else "attribute"
    return _say(*rng.choice(found[kind]), clip, rng)


_PLACES = {  # of two; of any number; behind the noun
    "left": ("left", "leftmost", "on the left"),
    "right": ("right", "rightmost", "on the right"),
    "top": ("upper", "topmost", "at the top"),
    "bottom": ("lower", "lowest", "at the bottom"),
}
_DOES = {
    **{to: (f"moving {to}", f"going {to}", f"that moves {to}") for to in _DIRECTIONS},
    "turning": ("that turns", "that rotates", "turning around"),
    "stopping": ("that stops", "that stops moving", "that comes to rest"),
    "starting": ("that starts moving", "that starts to move", "that begins to move"),
    "still": ("that stands still", "standing still", "that does not move"),
    "growing": ("that grows", "growing", "that gets bigger"),
    "shrinking": ("that shrinks", "shrinking", "that gets smaller"),
    "passing": ("that passes behind a", "passing behind a", "that moves behind a"),
}


def _say(form: Form, index: int, clip: Clip, rng: Random) -> Sentence:
    fitting = candidates(form, clip)
    wanted = form.get("of", form)["filter"]
    noun = " ".join(wanted[name] for name in ("colour", "shape") if name in wanted)
    kind = "attribute"
    if "motion" in form:
        kind = _KIND_OF[form["motion"]]
        noun = f"{noun} {rng.choice(_DOES[form['motion']])}" + (f" {form['behind']}" if "behind" in form else "")
    elif "most" in form:
        kind = "position"
        of_two, of_any, after = _PLACES[form["most"]]
        before = rng.choice((of_two, of_any) if len(fitting) == 2 else (of_any,))
        noun = f"{before} {noun}" if rng.random() < 0.7 else f"{noun} {after}"
    text = f"the {noun}" if rng.random() < 0.8 else noun
    return Sentence(kind, form, index, tuple(fitting), text)
