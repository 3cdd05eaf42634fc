"""The sentences of RefShapes-Video: about the motion of a thing, its place, or its shape and colour."""

from __future__ import annotations

from random import Random

from refshapes import language
from refshapes.language import Form
from refshapes.motion import DIRECTIONS, KIND_OF, Clip, Sentence, candidates, referent


def motion_sentences(clip: Clip, motions: list[str], count: int, rng: Random) -> list[Sentence] | None:
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
    if KIND_OF[motion] is None or referent(form, clip) != index:
        return None
    return _say(form, index, clip, rng)


def passing_sentences(clip: Clip, motions: list[str], rng: Random) -> list[Sentence]:
    """The one about passing, and sometimes that its look-alike stands still."""
    passing = motions.index("passing")
    asked = [_motion_sentence(clip, "passing", passing, rng, behind=clip.centre[-1].shape)]
    if motions[1 - passing] == "still" and rng.random() < 0.5:
        asked.append(_motion_sentence(clip, "still", 1 - passing, rng))
    return [sentence for sentence in asked if sentence is not None]


def static_sentence(clip: Clip, taken: set[int], rng: Random) -> Sentence:
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


_PLACES = {  # of two; of any number; after the noun
    "left": ("left", "leftmost", "on the left"),
    "right": ("right", "rightmost", "on the right"),
    "top": ("upper", "topmost", "at the top"),
    "bottom": ("lower", "lowest", "at the bottom"),
}
_DOES = {
    **{to: (f"moving {to}", f"going {to}", f"that moves {to}") for to in DIRECTIONS},
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
        kind = KIND_OF[form["motion"]]
        noun = f"{noun} {rng.choice(_DOES[form['motion']])}" + (f" {form['behind']}" if "behind" in form else "")
    elif "most" in form:
        kind = "position"
        of_two, of_any, after = _PLACES[form["most"]]
        before = rng.choice((of_two, of_any) if len(fitting) == 2 else (of_any,))
        noun = f"{before} {noun}" if rng.random() < 0.7 else f"{noun} {after}"
    text = f"the {noun}" if rng.random() < 0.8 else noun
    return Sentence(kind, form, index, tuple(fitting), text)
