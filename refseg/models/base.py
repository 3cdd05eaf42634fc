"""What every model and its config must offer: the contract, in code. ``tests/models/test_contract.py`` checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from refseg.models.serialise import Config
from refseg.types import Prediction, RefBatch


@dataclass(frozen=True)
class ModelConfig(Config):
    """Base of the models' configs: the parts of one model, each a config that builds its part."""

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """Older files also hold the size of the vocabulary, which the tokenizer knows."""
        return {name: value for name, value in stored.items() if name != "vocabulary_size"}

    def build(self, vocabulary_size: int) -> ReferringModel:
        """The model with fresh weights, for a tokenizer with ``vocabulary_size`` token ids."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its model is built.")


class ReferringModel(nn.Module):
    """An image or clip and an expression in, mask logits of the target frame out.

    ``visual_channels`` holds the widths of those entries of the trace that say what is seen where, and that training
    can still change; ``trace_channels`` the widths of everything else that an objective may read.
    """

    config: ModelConfig
    backbone: nn.Module
    visual_channels: dict[str, int]
    trace_channels: dict[str, int]

    def forward(self, batch: RefBatch) -> Prediction:
        """The mask logits, and in the trace what produced them."""
        raise NotImplementedError
