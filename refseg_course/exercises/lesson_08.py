"""Lesson 08, training: the learning rate of every step, and a control that shows whether a network reads at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refseg_course.exercises import Exercise

PEAK, WARMUP, STEPS = 3e-3, 5, 17

# ------------------------------------------------------------------------------------------------- the learning rate


def schedule_cases() -> list[tuple]:
    """Every step of a short run, and a run without a warm-up."""
    return [*((step, PEAK, WARMUP, STEPS) for step in range(STEPS)), (0, 0.5, 0, 8), (7, 0.5, 0, 8)]


def _right_rate(step: int, peak: float, warmup: int, steps: int) -> float:
    """Linear warm-up, then half a cosine."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def _from_zero(step, peak, warmup, steps):
    return peak * step / warmup if step < warmup else _right_rate(step, peak, warmup, steps)


def _cosine_from_the_start(step, peak, warmup, steps):
    return _right_rate(step, peak, warmup, steps) if step < warmup else _right_rate(step, peak, 0, steps)


def _whole_cosine(step, peak, warmup, steps):
    if step < warmup:
        return _right_rate(step, peak, warmup, steps)
    return peak * 0.5 * (1 + math.cos(2 * math.pi * (step - warmup) / (steps - warmup)))


def _quarter_cosine(step, peak, warmup, steps):
    if step < warmup:
        return _right_rate(step, peak, warmup, steps)
    return peak * math.cos(math.pi / 2 * (step - warmup) / (steps - warmup))


def _twice(step, peak, warmup, steps):
    return _right_rate(step, peak, warmup, steps) * (1 if step < warmup else 2)


def _bare_cosine(step, peak, warmup, steps):
    if step < warmup:
        return _right_rate(step, peak, warmup, steps)
    return peak * math.cos(math.pi * (step - warmup) / (steps - warmup))


def _no_warmup(step, peak, warmup, steps):
    return _right_rate(step, peak, 0, steps)


def _line(step, peak, warmup, steps):
    if step < warmup:
        return _right_rate(step, peak, warmup, steps)
    return peak * (1 - (step - warmup) / (steps - warmup))


def _zero_at_the_last(step, peak, warmup, steps):
    return _right_rate(step, peak, warmup, steps if step < warmup else steps - 1)


learning_rate = Exercise(
    title="The learning rate of a step",
    difficulty=2,
    importance=3,
    minutes=10,
    right=_right_rate,
    cases=schedule_cases,
    mistakes=[
        (_from_zero, "The first step has the rate zero: a step that does nothing. Steps are counted from 0 here."),
        (_no_warmup, "The first steps have nearly the full rate: is there a warm-up?"),
        (
            _cosine_from_the_start,
            "The rate drops where the warm-up ends. Which share of the time after the warm-up has passed then?",
        ),
        (_whole_cosine, "The rate comes up again towards the end: how much of a cosine's period is wanted?"),
        (_bare_cosine, "Half of the rates are negative: the cosine goes from 1 to -1, the rate should go from 1 to 0."),
        (
            _quarter_cosine,
            "It starts at the peak and ends at zero, and falls too late in between: this is a quarter of a period.",
        ),
        (_twice, "After the warm-up the rate is twice as high as the peak: from where to where does 1 + cos go?"),
        (_line, "After the warm-up the rate falls along a straight line."),
        (
            _zero_at_the_last,
            "The last step has the rate zero. The cosine should reach zero one step after the last.",
        ),
    ],
    verified=f"every step of {STEPS}, and a run without a warm-up",
)

# --------------------------------------------------------------------------------- an expression of another object

Expressions = Sequence[tuple[int, int, str]]


def expressions_cases() -> list[tuple]:
    """Pictures of two and three objects, one of a single object, and two objects that are called the same."""
    several = [
        (1, 10, "red star"),
        (1, 10, "the star"),
        (1, 11, "blue box"),
        (2, 20, "the cross"),
        (3, 30, "left disc"),
        (3, 31, "right disc"),
        (3, 31, "the far disc"),
        (3, 32, "box"),
    ]
    same = [(5, 50, "green star"), (5, 51, "green star"), (5, 52, "plain star"), (6, 60, "disc"), (6, 61, "disc")]
    return [(several,), (same,)]


def _right_others(samples: Expressions) -> list[str | None]:
    """The first following expression, round the list, of the same image and another object, unless it is the same."""
    chosen: list[str | None] = []
    for i, (image, thing, text) in enumerate(samples):
        rest = [*samples[i + 1 :], *samples[:i]]
        fitting = [t for im, th, t in rest if im == image and th != thing and t != text]
        chosen.append(fitting[0] if fitting else None)
    return chosen


def _choose(samples, fits, rest=None, otherwise=None):
    chosen = []
    for i, own in enumerate(samples):
        others = [*samples[i + 1 :], *samples[:i]] if rest is None else rest(samples, i)
        fitting = [other for other in others if fits(own, other)]
        chosen.append(fitting[0][2] if fitting else (otherwise(own) if otherwise else None))
    return chosen


def _fits(own, other):
    return own[0] == other[0] and own[1] != other[1] and own[2] != other[2]


def _any_expression_of_the_image(samples):
    return _choose(samples, lambda own, other: own[0] == other[0] and own[2] != other[2])


def _any_image(samples):
    return _choose(samples, lambda own, other: own[1] != other[1] and own[2] != other[2])


def _the_same_words(samples):
    return _choose(samples, lambda own, other: own[0] == other[0] and own[1] != other[1])


def _only_after(samples):
    return _choose(samples, _fits, rest=lambda samples, i: samples[i + 1 :])


def _from_the_front(samples):
    return _choose(samples, _fits, rest=lambda samples, i: samples)


def _own_if_none(samples):
    return _choose(samples, _fits, otherwise=lambda own: own[2])


def _left_out(samples):
    return [text for text in _right_others(samples) if text is not None]


def _next(samples):
    return [samples[(i + 1) % len(samples)][2] for i in range(len(samples))]


other_expression = Exercise(
    title="The expression of another object",
    difficulty=3,
    importance=4,
    minutes=15,
    right=_right_others,
    cases=expressions_cases,
    mistakes=[
        (_next, "Every sample gets the next expression, whatever it refers to. Look at image and object."),
        (
            _any_expression_of_the_image,
            "Some samples get a second expression of their own object: the network would be right to find it.",
        ),
        (_any_image, "Some samples get an expression from another image: what it means may not be there at all."),
        (
            _the_same_words,
            "Two objects can have the same expression. A sample then gets its own, and nothing is exchanged.",
        ),
        (_only_after, "The last samples of an image get None though there are others before them in the list."),
        (_from_the_front, "It searches from the start of the list, not from the sample onwards and then around."),
        (
            _own_if_none,
            "A sample that has no other keeps its own expression: it would count as a sample of the control.",
        ),
        (_left_out, "The list is shorter than the samples: put None where there is no other, so that places agree."),
    ],
    verified="objects with several expressions, images with one object, and objects with the same expression",
)
