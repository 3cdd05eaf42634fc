"""Every exercise of the course: the right answer passes, every mistake gets its own sentence, all in no time."""

from __future__ import annotations

import re
import time

import torch

from refseg_course.exercises import ExerciseError, exercises_of, lessons

EXERCISES = {
    f"{number}-{name}": exercise
    for number, module in lessons().items()
    for name, exercise in exercises_of(module).items()
}
SECONDS = 3.0  # on a slow laptop; nobody waits longer for a check


def test_the_right_answer_passes(capsys):
    for name, exercise in EXERCISES.items():
        state, started = torch.get_rng_state(), time.process_time()
        exercise(exercise._right)
        assert time.process_time() - started < SECONDS, name
        assert capsys.readouterr().out == f"OK  {exercise.title}: {exercise.verified}\n"
        assert torch.equal(torch.get_rng_state(), state), name


def test_a_mistake_gets_its_own_sentence():
    wrong = {}
    for name, exercise in EXERCISES.items():
        for number, (answer, sentence) in enumerate(exercise.mistakes, 1):
            try:
                exercise(answer)
                wrong[f"{name}, mistake {number}"] = "passes"
            except ExerciseError as error:
                if str(error) != f"{exercise.title}: {sentence}":
                    wrong[f"{name}, mistake {number}"] = str(error)
    assert wrong == {}


def test_an_answer_is_not_in_sight():
    """What a student types, ``check.`` or ``check.share.`` and the tab key, offers no solution."""
    for number, module in lessons().items():
        shown = {name for name in dir(module) if name.lower().startswith("right")} - exercises_of(module).keys()
        assert not shown, number
        for exercise in exercises_of(module).values():
            assert "right" not in dir(exercise)


def test_a_lesson_has_two_exercises():
    assert [number for number, module in lessons().items() if len(exercises_of(module)) < 2] == []


def test_sentences_are_sentences():
    said = {sentence for exercise in EXERCISES.values() for _, sentence in exercise.mistakes}
    assert [s for s in said if not re.match("[A-Z]|[om]IoU", s) or not s.endswith((".", "?"))] == []
