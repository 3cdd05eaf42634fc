"""Every exercise of the course: the right answer passes, every mistake is told by its own sentence, all in no time."""

from __future__ import annotations

import re
import time

import pytest
import torch

from refseg_course.exercises import ExerciseError, exercises_of, lessons

EXERCISES = {
    f"{number}-{name}": exercise
    for number, module in lessons().items()
    for name, exercise in exercises_of(module).items()
}
MISTAKES = {
    f"{name}-{number}": (exercise, *pair)
    for name, exercise in EXERCISES.items()
    for number, pair in enumerate(exercise.mistakes, 1)
}
SECONDS = 3.0  # on a slow laptop; a check that takes as long is no check while one types


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_passes(name, capsys):
    state, started = torch.get_rng_state(), time.process_time()
    EXERCISES[name](EXERCISES[name].right)
    assert time.process_time() - started < SECONDS
    assert capsys.readouterr().out == f"OK  {EXERCISES[name].title}: {EXERCISES[name].verified}\n"
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_by_its_own_sentence(name):
    exercise, wrong, sentence = MISTAKES[name]
    with pytest.raises(ExerciseError) as caught:
        exercise(wrong)
    assert str(caught.value) == f"{exercise.title}: {sentence}"


@pytest.mark.parametrize("number", lessons())
def test_a_lesson_has_two_exercises(number):
    assert len(exercises_of(lessons()[number])) >= 2


def test_sentences_are_sentences():
    told = [sentence for _, _, sentence in MISTAKES.values()]
    assert [s for s in told if not re.match("[A-Z]|[om]IoU", s) or not s.endswith((".", "?"))] == []
