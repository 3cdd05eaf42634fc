"""From an experiment to what is trained: the data sets, the tokenizer, model and objective, the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from refseg import checkpoint
from refseg.datasets import build_dataset
from refseg.datasets.transforms import build_transform, swap_left_right
from refseg.datasets.wrappers import ReplacedExpressions, blank_expressions
from refseg.hub import locate
from refseg.models import build_model
from refseg.models.backbones import Backbone
from refseg.models.base import ReferringModel
from refseg.objectives import Objective, build_objective
from refseg.tokenizer import WordPieces, WordVocabulary
from refseg.training.experiment import DataConfig, Experiment, OptimConfig
from refseg.types import Prediction, RefBatch


class Learner(nn.Module):
    """A model and what it is trained for, as one module."""

    def __init__(self, model: ReferringModel, objective: Objective):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """The prediction and {name: loss}, not yet weighted."""
        return self.objective(self.model, batch)


def build_data(experiment: Experiment) -> tuple[Any, Any, WordVocabulary]:
    """Training set, validation set, and the tokenizer of the training expressions."""
    config = experiment.data
    shared = {
        "transform": build_transform(config.image_size),
        "root": config.root,
        "split_by": config.split_by,
        "num_frames": config.num_frames,
        "frame_stride": config.frame_stride,
    }
    objects = experiment.objective.needs_objects
    train_set = build_dataset(config.name, config.train_split, objects=objects, **shared)
    val_set = build_dataset(config.name, config.val_split, **shared)
    tokenizer = build_tokenizer(config, train_set.expressions)
    if config.val_samples and config.val_samples < len(val_set):
        stride = len(val_set) / config.val_samples
        val_set = Subset(val_set, [int(i * stride) for i in range(config.val_samples)])
    if config.hide_expressions:
        train_set, val_set = (ReplacedExpressions(part, blank_expressions) for part in (train_set, val_set))
    return train_set, val_set, tokenizer


def build_tokenizer(config: DataConfig, expressions: Sequence[str]) -> WordVocabulary:
    """The words of the training expressions, or the pretrained word pieces that the config names."""
    if config.pretrained_tokenizer is not None:
        return WordPieces.from_pretrained(config.pretrained_tokenizer, config.max_words)
    tokenizer = WordVocabulary.build(expressions, config.min_word_count, config.max_words)
    if config.mirror:  # "leftmost" may be known where no expression has "rightmost"
        mirrored = [swap_left_right(word) for word in tokenizer.vocabulary]
        new = [word for word in mirrored if word not in tokenizer.ids]
        tokenizer = WordVocabulary([*tokenizer.vocabulary, *new], config.max_words)
    return tokenizer


def build_learner(
    experiment: Experiment, train_set: Any, tokenizer: WordVocabulary
) -> tuple[Learner, torch.optim.Optimizer]:
    """Model and objective with the sizes that only the training set knows, and the optimiser of both."""
    model = build_model(experiment.model, len(tokenizer))
    if experiment.init_from:
        folder = locate(experiment.init_from) or Path(experiment.init_from)
        checkpoint.init_from(model, tokenizer, folder, experiment.init_parts)
    classes = [len(names) for names in train_set.class_names.values()]
    learner = Learner(model, build_objective(experiment.objective, model, classes, tokenizer))
    return learner, build_optimizer(learner, experiment.optim)


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; biases, normalisation and scalars are not decayed, and a backbone may have a rate of its own."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    of_backbone = {id(p) for part in module.modules() if isinstance(part, Backbone) for p in part.parameters()}
    parts = [(1.0, parameters)]
    if config.backbone_rate != 1:
        parts = [
            (1.0, [p for p in parameters if id(p) not in of_backbone]),
            (config.backbone_rate, [p for p in parameters if id(p) in of_backbone]),
        ]
    groups = []
    for rate, members in parts:
        decayed, free = [p for p in members if p.ndim > 1], [p for p in members if p.ndim <= 1]
        groups.append({"params": decayed, "weight_decay": config.weight_decay, "rate": rate})
        groups.append({"params": free, "weight_decay": 0.0, "rate": rate})
    return torch.optim.AdamW(groups, lr=config.learning_rate)
