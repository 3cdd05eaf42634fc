"""Lesson 14: answers of students pass, and the right ones are what the package does."""

import math

import pytest
import torch

from refseg.evaluation.evaluate import batches_of
from refseg.training.batches import ShuffledBatches
from refseg.training.experiment import OptimConfig
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_14 as check


def recipe(samples, epochs, per_gpu, gpus, accumulate):
    together = 0
    for _ in range(accumulate):
        together += per_gpu * gpus
    seen = steps = 0
    while seen < samples * epochs:
        seen, steps = seen + together, steps + 1
    return [together, steps]


def polynomial(step, peak, steps, power):
    if step >= steps:
        return 0
    return peak * math.exp(power * math.log((steps - step) / steps))


def gathered(ious, count):
    N = len(ious)
    return torch.stack([ious[i % N, i // N] for i in range(count)]).sum() / count


def test_answers_of_students_pass(capsys):
    check.recipe(recipe)
    check.polynomial(polynomial)
    check.gathered(gathered)
    assert capsys.readouterr().out.count("OK") == 3


def test_a_training_of_this_many_steps_sees_every_sample_once_an_epoch():
    for case in check.recipe_cases()[:3]:
        samples, epochs, _, gpus, _ = case
        batch_size, steps = check._right_recipe(*case)
        config = OptimConfig(steps=steps, batch_size=batch_size, expressions_per_image=1)
        numbers, lengths = list(range(samples)), [3] * samples
        batches = [list(ShuffledBatches(numbers, lengths, config, rank=rank, world=gpus)) for rank in range(gpus)]
        seen = [index for shares in zip(*batches) for share in shares for index in share]
        assert len(seen) == steps * batch_size and len(seen) - epochs * samples < batch_size
        for epoch in range(epochs):
            assert sorted(seen[epoch * samples : (epoch + 1) * samples]) == numbers


def test_the_right_mean_is_that_of_batches_that_are_dealt_to_nobody_twice():
    for ious, count in check.gathered_cases():
        in_order = ious.T.flatten()
        parts = [batches_of(count, 2, process, len(ious)) for process in range(len(ious))]
        own = [in_order[i] for batches in parts for batch in batches for i in batch]
        assert len(own) == count
        assert torch.allclose(check._right_gathered(ious, count), torch.stack(own).mean())


def test_the_rate_begins_at_the_peak_and_ends_at_zero():
    rates = [check._right_polynomial(step, 1.0, 10, 0.9) for step in range(12)]
    assert rates[0] == 1 and rates[9] > 0 and rates[10:] == [0, 0] and rates == sorted(rates, reverse=True)


def test_an_answer_that_is_wrong_in_no_known_way_shows_where():
    for exercise, wrong in (
        (check.recipe, lambda samples, epochs, per_gpu, gpus, accumulate: (samples, epochs)),
        (check.polynomial, lambda step, peak, steps, power: peak),
        (check.gathered, lambda ious, count: ious.max()),
    ):
        with pytest.raises(ExerciseError, match="with "):
            exercise(wrong)
