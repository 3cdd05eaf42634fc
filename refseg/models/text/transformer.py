"""A small transformer over the words of the training set, one layer per stage. Ours, for the lessons."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import first_positions
from refseg.models.text.base import STAGES, StagedText, StagedTextConfig


@dataclass(frozen=True)
class TransformerWordsConfig(StagedTextConfig):
    """Width, heads and longest expression."""

    dim: int = 64
    heads: int = 4
    max_words: int = 20  # size of the position table
    normalized: bool = False  # after the last layer every word has mean 0 and variance 1, as BERT leaves it

    def build(self, vocabulary_size: int) -> TransformerWords:
        return TransformerWords(self, vocabulary_size)


class TransformerWords(StagedText):
    """Word plus position embedding, then four layers of attention among the words.

    Args:
        config: width and longest expression.
        vocabulary_size: number of token ids.
    """

    def __init__(self, config: TransformerWordsConfig, vocabulary_size: int):
        super().__init__()
        self.channels, self.normalized = config.dim, config.normalized
        self.table = nn.Embedding(vocabulary_size, config.dim)
        self.positions = nn.Embedding(config.max_words, config.dim)
        self.stages = nn.ModuleList(TransformerStage(config.dim, config.heads) for _ in range(STAGES))
        nn.init.normal_(self.table.weight, std=0.5)
        nn.init.normal_(self.positions.weight, std=0.1)

    def embed(self, token_ids: Tensor) -> Tensor:
        """See ``StagedText``."""
        return self.table(token_ids) + first_positions(self.positions.weight, token_ids.shape[1], "text encoder")

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """As every encoder, and normalised in the end if the config says so."""
        words, valid = super().forward(token_ids, token_valid)
        return (F.layer_norm(words, words.shape[-1:]) * valid[..., None] if self.normalized else words), valid


class TransformerStage(nn.Module):
    """One layer, normalised first: a small network trains sooner that way."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            dim, heads, 2 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )

    def forward(self, words: Tensor, token_valid: Tensor) -> Tensor:
        """words [B,L,C], valid [B,L] -> [B,L,C]."""
        return self.layer(words, src_key_padding_mask=~token_valid)  # torch's mask says where padding is
