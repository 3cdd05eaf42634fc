"""RefShapes expressions: a logical form that exactly one thing satisfies, and many ways to say it.

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

An expression is a list of ``Word``s: each content word knows the things it is true of. That is the ground truth
against which word maps are scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from refseg.datasets.refshapes.scene import ATTRIBUTES, Thing

Form = dict  # see the table above

KINDS = ("attribute", "superlative", "position", "ordinal", "relation", "two-step")
MAX_WORDS = 20

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


@dataclass(frozen=True)
class Word:
    """One word, and the indices of the things it is true of; None for a word that is true of nothing by itself."""

    text: str
    things: frozenset[int] | None = None


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
        return _related(form["related"], candidates, anchors.pop(), things)
    raise ValueError(f"no such form: {form}")


def _ranked(axis: str, candidates: set[int], things: Sequence[Thing]) -> list[int]:
    return sorted(candidates, key=lambda i: _AXES[axis](things[i]))


def _distance(a: Thing, b: Thing) -> float:
    return math.hypot(a.x - b.x, a.y - b.y)


def _related(relation: str, candidates: set[int], anchor: int, things: Sequence[Thing]) -> set[int]:
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
        meant = referents(form, things) if form else set()
        if len(meant) == 1:
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
    return _find_most(rng.choice(("small", "large")), of, things)


def _find_position(things: Sequence[Thing], rng: Random) -> Form | None:
    of = _random_filter(_any(things, rng), things, rng)
    return _find_most(rng.choice(("left", "right", "top", "bottom")), of, things)


def _find_most(axis: str, of: Form, things: Sequence[Thing]) -> Form | None:
    candidates = referents(of, things)
    if len(candidates) < 2 or not clearly_ranked(axis, candidates, things, places=1):
        return None
    return {"most": axis, "of": of}


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
        if len(_related(relation, candidates, anchor, things)) == 1:
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


# ------------------------------------------------------------------------------------------------------- wording

SYNONYMS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "cross": ("cross", "cross", "plus"),
    "small": ("small", "small", "little"),
    "large": ("large", "big", "big"),
    "plain": ("plain",),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
}
_WITH_TEXTURE = {"striped": "stripes", "dotted": "dots"}
_GENERIC = ("thing", "object", "shape")
_MOST_BEFORE = {
    "left": ("leftmost",),
    "right": ("rightmost",),
    "top": ("topmost", "highest"),
    "bottom": ("lowest",),
    "small": ("smallest",),
    "large": ("largest", "biggest"),
}
_MOST_BEHIND = {
    "left": ("on the far left",),
    "right": ("on the far right",),
    "top": ("at the very top",),
    "bottom": ("at the very bottom",),
}
_FROM = {"left": "from the left", "right": "from the right", "top": "from the top", "bottom": "from the bottom"}
_NTH = {2: ("second",), 3: ("third",)}
_RELATED = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "above", "over"),
    "below": ("below", "below", "under"),
    "nearest to": ("nearest to", "closest to"),
}
_LINKS = ("", "", "that is", "which is")
_TIGHT_LINKS = ("that is", "which is")  # "the star left of the circle above the cross": what is above the cross?


def word_form(form: Form, things: Sequence[Thing], rng: Random) -> list[Word] | None:
    """One wording of a form, at most MAX_WORDS long; None if eight tries were all longer."""
    for _ in range(8):
        article = [Word("the")] if rng.random() < 0.75 else []
        words = article + _phrase(form, things, rng)
        if len(words) <= MAX_WORDS:
            return words
    return None


def _phrase(form: Form, things: Sequence[Thing], rng: Random, links: Sequence[str] = _LINKS) -> list[Word]:
    """The words of a form without the article in front."""
    if "filter" in form:
        return _noun_phrase(form["filter"], things, rng)
    inner = _phrase(form["of"], things, rng)
    meant = frozenset(referents(form, things))
    if "most" in form:
        axis = form["most"]
        if axis in _MOST_BEHIND and rng.random() < 0.4:
            return inner + _mark(rng.choice(_MOST_BEHIND[axis]), meant)
        return _mark(rng.choice(_MOST_BEFORE[axis]), meant) + inner
    if "nth" in form:
        nth = _mark(rng.choice(_NTH[form["nth"]]), meant)
        place = _plain(_FROM[form["from"]])
        return nth + inner + place if rng.random() < 0.7 else inner + _plain("that is") + nth + place
    anchor = referents(form["to"], things)
    true_of = frozenset(_related(form["related"], set(range(len(things))), *anchor, things))
    relation = _mark(rng.choice(_RELATED[form["related"]]), true_of)
    return [*inner, *_plain(rng.choice(links)), *relation, Word("the"), *_phrase(form["to"], things, rng, _TIGHT_LINKS)]


def _noun_phrase(wanted: dict[str, str], things: Sequence[Thing], rng: Random) -> list[Word]:
    """Adjectives in the usual order, then the noun; the texture or the colour sometimes follow behind it."""

    def said(name: str) -> list[Word]:
        true_of = frozenset(i for i, thing in enumerate(things) if getattr(thing, name) == wanted[name])
        return [Word(rng.choice(SYNONYMS.get(wanted[name], (wanted[name],))), true_of)]

    noun = said("shape") if "shape" in wanted else _plain(rng.choice(_GENERIC))
    before = [name for name in ("size", "texture", "colour") if name in wanted]
    behind: list[Word] = []
    if "texture" in before and wanted["texture"] in _WITH_TEXTURE and rng.random() < 0.3:
        before.remove("texture")
        behind = [Word("with"), Word(_WITH_TEXTURE[wanted["texture"]], said("texture")[0].things)]
    elif "colour" in before and rng.random() < 0.12:
        before.remove("colour")
        behind = [*_plain("that is"), *said("colour")]
    return [word for name in before for word in said(name)] + noun + behind


def _plain(text: str) -> list[Word]:
    return [Word(word) for word in text.split()]


_FUNCTION_WORDS = frozenset("the to on of at very far".split())


def _mark(text: str, true_of: frozenset[int]) -> list[Word]:
    """Words of a fixed phrase; its content words are true of ``true_of``."""
    return [Word(word, None if word in _FUNCTION_WORDS else true_of) for word in text.split()]


# ------------------------------------------------------------------------------------------------- kinds of words

WORD_KINDS = (*ATTRIBUTES, "superlative", "place", "ordinal", "relation")


def word_kinds(words: Sequence[str]) -> list[str | None]:
    """What each word of an expression speaks of, one of ``WORD_KINDS``; None for function words and "thing".

    >>> word_kinds("the red star left of the smallest box on the left".split())
    [None, 'colour', 'shape', 'relation', None, None, 'superlative', 'shape', None, None, 'place']
    """
    kinds = _kind_table()
    return [
        "relation" if word in ("left", "right") and after == "of" else kinds.get(word)
        for word, after in zip(words, [*words[1:], ""])
    ]


def content_words(
    words: Sequence[str], word_objects: Sequence[Sequence[int] | None]
) -> Iterator[tuple[int, str, str, Sequence[int]]]:
    """(position, word, kind, annotations) of every word of an expression that is true of something by itself.

    Args:
        words: of the expression, perhaps fewer than it has.
        word_objects: the fact of that name, see ``datasets.refshapes``.
    """
    for position, (word, kind, true_of) in enumerate(zip(words, word_kinds(words), word_objects)):
        if kind and true_of:
            yield position, word, kind, true_of


@cache
def _kind_table() -> dict[str, str]:
    """Every content word with its kind; "left" and "right" as places."""
    table = {word: "relation" for texts in _RELATED.values() for text in texts for word in text.split()}
    table |= {word: "ordinal" for texts in _NTH.values() for word in texts}
    table |= {word: "place" for texts in _MOST_BEHIND.values() for text in texts for word in text.split()}
    for axis, texts in _MOST_BEFORE.items():
        table |= dict.fromkeys(texts, "superlative" if axis in ("small", "large") else "place")
    for name, values in ATTRIBUTES.items():
        table |= {word: name for value in values for word in SYNONYMS.get(value, (value,))}
    table |= dict.fromkeys(_WITH_TEXTURE.values(), "texture")
    return {word: kind for word, kind in table.items() if word not in _FUNCTION_WORDS}
