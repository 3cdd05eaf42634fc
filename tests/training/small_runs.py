"""What several test files need of short trainings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import refseg.training.loop as loop
from refseg.checkpoint import load_training
from refseg.training.batches import ShuffledBatches
from refseg.training.log import read_log
from refseg.training.loop import train

ROOT = Path(__file__).resolve().parents[2]


def fit(experiment, folder):
    return train(experiment, folder, device="cpu", progress=False)


def change(experiment, **optim):
    return replace(experiment, optim=replace(experiment.optim, **optim))


def weights(folder):
    """The weights of the last checkpoint, and the tensors of its training state by dotted names."""
    return load_file(folder / "last" / "model.safetensors"), flat(load_training(folder / "last"))


def flat(state, prefix=""):
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    return {n: x for name, inner in state.items() for n, x in flat(inner, f"{prefix}.{name}".lstrip(".")).items()}


def assert_same_end(one, other):
    """Weights, optimiser and random state, bit for bit."""
    for left, right in zip(weights(one), weights(other)):
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []


def logged(folder):
    """What was logged, without the times."""
    rows = read_log(folder / "log.jsonl")
    for row in rows:
        row.pop("seconds")
        row.get("val", {}).pop("seconds", None)
    return rows


class Killed(BaseException):
    """What a kill looks like from inside."""


def interrupted(experiment, folder, monkeypatch, calls: int, error=Killed):
    """Train until the ``calls``-th step is asked for."""
    steps = []
    real = loop.train_step

    def step(*args):
        steps.append(args)
        if len(steps) == calls:
            raise error
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", step)
        with pytest.raises(error):
            fit(experiment, folder)


def up_to(stop):
    """Batches as ever, but none behind step ``stop``."""
    real = ShuffledBatches.__iter__

    def batches(self):
        for _, batch in zip(range(stop - self.first_step), real(self)):
            yield batch

    return batches
