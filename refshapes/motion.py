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

import numpy as np

from refshapes import language
from refshapes.language import Form
from refshapes.scene import MIN_VISIBLE, Thing, rasterise, visible_masks

SIDE = 64  # frames are SIDE x SIDE pixels
FRAMES = 5
CENTRE = 2  # index of the annotated frame

KINDS = ("direction", "turn", "stop", "still", "size", "pass", "attribute", "position")
KIND_OF = {  # what a thing can do, and the kind of sentence that asks for it; coming back is only ever a distraction
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
MOTIONS = tuple(KIND_OF)
STATIC_KINDS = ("attribute", "position")

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_PERIOD = {"square": 90, "triangle": 120, "star": 72, "cross": 90}  # degrees after which a shape looks the same
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
        return [mask.sum() / pixels(thing).sum() for mask, thing in zip(self.masks, self.centre)]

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


def pixels(thing: Thing) -> np.ndarray:
    """Of the whole thing, hidden parts included, [SIDE, SIDE] bool."""
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
    if motion in DIRECTIONS:
        return _moves(track, *DIRECTIONS[motion])
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
    whole = [pixels(thing) for thing in track]
    hidden = []  # of each thing of that shape in front, the share that it hides in every frame
    for i in range(index + 1, len(clip.centre)):
        if clip.centre[i].shape == shape:
            over = [pixels(thing) for thing in clip.track(i)]
            hidden.append([(mine & other).sum() / mine.sum() for mine, other in zip(whole, over)])
    if math.hypot(track[-1].x - track[0].x, track[-1].y - track[0].y) <= _RESTS or not np.any(hidden):
        return False
    straight = any(_moves(track, *direction) for direction in DIRECTIONS.values())
    through = any(h[CENTRE] >= _HALF_HIDDEN[0] and max(h[0], h[-1]) <= _FREE for h in hidden)
    return True if straight and through else None
