"""What every model and its config must offer: the contract, in code. ``tests/models/test_contract.py`` checks it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from refseg.models.backbones import Backbone
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


@dataclass
class Explanation:
    """What a model can show of how it came to its answer, by level; empty where it has nothing to show."""

    word_maps: dict[str, Tensor] = field(default_factory=dict)  # [B,L,h,w], where each word looks; sums to one
    region_rows: dict[str, Tensor] = field(default_factory=dict)  # [B,R,R], where each region looks; rows sum to one
    region_words: dict[str, Tensor] = field(default_factory=dict)  # [B,L,R], what each region reads; sums to one over L
    # Of the fusion: how much of a level the others receive, how much of the mixture replaces it, [B,1 or C,h,w] each.
    gates: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    frame_weights: dict[str, Tensor] = field(default_factory=dict)  # [B,heads,T,h,w], sums to one over the frames
    centre_maps: Tensor | None = None  # [B,S,h,w], cosine of every pixel with the centre of each of S steps
    pairs: bool = False  # a word map is of the word at every region, averaged; else of the word itself


class ReferringModel(nn.Module):
    """An image or clip and an expression in, mask logits of the target frame out.

    ``visual_channels`` holds the widths of those entries of the trace that say what is seen where, and that training
    can still change; ``trace_channels`` the widths of everything else that an objective may read.
    """

    config: ModelConfig
    backbone: Backbone
    visual_channels: dict[str, int]
    trace_channels: dict[str, int]

    def forward(self, batch: RefBatch) -> Prediction:
        """The answer, and in ``trace`` what produced it.

        Returns:
            mask_logits [B,1,h',w']; trace with at least words [B,L,C], zero where padded, words_valid [B,L],
            sentence [B,C], their mean, pixels [B,C,h,w], at least one entry fused/LEVEL [B,C,h,w], and all that
            ``explain`` reads
        """
        raise NotImplementedError

    def explain(self, batch: RefBatch, prediction: Prediction, *, region_rows: bool = False) -> Explanation:
        """What the trace of ``prediction`` shows; nothing goes through the network again.

        Args:
            batch: that ``prediction`` answers.
            prediction: what ``forward`` returned.
            region_rows: also ``region_rows``, which are large, and all that costs as much.
        """
        return Explanation()

    def pooled_words(self, batch: RefBatch, trace: dict[str, Any], mask: Tensor) -> Tensor:
        """What each word makes of the referent's regions, [B,L,C].

        Only for a model whose ``trace_channels`` have "pooled_words", the width C.

        Args:
            batch: that the trace belongs to.
            trace: of its prediction.
            mask: [B,1,H,W] bool; where it is empty, all real regions count.
        """
        raise NotImplementedError(f"{type(self).__name__} pools no words.")
