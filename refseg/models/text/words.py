"""Text encoders of the lessons and of CMSA-Net: word by word, in context, or one vector for the whole expression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from refseg.errors import RefsegError
from refseg.models.blocks.attention import first_positions, masked_mean
from refseg.models.text.base import TextConfig, TextEncoder


@dataclass(frozen=True)
class WordEmbeddingConfig(TextConfig):
    """The paper's text side; 1000 is the width in the authors' release."""

    dim: int = 1000

    def build(self, vocabulary_size: int) -> WordEmbedding:
        return WordEmbedding(self, vocabulary_size)


class WordEmbedding(TextEncoder):
    """One learned vector per word, U(-0.08, 0.08) at the start (Ye et al., CVPR 2019, Sec. 3.1, and its release).

    It knows no order of words: "circle left of square" and "square left of circle" are the same bag of words
    to everything that follows, and so are "left" of the image and "left" of another object.

    Args:
        config: the width.
        vocabulary_size: number of token ids.
    """

    def __init__(self, config: WordEmbeddingConfig, vocabulary_size: int):
        super().__init__()
        self.channels = config.dim
        self.table = nn.Embedding(vocabulary_size, config.dim)
        nn.init.uniform_(self.table.weight, -0.08, 0.08)

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,L], valid [B,L] -> words [B,L,C], valid [B,L]."""
        return self.table(token_ids) * token_valid[..., None], token_valid


@dataclass(frozen=True)
class ContextualWordsConfig(TextConfig):
    """Words that know their neighbours: the lessons' default."""

    dim: int = 64  # even: half of it reads forwards, half backwards
    max_words: int = 20  # size of the position table

    def build(self, vocabulary_size: int) -> ContextualWords:
        return ContextualWords(self, vocabulary_size)


class ContextualWords(TextEncoder):
    """Word plus position embedding, then one bidirectional GRU added to it. An addition of ours, not in the paper.

    With it "circle left of square" and "square left of circle" differ. The GRU reads packed sequences, so padding
    changes nothing; padding must come after the words, as ``datasets.collate`` puts it.

    Args:
        config: width and longest expression.
        vocabulary_size: number of token ids.
    """

    def __init__(self, config: ContextualWordsConfig, vocabulary_size: int):
        super().__init__()
        if config.dim % 2:
            raise RefsegError(f"ContextualWords has dim={config.dim}: choose an even width, one half per direction.")
        self.channels = config.dim
        self.table = nn.Embedding(vocabulary_size, config.dim)
        self.positions = nn.Embedding(config.max_words, config.dim)
        self.gru = nn.GRU(config.dim, config.dim // 2, batch_first=True, bidirectional=True)
        # Only the direction of a word vector matters later: mostly the word, then its neighbours, then its place.
        nn.init.normal_(self.table.weight, std=0.5)
        nn.init.normal_(self.positions.weight, std=0.1)

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,L], valid [B,L] -> words [B,L,C], valid [B,L].

        Raises:
            RefsegError: more than ``max_words`` token positions.
        """
        L = token_ids.shape[1]
        words = self.table(token_ids) + first_positions(self.positions.weight, L, "text encoder")
        lengths = token_valid.sum(1).cpu()  # where the packer wants them
        packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
        context, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=L)
        return (words + context) * token_valid[..., None], token_valid


@dataclass(frozen=True)
class SentenceVectorConfig(TextConfig):
    """One vector for the whole expression; ``words`` says how the words below it are made."""

    words: TextConfig = ContextualWordsConfig()

    def build(self, vocabulary_size: int) -> SentenceVector:
        return SentenceVector(self, vocabulary_size)


class SentenceVector(TextEncoder):
    """The mean of the words as the only word: the paper's CMSA-S, the ablation that asks what single words are for.

    (Sec. 4 of the paper; there the sentence feature is an encoder's, here it is the mean of the same words.)

    Args:
        config: which word encoder lies below.
        vocabulary_size: number of token ids.
    """

    def __init__(self, config: SentenceVectorConfig, vocabulary_size: int):
        super().__init__()
        self.words = config.words.build(vocabulary_size)
        self.channels = self.words.channels

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,L], valid [B,L] -> one word [B,1,C], valid [B,1]."""
        words, words_valid = self.words(token_ids, token_valid)
        sentence = masked_mean(words, words_valid[..., None], dim=1)
        return sentence[:, None], torch.ones_like(words_valid[:, :1])
