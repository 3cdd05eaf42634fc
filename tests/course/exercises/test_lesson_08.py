"""Answers as students write them; and the checks agree with what training and evaluation really do."""

import math

import pytest

from refseg.datasets.wrappers import other_expressions
from refseg.training.experiment import OptimConfig
from refseg.training.loop import learning_rate
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_08 as check


def rate(step, peak, warmup, steps):
    if step < warmup:
        return (step + 1) * (peak / warmup)
    angle = math.pi * (step - warmup) / (steps - warmup)
    return peak * math.cos(angle / 2) ** 2


def others(samples):
    result, n = [], len(samples)
    for i in range(n):
        found = None
        for k in range(1, n):
            candidate = samples[(i + k) % n]
            if candidate[0] == samples[i][0] and candidate[1] != samples[i][1] and candidate[2] != samples[i][2]:
                found = candidate[2]
                break
        result.append(found)
    return result


def test_answers_of_students_pass(capsys):
    check.learning_rate(rate)
    check.other_expression(others)
    assert capsys.readouterr().out.count("OK") == 2


def test_the_right_rate_is_the_one_that_training_takes():
    for step, peak, warmup, steps in check.schedule_cases():
        config = OptimConfig(steps=steps, learning_rate=peak, warmup_steps=warmup)
        assert check._right_rate(step, peak, warmup, steps) == pytest.approx(learning_rate(step, config))


class Refs:
    """A data set of one expression per object, as ``other_expressions`` reads it."""

    def __init__(self, samples):
        self.image_ids, self.referent_ids, self.expressions = zip(*samples)


def test_the_right_exchange_is_the_one_that_evaluation_makes():
    samples = check.expressions_cases()[1][0]
    chosen = other_expressions(Refs(samples))
    assert [chosen.get(i) for i in range(len(samples))] == check._right_others(samples)


def test_an_answer_that_is_wrong_in_no_known_way_is_told_where():
    with pytest.raises(ExerciseError, match="which is not right"):
        check.learning_rate(lambda step, peak, warmup, steps: peak)
