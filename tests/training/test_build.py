"""Data sets, vocabulary and optimiser of an experiment."""

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from refseg.datasets import Collate
from refseg.datasets.wrappers import Mirrored
from refseg.objectives import (
    ObjectiveConfig,
    SemanticsConfig,
)
from refseg.tokenizer import WordVocabulary
from refseg.training.build import build_data, build_optimizer
from refseg.training.experiment import OptimConfig, variant

pytestmark = pytest.mark.usefixtures("no_accelerate_state")


def test_validation_is_spread_over_the_split(tiny_experiment):
    train_set, val_set, tokenizer = build_data(tiny_experiment)
    assert isinstance(val_set, Subset) and len(val_set.dataset) == 28
    assert val_set.indices == [0, 5, 11, 16, 22]
    assert not any(tokenizer.unknown(expression) for expression in train_set.expressions)


def test_mirror_images_stand_behind_the_samples(tiny_experiment):
    experiment = variant(tiny_experiment, data={"mirror": True}, objective=ObjectiveConfig((SemanticsConfig(),)))
    train_set, val_set, tokenizer = build_data(experiment)
    both, count = Mirrored(train_set), len(train_set)
    index = next(i for i, text in enumerate(train_set.expressions) if "left" in text.split())
    sample, mirrored = both[index], both[count + index]
    assert len(both) == 2 * count and "right" in mirrored.expression.split() and mirrored.sample_id == sample.sample_id
    for name in ("frames", "mask", "original_mask", "pixel_valid", "objects"):
        assert torch.equal(getattr(mirrored, name), getattr(sample, name).flip(-1)), name
    batch = Collate(tokenizer)([sample, mirrored, both[count + index], train_set[index]])
    images, image_of = batch.distinct_images()  # the backbone must not take one for the other
    assert len(images) == 2 and image_of.tolist() == [0, 1, 1, 0]
    assert torch.equal(images[1], images[0].flip(-1))
    assert not any(val_set[i].annotations.mirrored for i in range(len(val_set)))  # only training is mirrored


def test_the_vocabulary_knows_the_words_of_the_mirror_images(tiny_experiment, monkeypatch):
    real = WordVocabulary.build
    monkeypatch.setattr(
        WordVocabulary, "build", lambda texts, *args: real([t for t in texts if "rightmost" not in t], *args)
    )
    (_, _, words), (_, _, more) = (
        build_data(tiny_experiment),
        build_data(variant(tiny_experiment, data={"mirror": True})),
    )
    assert "leftmost" in words.ids and "rightmost" not in words.ids
    assert more.words == [*words.words, "rightmost"]


def test_only_matrices_and_kernels_are_decayed():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(5, 7), nn.Linear(7, 2).requires_grad_(False))
    decayed, free = build_optimizer(net, OptimConfig(weight_decay=0.125, learning_rate=0.5)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(5, 3, 3, 3), (7, 5)]
    assert [tuple(p.shape) for p in free["params"]] == [(5,), (5,), (5,), (7,)]
    assert (decayed["weight_decay"], free["weight_decay"], free["lr"]) == (0.125, 0.0, 0.5)


def test_decay_shrinks_a_weight_without_gradient():
    net = nn.Linear(3, 5)
    before, bias = net.weight.detach().clone(), net.bias.detach().clone()
    optimizer = build_optimizer(net, OptimConfig(weight_decay=0.125, learning_rate=0.5))
    (0 * net(torch.ones(1, 3)).sum()).backward()
    optimizer.step()
    assert torch.allclose(net.weight, before * (1 - 0.5 * 0.125)) and torch.equal(net.bias, bias)
