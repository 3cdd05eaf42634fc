"""Lesson 14, the real benchmarks: another's recipe as ours, a decaying rate, and scores from several processes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from refseg_course.exercises import Exercise

# ------------------------------------------------------------------------------------------- another's recipe


def recipe_cases() -> list[tuple]:
    """samples, epochs, per_gpu, gpus, accumulate: sizes that divide and sizes that do not."""
    return [(1000, 3, 8, 4, 2), (1000, 1, 10, 2, 5), (997, 7, 3, 4, 1), (50, 2, 16, 8, 3), (120, 5, 1, 1, 1)]


def _right_recipe(samples: int, epochs: int, per_gpu: int, gpus: int, accumulate: int) -> tuple[int, int]:
    """(batch_size, steps): samples of one update in all processes together, and updates, the last one begun."""
    batch_size = per_gpu * gpus * accumulate
    return batch_size, math.ceil(epochs * samples / batch_size)


def _without_accumulation(samples, epochs, per_gpu, gpus, accumulate):
    return _right_recipe(samples, epochs, per_gpu, gpus, 1)


def _per_gpu(samples, epochs, per_gpu, gpus, accumulate):
    return _right_recipe(samples, epochs, per_gpu, 1, accumulate)


def _of_one_part(samples, epochs, per_gpu, gpus, accumulate):
    return _right_recipe(samples, epochs, per_gpu, 1, 1)


def _divided_by_parts(samples, epochs, per_gpu, gpus, accumulate):
    batch_size = per_gpu * gpus // accumulate
    return batch_size, math.ceil(epochs * samples / max(1, batch_size))


def _parts_as_steps(samples, epochs, per_gpu, gpus, accumulate):
    return per_gpu * gpus * accumulate, math.ceil(epochs * samples / (per_gpu * gpus))


def _cut_off(samples, epochs, per_gpu, gpus, accumulate):
    batch_size = per_gpu * gpus * accumulate
    return batch_size, epochs * samples // batch_size


def _whole_batches_of_an_epoch(samples, epochs, per_gpu, gpus, accumulate):
    batch_size = per_gpu * gpus * accumulate
    return batch_size, epochs * (samples // batch_size)


def _epochs_rounded_up(samples, epochs, per_gpu, gpus, accumulate):
    batch_size = per_gpu * gpus * accumulate
    return batch_size, epochs * math.ceil(samples / batch_size)


def _one_epoch(samples, epochs, per_gpu, gpus, accumulate):
    return _right_recipe(samples, 1, per_gpu, gpus, accumulate)


def _as_fraction(samples, epochs, per_gpu, gpus, accumulate):
    batch_size = per_gpu * gpus * accumulate
    return batch_size, epochs * samples / batch_size


recipe = Exercise(
    title="Somebody else's recipe",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_right_recipe,
    cases=recipe_cases,
    mistakes=[
        (
            _without_accumulation,
            "Accumulated parts do not count. How many samples have been seen when the weights change?",
        ),
        (
            _per_gpu,
            "The processes play no part: all of them change the same weights together, with what all have seen.",
        ),
        (_of_one_part, "This is one part in one process. The weights change when all parts in all processes are done."),
        (_divided_by_parts, "The batch is divided by the number of parts, but per_gpu is one part already."),
        (_parts_as_steps, "The batch is right, but every part counts as a step. A step is an update of the weights."),
        (_cut_off, "The last update is missing: what is left over at the end also needs a step."),
        (
            _whole_batches_of_an_epoch,
            "Every epoch loses what does not fill a batch. Here a batch may begin in one epoch and end in the next.",
        ),
        (
            _epochs_rounded_up,
            "Every epoch ends with a batch that is not full. Here it is filled up from the next epoch: round up "
            "once only.",
        ),
        (_one_epoch, "These are the steps of one epoch."),
        (_as_fraction, "The number of steps is not a whole number."),
    ],
    verified="samples of an update in all processes and parts, steps over epochs whose batches run into each other",
)

# ---------------------------------------------------------------------------------------------- a rate that decays

PEAK, STEPS, POWER = 5e-5, 12, 0.9


def rate_cases() -> list[tuple]:
    """step, peak, steps, power: a whole run, a straight line, a steep one, and a step after the end."""
    return [
        *((step, PEAK, STEPS, POWER) for step in range(STEPS)),
        *((step, 1.0, 4, 1.0) for step in range(4)),
        (1, 1.0, 4, 2.0),
        (STEPS, PEAK, STEPS, POWER),
        (STEPS + 3, PEAK, STEPS, POWER),
    ]


def _right_polynomial(step: int, peak: float, steps: int, power: float) -> float:
    """peak at step 0, then what is left of the run to the power; zero from ``steps`` on."""
    return peak * max(0.0, 1 - step / steps) ** power


def _one_early(step, peak, steps, power):
    return _right_polynomial(step + 1, peak, steps, power)


def _zero_at_the_last(step, peak, steps, power):
    return _right_polynomial(step, peak, steps - 1, power)


def _power_of_what_is_done(step, peak, steps, power):
    return peak * max(0.0, 1 - (step / steps) ** power)


def _no_power(step, peak, steps, power):
    return _right_polynomial(step, peak, steps, 1.0)


def _power_of_all(step, peak, steps, power):
    return (peak * max(0.0, 1 - step / steps)) ** power


def _growing(step, peak, steps, power):
    return peak * min(1.0, step / steps) ** power


def _after_the_end(step, peak, steps, power):
    return peak * (1 - step / steps) ** power


def _mirrored(step, peak, steps, power):
    return peak * abs(1 - step / steps) ** power


def _power_as_factor(step, peak, steps, power):
    return peak * power * max(0.0, 1 - step / steps)


def _exponential(step, peak, steps, power):
    return peak * power**step


polynomial = Exercise(
    title="A polynomial rate",
    difficulty=2,
    importance=3,
    minutes=10,
    right=_right_polynomial,
    cases=rate_cases,
    mistakes=[
        (_one_early, "Everything comes one step early: the first step, number 0, should have the full rate."),
        (_zero_at_the_last, "The last step has the rate zero and changes nothing: zero belongs one step after it."),
        (_power_of_what_is_done, "The power is taken of what is done of the run. Take it of what is left."),
        (_no_power, "The power plays no part: this is the straight line."),
        (_power_of_all, "The peak is inside the power, so the first rate is not the peak."),
        (_growing, "The rate grows: it should follow what is left of the run."),
        (
            _after_the_end,
            "After the end a negative number is raised to a power that is not whole, which gives a complex number.",
        ),
        (_mirrored, "After the end the rate grows again. Training longer than planned should get zero."),
        (_power_as_factor, "The power multiplies. It is an exponent."),
        (_exponential, "This falls by the same factor at every step and never looks at how long the run is."),
    ],
    verified="the peak at step 0, above zero at the last step, zero after it, and powers below and above one",
)

# ------------------------------------------------------------------------------------ scores from several processes


def gathered_cases() -> list[tuple]:
    """ious [N,M] of N processes, count: some filled up by up to N - 1 samples, one that fits, one process alone."""
    cases = []
    for count, processes in ((10, 4), (7, 3), (9, 3), (5, 1), (13, 4)):
        ious = torch.rand(count, generator=torch.Generator().manual_seed(count))
        each = math.ceil(count / processes)
        filled = torch.cat([ious, ious])[: processes * each]  # from the beginning again
        cases.append((filled.view(each, processes).T.contiguous(), count))
    return cases


def _right_gathered(ious: Tensor, count: int) -> Tensor:
    """Mean over the ``count`` samples, number i of which process i % N has seen as its i // N-th."""
    return ious.T.flatten()[:count].mean()


def _of_all(ious, count):
    return ious.mean()


def _sum_over_count(ious, count):
    return ious.sum() / count


def _one_after_the_other(ious, count):
    return ious.flatten()[:count].mean()


def _last_round_away(ious, count):
    return ious.T.flatten()[: count // len(ious) * len(ious)].mean()


def _first_process(ious, count):
    return ious[0].mean()


def _means_of_processes(ious, count):
    """Each process leaves out what is not its own, and then each counts the same."""
    N, M = ious.shape
    own = torch.arange(M) * N + torch.arange(N)[:, None] < count
    return ((ious * own).sum(1) / own.sum(1)).mean()


def _median(ious, count):
    return ious.T.flatten()[:count].median()


def _sum_only(ious, count):
    return ious.T.flatten()[:count].sum()


gathered = Exercise(
    title="A mean over several processes",
    difficulty=3,
    importance=5,
    minutes=10,
    right=_right_gathered,
    cases=gathered_cases,
    mistakes=[
        (_of_all, "The samples that only filled up the last round are counted twice."),
        (_sum_over_count, "The division is right, but the sum holds some samples twice."),
        (
            _one_after_the_other,
            "The number of values is right, but the wrong ones are dropped: samples were dealt in turn, like cards.",
        ),
        (_last_round_away, "The whole last round is dropped, real samples along with the repeated ones."),
        (_first_process, "Only the first process counts."),
        (
            _means_of_processes,
            "Each process counts the same, even if it had one sample fewer. Every sample should count the same.",
        ),
        (_median, "This is the median. It should be the mean."),
        (_sum_only, "This is the sum of the right values."),
    ],
    verified="rounds that are filled up and rounds that are not, one process, and every sample counted once",
)
