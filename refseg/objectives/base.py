"""An objective is a list of weighted terms: each term makes losses by name of a prediction.

A new term is a frozen config whose ``build`` makes a ``Term``; put it among the ``terms`` of an ``ObjectiveConfig``.
Auxiliary heads live in the terms, so that a model's weights hold nothing that inference does not need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.base import ReferringModel
from refseg.models.serialise import Config
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction, RefBatch


@dataclass(frozen=True)
class ObjectiveContext:
    """What a term may ask about the model and the data when it is built."""

    visual_channels: dict[str, int]  # widths of the trace entries that show what is where and are still learned
    trace_channels: dict[str, int]  # widths of the other trace entries that a term may read
    classes: tuple[int, ...] = ()  # number of classes of each attribute of the objects, "no object" not counted
    tokenizer: WordVocabulary | None = None

    def require(self, config: TermConfig, *entries: str) -> None:
        """Raises: RefsegError: the trace lacks one of ``entries``."""
        missing = [entry for entry in entries if entry not in self.trace_channels]
        if missing:
            raise RefsegError(
                f"{type(config).__name__} needs a model whose trace has {', '.join(missing)}: remove this term, or "
                f"choose another model."
            )


@dataclass(frozen=True)
class TermConfig(Config):
    """Base of the terms' configs."""

    needs_objects: ClassVar[bool] = False  # whether the training set should say what every pixel shows

    def build(self, context: ObjectiveContext) -> Term:
        """The term.

        Raises:
            RefsegError: the term needs something that model or data do not have.
        """
        raise NotImplementedError


class Term(nn.Module):
    """Part of an objective.

    Args:
        weights: of its losses, by name.
    """

    def __init__(self, weights: dict[str, float]):
        super().__init__()
        self.weights = weights

    def prepare(self, batch: RefBatch) -> RefBatch:
        """What the model is to read in place of ``batch``."""
        return batch

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        """The losses by name, scalars and not yet weighted.

        Args:
            batch: as prepared by all terms.
            model: that made the prediction, for what has to be derived from the trace with the model's weights.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """The terms, in the order in which they are built and asked."""

    terms: tuple[TermConfig, ...]

    @property
    def needs_objects(self) -> bool:
        """Whether one of the terms does."""
        return any(term.needs_objects for term in self.terms)

    def changed(self, kind: type[TermConfig], **fields) -> ObjectiveConfig:
        """The same with other ``fields`` in the term of this kind."""
        return ObjectiveConfig(tuple(replace(x, **fields) if isinstance(x, kind) else x for x in self.terms))

    def adding(self, *terms: TermConfig) -> ObjectiveConfig:
        """The same with more terms."""
        return ObjectiveConfig((*self.terms, *terms))

    def without(self, kind: type[TermConfig]) -> ObjectiveConfig:
        """The same without the term of this kind."""
        return ObjectiveConfig(tuple(term for term in self.terms if not isinstance(term, kind)))

    def build(self, context: ObjectiveContext) -> Objective:
        """The objective; raises what its terms raise."""
        return Objective([term.build(context) for term in self.terms])


class Objective(nn.Module):
    """(model, batch) -> prediction, {name: loss}; ``weights`` says how the losses add up.

    Raises:
        RefsegError: two terms give the same loss.
    """

    def __init__(self, terms: Sequence[Term]):
        super().__init__()
        self.terms: Any = nn.ModuleList(terms)  # of Term
        self.weights: dict[str, float] = {}
        for term in terms:
            if twice := self.weights.keys() & term.weights:
                raise RefsegError(f"Two terms of the objective give the loss {min(twice)}: remove one of them.")
            self.weights |= term.weights
        self.register_load_state_dict_pre_hook(_into_terms)

    def forward(self, model: ReferringModel, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """The model's prediction for the prepared batch, and the losses, scalars and not yet weighted."""
        for term in self.terms:
            batch = term.prepare(batch)
        prediction = model(batch)
        losses = {}
        for term in self.terms:
            losses |= term(prediction, batch, model)
        return prediction, losses

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum."""
        return reduce(torch.add, (self.weights[name] * loss for name, loss in losses.items()))


def _into_terms(objective: Objective, state: dict[str, Tensor], prefix: str, *_) -> None:
    """Older runs have the heads of all terms side by side: "predictor.head.weight", now "terms.2.predictor..."."""
    for name in objective.state_dict():
        older = prefix + name.split(".", 2)[2]
        if older in state:
            state[prefix + name] = state.pop(older)


def build_objective(
    config: ObjectiveConfig,
    model: ReferringModel | None = None,
    classes: Sequence[int] = (),
    tokenizer: WordVocabulary | None = None,
) -> Objective:
    """The objective for a model and its data; for terms that need none of it the config is enough.

    Args:
        config: the terms.
        model: with ``visual_channels`` and ``trace_channels``.
        classes: number of classes of each attribute of the objects, "no object" not counted.
        tokenizer: of the expressions.

    Raises:
        RefsegError: a term needs something that is missing here.
    """
    widths = ({}, {}) if model is None else (model.visual_channels, model.trace_channels)
    return config.build(ObjectiveContext(*widths, tuple(classes), tokenizer))
