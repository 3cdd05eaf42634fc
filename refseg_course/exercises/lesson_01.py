"""Lesson 01, data sets: masks made of pieces, run lengths, what a logical form means, and what one sample is."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from refseg_course.exercises import Exercise
from refshapes.language import Form, referents
from refshapes.scene import Thing

# ------------------------------------------------------------------------------------------- one mask out of pieces


def pieces_cases() -> list[tuple]:
    """Pieces [P,H,W] uint8: three that overlap all at once, two apart, and one alone."""
    overlapping = torch.zeros(3, 5, 7, dtype=torch.uint8)
    overlapping[0, :2, :4] = 1
    overlapping[1, 1:4, 2:7] = 1
    overlapping[2, :4, 3:5] = 1
    apart = torch.zeros(2, 5, 7, dtype=torch.uint8)
    apart[0, :1], apart[1, 3:] = 1, 1
    return [(overlapping,), (apart,), (apart[:1],)]


def _right_union(pieces: Tensor) -> Tensor:
    """[P,H,W] -> [H,W] bool."""
    return pieces.bool().any(0)


def _as_numbers(pieces):
    return pieces.amax(0)


def _exactly_one(pieces):
    return pieces.sum(0) == 1


def _odd(pieces):
    return pieces.sum(0) % 2 == 1


def _all_of_them(pieces):
    return pieces.bool().all(0)


def _first_piece(pieces):
    return pieces[0].bool()


def _largest_piece(pieces):
    return pieces[pieces.flatten(1).sum(1).argmax()].bool()


def _over_rows(pieces):
    return pieces.bool().any(1)


union_mask = Exercise(
    title="One mask out of many pieces",
    difficulty=1,
    importance=5,
    minutes=5,
    right=_right_union,
    cases=pieces_cases,
    mistakes=[
        (
            lambda pieces: pieces.sum(0),
            "It looks like a sum of the pieces: a pixel of two pieces counts 2. A pixel belongs to the referent or it "
            "does not.",
        ),
        (_exactly_one, "Pixels that lie in two pieces are lost: it looks as if only a count of exactly one is kept."),
        (_odd, "A pixel of two pieces is lost and one of three is kept: it looks like an exclusive or."),
        (_all_of_them, "Only the pixels that all pieces share are kept. A referent is all of its pieces."),
        (_first_piece, "It looks as if only the first piece is kept."),
        (_largest_piece, "It looks as if only the largest piece is kept."),
        (_over_rows, "The rows are merged and the pieces are still apart. Which dimension counts the pieces?"),
        (_as_numbers, "The right pixels, but as 0 and 1. A mask is bool, or `mask1 & mask2` means something else."),
    ],
    verified="pieces that overlap, pieces apart, a single piece",
)


# --------------------------------------------------------------------------------------------------- run lengths


def runs_cases() -> list[tuple]:
    """counts, height, width: background first, an object that begins at the first pixel, and no background at all."""
    return [([4, 3, 2, 1, 5], 3, 5), ([0, 2, 3, 1, 9], 5, 3), ([0, 21], 3, 7)]


def _right_decode(counts: list[int], height: int, width: int) -> Tensor:
    """[height,width] bool; runs go down the columns and the first is background."""
    return _pixels(counts).view(width, height).T


def _pixels(counts, first=False):
    turns = torch.tensor([bool(number % 2) != first for number in range(len(counts))])
    return turns.repeat_interleave(torch.tensor(counts))


def _along_rows(counts, height, width):
    return _pixels(counts).view(height, width)


def _object_first(counts, height, width):
    return _pixels(counts, first=True).view(width, height).T


def _object_first_along_rows(counts, height, width):
    return _pixels(counts, first=True).view(height, width)


def _not_turned(counts, height, width):
    return _pixels(counts).view(width, height)


def _empty_runs_skipped(counts, height, width):
    return _right_decode([count for count in counts if count], height, width)


def _start_and_length(counts, height, width):
    pixels = torch.zeros(height * width, dtype=torch.bool)
    for start, length in zip(counts[::2], counts[1::2]):
        pixels[start : start + length] = True
    return pixels.view(width, height).T


def _numbers_for_bool(counts, height, width):
    return _right_decode(counts, height, width).long()


run_lengths = Exercise(
    title="A mask written as run lengths",
    difficulty=2,
    importance=3,
    minutes=10,
    right=_right_decode,
    cases=runs_cases,
    mistakes=[
        (_along_rows, "It looks as if the runs go along the rows. COCO's go down the columns."),
        (_object_first, "Object and background are exchanged. Which of the two is the first run?"),
        (_object_first_along_rows, "Two things are exchanged: object and background, and rows and columns."),
        (_not_turned, "The mask lies on its side: its shape is [width, height]."),
        (_empty_runs_skipped, "A run of length zero looks skipped. Nothing is drawn for it, but the turn changes."),
        (_start_and_length, "It looks as if the numbers were read in pairs, a start and a length. All are lengths."),
        (_numbers_for_bool, "The right pixels, but as 0 and 1. A mask is bool."),
    ],
    verified="runs down the columns, background first, runs of length zero",
)


# ------------------------------------------------------------------------------------ the referent of a logical form


def scene() -> list[Thing]:
    """Five things; the origin is the upper left corner."""
    rows = [
        ("star", "red", "small", 70.0, 20.0),
        ("circle", "red", "large", 20.0, 30.0),
        ("star", "blue", "large", 45.0, 75.0),
        ("star", "red", "large", 30.0, 60.0),
        ("cross", "green", "small", 60.0, 50.0),
    ]
    return [Thing(shape, colour, size, "plain", x, y, 10.0, 0.0) for shape, colour, size, x, y in rows]


STAR, RED = {"filter": {"shape": "star"}}, {"filter": {"colour": "red"}}
CROSS, RED_STAR = {"filter": {"shape": "cross"}}, {"filter": {"shape": "star", "colour": "red"}}


def form_cases() -> list[tuple]:
    """One form of each sort, and forms within forms."""
    forms = [
        RED_STAR,
        {"filter": {}},
        {"most": "left", "of": STAR},
        {"most": "right", "of": RED},
        {"most": "top", "of": RED_STAR},
        {"most": "bottom", "of": RED},
        {"related": "left of", "of": STAR, "to": CROSS},
        {"related": "right of", "of": RED, "to": CROSS},
        {"related": "above", "of": RED, "to": CROSS},
        {"related": "below", "of": RED_STAR, "to": CROSS},
        {"related": "left of", "of": STAR, "to": {"most": "bottom", "of": STAR}},
        {"most": "right", "of": {"related": "left of", "of": RED, "to": CROSS}},
    ]
    return [(form, scene()) for form in forms]


def _right_meant(form: Form, things: list[Thing]) -> set[int]:
    """The package's own, for the forms of this exercise."""
    return referents(form, things)


_AXES = {"left": ("x", 1), "right": ("x", -1), "top": ("y", 1), "bottom": ("y", -1)}
_UPSIDE_DOWN = {**_AXES, "top": ("y", -1), "bottom": ("y", 1)}
_SIDES = {"left of": "left", "right of": "right", "above": "top", "below": "bottom"}


def _along(side, thing, axes=_AXES):
    name, sign = axes[side]
    return sign * getattr(thing, name)


def _filter(wanted, things, every=all):
    return {i for i, thing in enumerate(things) if every(getattr(thing, name) == v for name, v in wanted.items())}


def _most(side, candidates, things, axes=_AXES):
    return {min(candidates, key=lambda i: _along(side, things[i], axes))}


def _related(relation, candidates, anchor, things, axes=_AXES):
    limit = _along(_SIDES[relation], things[anchor], axes)
    return {i for i in candidates - {anchor} if _along(_SIDES[relation], things[i], axes) < limit}


def _assembled(form, things, filtered=_filter, most=_most, related=_related):
    """The same out of three parts; mistakes exchange one of them."""
    if "filter" in form:
        return filtered(form["filter"], things)
    candidates = _assembled(form["of"], things, filtered, most, related)
    if "most" in form:
        return most(form["most"], candidates, things)
    (anchor,) = _assembled(form["to"], things, filtered, most, related)
    return related(form["related"], candidates, anchor, things)


def _most_of_all(side, candidates, things):
    return _most(side, set(range(len(things))), things)


def _place_in_the_list(side, candidates, things):
    return {sorted(candidates).index(i) for i in _most(side, candidates, things)}


def _related_of_all(relation, candidates, anchor, things):
    return _related(relation, set(range(len(things))), anchor, things)


def _reversed(relation, candidates, anchor, things):
    return candidates - {anchor} - _related(relation, candidates, anchor, things)


def _farthest(relation, candidates, anchor, things):
    return _most(_SIDES[relation], candidates - {anchor}, things)


def _with_anchor(relation, candidates, anchor, things):
    return _related(relation, candidates, anchor, things) | (candidates & {anchor})


def _listed(form, things):
    return sorted(_right_meant(form, things))


referent_of_form = Exercise(
    title="What a logical form means",
    difficulty=3,
    importance=4,
    minutes=15,
    right=_right_meant,
    cases=form_cases,
    mistakes=[
        (
            partial(_assembled, most=partial(_most, axes=_UPSIDE_DOWN), related=partial(_related, axes=_UPSIDE_DOWN)),
            "Top and bottom are exchanged. In an image y grows downwards.",
        ),
        (
            partial(_assembled, filtered=partial(_filter, every=any)),
            "The filter keeps anything that has one of the attributes. How many of them must it have?",
        ),
        (partial(_assembled, most=_most_of_all), 'The farthest of all things is taken, whatever "of" says.'),
        (
            partial(_assembled, most=_place_in_the_list),
            "The index is the place among the candidates. It should be the place among all things.",
        ),
        (partial(_assembled, related=_related_of_all), 'A relation keeps things that "of" excludes.'),
        (partial(_assembled, related=_reversed), "The relations look reversed: which of the two lies left of which?"),
        (
            partial(_assembled, related=_farthest),
            "A relation gives the thing farthest to that side. It means all things beyond the anchor.",
        ),
        (
            partial(_assembled, related=_with_anchor),
            "A thing has the relation to itself: the anchor is among the answers.",
        ),
        (_listed, "The right things, but as a list. It should be a set: they have no order."),
    ],
    verified="filters, superlatives and relations, one within the other",
)


# ------------------------------------------------------------------------------------------------ what one sample is


def small_refs() -> list[dict]:
    """Five refs of four images; one expression occurs twice in its ref, and one ref has a single expression."""
    rows = [
        (0, 7, "train", ["red car", "the car left", "red car"]),
        (1, 7, "train", ["dog"]),
        (2, 8, "train", ["man in blue", "blue man"]),
        (3, 9, "val", ["the tall one", "tall", "woman on the left", "left"]),
        (4, 5, "val", ["cat"]),
    ]
    return [
        {"ref_id": i, "image_id": image, "split": split, "sentences": [{"sent": text} for text in sentences]}
        for i, image, split, sentences in rows
    ]


def refs_cases() -> list[tuple]:
    """The refs of two splits, and those of one."""
    return [(small_refs(),), (small_refs()[:2],)]


def _right_counts(refs: list[dict]) -> dict[str, int]:
    """Samples by split: one per sentence."""
    return _counted(refs, lambda found: sum(len(ref["sentences"]) for ref in found))


def _counted(refs, count):
    splits = {ref["split"] for ref in refs}
    return {split: count([ref for ref in refs if ref["split"] == split]) for split in splits}


def _different_sentences(found):
    return len({(ref["ref_id"], sentence["sent"]) for ref in found for sentence in ref["sentences"]})


def _words(found):
    return sum(len(sentence["sent"].split()) for ref in found for sentence in ref["sentences"])


def _last_ref_only(refs):
    return {ref["split"]: len(ref["sentences"]) for ref in refs}


def _all_splits_alike(refs):
    total = sum(len(ref["sentences"]) for ref in refs)
    return {ref["split"]: total for ref in refs}


samples_by_split = Exercise(
    title="How many samples there are",
    difficulty=1,
    importance=5,
    minutes=5,
    right=_right_counts,
    cases=refs_cases,
    mistakes=[
        (partial(_counted, count=len), "The refs are counted. A ref is one object with all of its expressions."),
        (
            partial(_counted, count=lambda found: len({ref["image_id"] for ref in found})),
            "The images are counted. One image can hold several refs.",
        ),
        (
            partial(_counted, count=_different_sentences),
            "An expression that occurs twice in a ref is counted once. Two people wrote it, and both count.",
        ),
        (partial(_counted, count=_words), "The words are counted. A sample has a whole expression."),
        (_last_ref_only, "Of each split only the last ref is counted: the number looks overwritten, not added to."),
        (_all_splits_alike, "Every split has the number of all of them together."),
    ],
    verified="one sample per expression, repeated ones too",
)
