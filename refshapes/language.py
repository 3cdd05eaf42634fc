"""RefShapes forms: what an expression means, as a logical form that exactly one thing satisfies.

A *form* is plain JSON, evaluated by ``referents``:

=============================================  ==========================================================
{"filter": {"shape": "star", "size": ...}}     every thing with these attributes
{"most": "left", "of": form}                   the one farthest left / right / up / down, largest, smallest
{"nth": 2, "from": "left", "of": form}         the second from the left / right / top / bottom
{"related": "above", "of": form, "to": form}   those of the first above the thing that the second means;
                                               also "left of", "right of", "below", "nearest to"
=============================================  ==========================================================

Positions are compared at the centres of the things. ``referents`` compares exactly; the generator demands a clear
margin besides, so that a person cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from refshapes.scene import ATTRIBUTES, Thing

Form = dict  # see the table above

KINDS = ("attribute", "superlative", "position", "ordinal", "relation", "two-step")

# What each axis of comparison reads off a thing; the farthest is the one with the smallest value.
_AXES: dict[str, Callable[[Thing], float]] = {
    "left": lambda thing: thing.x,
    "right": lambda thing: -thing.x,
    "top": lambda thing: thing.y,
    "bottom": lambda thing: -thing.y,
    "small": lambda thing: thing.area,
    "large": lambda thing: -thing.area,
}
_RELATIONS = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}
_CLEAR_PIXELS = 9.0  # two centres are told apart at a glance
_CLEAR_RATIO = 1.6  # of two areas, or of two distances
_TRIES = 12


# ------------------------------------------------------------------------------------------------------- meaning


def referents(form: Form, things: Sequence[Thing]) -> set[int]:
    """Indices of the things that satisfy ``form``.

    Raises:
        ValueError: the form is none of the table above, or refers to a thing that is not unique.
    """
    if "filter" in form:
        wanted = form["filter"].items()
        return {i for i, thing in enumerate(things) if all(getattr(thing, name) == value for name, value in wanted)}
    candidates = referents(form["of"], things)
    if "most" in form:
        return set(_ranked(form["most"], candidates, things)[:1])
    if "nth" in form:
        ranked = _ranked(form["from"], candidates, things)
        return set(ranked[form["nth"] - 1 : form["nth"]])
    if "related" in form:
        anchors = referents(form["to"], things)
        if len(anchors) != 1:
            raise ValueError(f"the anchor {form['to']} means {len(anchors)} things")
        return related(form["related"], candidates, anchors.pop(), things)
    raise ValueError(f"no such form: {form}")


def _ranked(axis: str, candidates: set[int], things: Sequence[Thing]) -> list[int]:
    return sorted(candidates, key=lambda i: _AXES[axis](things[i]))


def _distance(a: Thing, b: Thing) -> float:
    return math.hypot(a.x - b.x, a.y - b.y)


def related(relation: str, candidates: set[int], anchor: int, things: Sequence[Thing]) -> set[int]:
    """Those of ``candidates`` that are in ``relation`` to the thing ``anchor``."""
    others = candidates - {anchor}
    if relation == "nearest to":
        return set(sorted(others, key=lambda i: _distance(things[i], things[anchor]))[:1])
    value = _AXES[_RELATIONS[relation]]
    return {i for i in others if value(things[i]) < value(things[anchor])}


def clearly_ranked(axis: str, candidates: set[int], things: Sequence[Thing], places: int) -> bool:
    """No two of the first ``places`` + 1 candidates along ``axis`` could be confused by eye."""
    values = [_AXES[axis](things[i]) for i in _ranked(axis, candidates, things)][: places + 1]
    if axis in ("small", "large"):
        return all(max(abs(a), abs(b)) >= _CLEAR_RATIO * min(abs(a), abs(b)) for a, b in zip(values, values[1:]))
    return all(b - a >= _CLEAR_PIXELS for a, b in zip(values, values[1:]))


def _clearly_related(relation: str, candidates: set[int], anchor: int, things: Sequence[Thing]) -> bool:
    others = candidates - {anchor}
    if relation == "nearest to":
        near = sorted(_distance(things[i], things[anchor]) for i in others)
        return len(near) < 2 or near[1] >= _CLEAR_RATIO * near[0]
    value = _AXES[_RELATIONS[relation]]
    return all(abs(value(things[i]) - value(things[anchor])) >= _CLEAR_PIXELS for i in others)


# -------------------------------------------------------------------------------------------------------- choice


def find_form(kind: str, things: Sequence[Thing], rng: Random) -> tuple[Form, int] | None:
    """A form of ``kind`` that means exactly one thing, and that thing; None if a few tries find none.

    Superlatives, positions, ordinals and relations are only used where they are needed: the attributes that the
    form mentions fit at least two things.
    """
    for _ in range(_TRIES):
        form = _FINDERS[kind](things, rng)
        if form and len(meant := referents(form, things)) == 1:
            return form, meant.pop()
    return None


def _random_filter(index: int, things: Sequence[Thing], rng: Random, most: int = 3) -> Form:
    """Some attributes of a thing, none to ``most`` of them; the shape is named in three of four."""
    names = [name for name in ATTRIBUTES if rng.random() < (0.75 if name == "shape" else 0.33)]
    names = rng.sample(names, min(len(names), most))
    return {"filter": {name: getattr(things[index], name) for name in ATTRIBUTES if name in names}}


def _unique_filter(index: int, things: Sequence[Thing], rng: Random, most: int = 3) -> Form | None:
    """Attributes that tell a thing from all others. Half of the time none of them is superfluous."""
    names = list(ATTRIBUTES)
    rng.shuffle(names)
    chosen: dict[str, str] = {}
    for name in names[:most]:
        chosen[name] = getattr(things[index], name)
        if referents({"filter": chosen}, things) == {index}:
            break
    if referents({"filter": chosen}, things) != {index}:
        return None
    if len(chosen) < most and rng.random() < 0.5:
        extra = rng.choice(["shape"] * 3 + names)
        chosen[extra] = getattr(things[index], extra)
    return {"filter": chosen}


def _find_attribute(things: Sequence[Thing], rng: Random) -> Form | None:
    return _unique_filter(_any(things, rng), things, rng)


def _find_superlative(things: Sequence[Thing], rng: Random) -> Form | None:
    of = _random_filter(_any(things, rng), things, rng, most=2)
    of["filter"].pop("size", None)  # "the largest small star" is a joke
    return _most(rng.choice(("small", "large")), of, things)


def _find_position(things: Sequence[Thing], rng: Random) -> Form | None:
    of = _random_filter(_any(things, rng), things, rng)
    return _most(rng.choice(("left", "right", "top", "bottom")), of, things)


def _most(axis: str, of: Form, things: Sequence[Thing]) -> Form | None:
    candidates = referents(of, things)
    needed = len(candidates) > 1 and clearly_ranked(axis, candidates, things, places=1)
    return {"most": axis, "of": of} if needed else None


def _find_ordinal(things: Sequence[Thing], rng: Random) -> Form | None:
    of = _random_filter(_any(things, rng), things, rng, most=2)
    candidates = referents(of, things)
    axis, place = rng.choice(("left", "right", "top", "bottom")), rng.choice((2, 2, 3))
    if len(candidates) < max(3, place) or not clearly_ranked(axis, candidates, things, places=place):
        return None
    return {"nth": place, "from": axis, "of": of}


def _find_relation(things: Sequence[Thing], rng: Random) -> Form | None:
    anchor = _any(things, rng)
    to = _unique_filter(anchor, things, rng)
    return to and _relate(anchor, to, things, rng)


def _find_two_step(things: Sequence[Thing], rng: Random) -> Form | None:
    second = _any(things, rng)
    to = _unique_filter(second, things, rng, most=2)
    middle = to and _relate(second, to, things, rng)
    return middle and _relate(referents(middle, things).pop(), middle, things, rng)


def _any(things: Sequence[Thing], rng: Random) -> int:
    return rng.randrange(len(things))


def _relate(anchor: int, to: Form, things: Sequence[Thing], rng: Random) -> Form | None:
    """{"related": ...} to ``anchor`` that singles out one among at least two candidates, or None."""
    for _ in range(_TRIES):
        of = _random_filter(_any(things, rng), things, rng, most=2)
        candidates = referents(of, things)
        relation = rng.choice((*_RELATIONS, "nearest to"))
        if len(candidates - {anchor}) < 2 or not _clearly_related(relation, candidates, anchor, things):
            continue
        if len(related(relation, candidates, anchor, things)) == 1:
            return {"related": relation, "of": of, "to": to}
    return None


_FINDERS = {
    "attribute": _find_attribute,
    "superlative": _find_superlative,
    "position": _find_position,
    "ordinal": _find_ordinal,
    "relation": _find_relation,
    "two-step": _find_two_step,
}
