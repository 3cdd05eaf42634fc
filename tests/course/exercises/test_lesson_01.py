"""Answers as students write them."""

import numpy as np
import torch

from refseg_course.exercises import lesson_01 as check


def union_mask(pieces):
    mask = torch.zeros(pieces.shape[1:], dtype=torch.bool)
    for piece in pieces:
        mask |= piece > 0
    return mask


def decode(counts, height, width):
    flat, here, inside = np.zeros(height * width, bool), 0, False
    for count in counts:
        flat[here : here + count] = inside
        here, inside = here + count, not inside
    return flat.reshape(height, width, order="F")


def meant(form, things):
    if "filter" in form:
        return {n for n, t in enumerate(things) if form["filter"].items() <= vars(t).items()}
    candidates = meant(form["of"], things)
    axis = {"left": "x", "right": "x", "top": "y", "bottom": "y"}
    axis |= {"left of": "x", "right of": "x", "above": "y", "below": "y"}
    word = form.get("most") or form["related"]
    sign = 1 if word in ("left", "top", "left of", "above") else -1
    place = [sign * getattr(thing, axis[word]) for thing in things]
    if "most" in form:
        return {min(candidates, key=place.__getitem__)}
    anchor = meant(form["to"], things).pop()
    return {n for n in candidates if place[n] < place[anchor]}


def samples(refs):
    counts = {}
    for ref in refs:
        counts[ref["split"]] = counts.get(ref["split"], 0) + len(ref["sentences"])
    return counts


def test_answers_of_students_pass(capsys):
    check.union_mask(union_mask)
    check.run_lengths(decode)
    check.referent_of_form(meant)
    check.samples_by_split(samples)
    assert capsys.readouterr().out.count("OK") == 4


def test_mistakes_about_forms_differ_from_the_right_answer_only_where_they_say():
    """They exchange one part of ``_assembled``, which without an exchange is right."""
    check.referent_of_form(check._assembled)
