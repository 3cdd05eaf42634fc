"""The words of RefShapes expressions: many ways to say a form, and what each word is true of.

An expression is a list of ``Word``s: each content word knows the things it is true of. That is the ground truth
with which word maps are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from refshapes.language import Form, referents, related
from refshapes.scene import ATTRIBUTES, Thing

MAX_WORDS = 20


@dataclass(frozen=True)
class Word:
    """One word, and the indices of the things it is true of; None for a word that is true of nothing by itself."""

    text: str
    things: frozenset[int] | None = None


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
_MOST_AFTER = {
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
        if axis in _MOST_AFTER and rng.random() < 0.4:
            return inner + _mark(rng.choice(_MOST_AFTER[axis]), meant)
        return _mark(rng.choice(_MOST_BEFORE[axis]), meant) + inner
    if "nth" in form:
        nth = _mark(rng.choice(_NTH[form["nth"]]), meant)
        place = _plain(_FROM[form["from"]])
        return nth + inner + place if rng.random() < 0.7 else inner + _plain("that is") + nth + place
    (anchor,) = referents(form["to"], things)
    true_of = frozenset(related(form["related"], set(range(len(things))), anchor, things))
    relation = _mark(rng.choice(_RELATED[form["related"]]), true_of)
    return [*inner, *_plain(rng.choice(links)), *relation, Word("the"), *_phrase(form["to"], things, rng, _TIGHT_LINKS)]


def _noun_phrase(wanted: dict[str, str], things: Sequence[Thing], rng: Random) -> list[Word]:
    """Adjectives in the usual order, then the noun; the texture or the colour sometimes follow it."""

    def said(name: str) -> list[Word]:
        true_of = frozenset(i for i, thing in enumerate(things) if getattr(thing, name) == wanted[name])
        return [Word(rng.choice(SYNONYMS.get(wanted[name], (wanted[name],))), true_of)]

    noun = said("shape") if "shape" in wanted else _plain(rng.choice(_GENERIC))
    before = [name for name in ("size", "texture", "colour") if name in wanted]
    after: list[Word] = []
    if "texture" in before and wanted["texture"] in _WITH_TEXTURE and rng.random() < 0.3:
        before.remove("texture")
        after = [Word("with"), Word(_WITH_TEXTURE[wanted["texture"]], said("texture")[0].things)]
    elif "colour" in before and rng.random() < 0.12:
        before.remove("colour")
        after = [*_plain("that is"), *said("colour")]
    return [word for name in before for word in said(name)] + noun + after


def _plain(text: str) -> list[Word]:
    return [Word(word) for word in text.split()]


_FUNCTION_WORDS = frozenset("the to on of at very far".split())


def _mark(text: str, true_of: frozenset[int]) -> list[Word]:
    """Words of a fixed phrase; its content words are true of ``true_of``."""
    return [Word(word, None if word in _FUNCTION_WORDS else true_of) for word in text.split()]


# ------------------------------------------------------------------------------------------------- kinds of words

WORD_KINDS = (*ATTRIBUTES, "superlative", "place", "ordinal", "relation")
# Every word for an attribute with the value that it means: MEANINGS["shape"]["disc"] is "circle".
MEANINGS = {
    name: {word: value for value in values for word in SYNONYMS.get(value, (value,))}
    for name, values in ATTRIBUTES.items()
}


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


@cache
def _kind_table() -> dict[str, str]:
    """Every content word with its kind; "left" and "right" as places."""
    table = {word: "relation" for texts in _RELATED.values() for text in texts for word in text.split()}
    table |= {word: "ordinal" for texts in _NTH.values() for word in texts}
    table |= {word: "place" for texts in _MOST_AFTER.values() for text in texts for word in text.split()}
    for axis, texts in _MOST_BEFORE.items():
        table |= dict.fromkeys(texts, "superlative" if axis in ("small", "large") else "place")
    table |= {word: name for name, words in MEANINGS.items() for word in words}
    table |= dict.fromkeys(_WITH_TEXTURE.values(), "texture")
    return {word: kind for word, kind in table.items() if word not in _FUNCTION_WORDS}
