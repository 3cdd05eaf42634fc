"""Text encoders in four stages, so that words can meet the picture between them: BERT, and a small one for the lessons.

Both have ``embed(token_ids) -> words [B,L,C]`` and four ``stages``, each ``(words, token_valid) -> words``; called as
a whole they have the signature of every text encoder, ``(token_ids, token_valid) -> (words, words_valid)``.

BERT is that of transformers, which is asked for when the network is built (``pip install "refseg[paper]"``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.text.words import TextConfig

STAGES = 4


class StagedText(nn.Module):
    """What both encoders share; a subclass sets ``channels``, ``longest`` and ``stages``, and has ``embed``."""

    channels: int
    longest: int
    stages: nn.ModuleList

    def embed(self, token_ids: Tensor) -> Tensor:
        """ids [B,L] -> [B,L,C], before the first stage."""
        raise NotImplementedError

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,L], valid [B,L] -> words [B,L,C], zero where padded, valid [B,L]."""
        words = self.embed(token_ids)
        for stage in self.stages:
            words = stage(words, token_valid)
        return words * token_valid[..., None], token_valid

    def _check_length(self, token_ids: Tensor) -> None:
        L = token_ids.shape[1]
        if L > self.longest:
            raise RefsegError(
                f"The batch has {L} words, the text encoder knows {self.longest}: cut them in the tokenizer."
            )


@dataclass(frozen=True)
class StagedTextConfig(TextConfig):
    """Base of the configs of text encoders in four stages."""

    def build(self, vocabulary_size: int) -> StagedText:
        """The text encoder for ``vocabulary_size`` token ids."""
        raise NotImplementedError


@dataclass(frozen=True)
class TransformerWordsConfig(StagedTextConfig):
    """A small transformer over words of the training set, one layer per stage (ours, for the lessons)."""

    dim: int = 64
    heads: int = 4
    max_words: int = 20  # size of the position table
    normalized: bool = False  # behind the last layer every word at mean 0 and variance 1, as BERT leaves it

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
        self.channels, self.longest, self.normalized = config.dim, config.max_words, config.normalized
        self.table = nn.Embedding(vocabulary_size, config.dim)
        self.positions = nn.Embedding(config.max_words, config.dim)
        self.stages = nn.ModuleList(TransformerStage(config.dim, config.heads) for _ in range(STAGES))
        nn.init.normal_(self.table.weight, std=0.5)
        nn.init.normal_(self.positions.weight, std=0.1)

    def embed(self, token_ids: Tensor) -> Tensor:
        """ids [B,L] -> [B,L,C].

        Raises:
            RefsegError: more than ``max_words`` token positions.
        """
        self._check_length(token_ids)
        return self.table(token_ids) + self.positions.weight[: token_ids.shape[1]]

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


@dataclass(frozen=True)
class BertWordsConfig(StagedTextConfig):
    """BERT-base; its vocabulary is that of the tokenizer, ``WordPieces``."""

    dim: int = 768
    layers: int = 12  # a multiple of four
    heads: int = 12
    max_words: int = 512  # size of the position table
    weights: str | None = None  # a name of the Hugging Face hub, "bert-base-uncased" (fetched once), or a folder

    def build(self, vocabulary_size: int) -> BertWords:
        return BertWords(self, vocabulary_size)


class BertWords(StagedText):
    """The embeddings and layers of transformers' ``BertModel``, a quarter of the layers per stage.

    Args:
        config: widths, depth and weights.
        vocabulary_size: number of word pieces.

    Raises:
        RefsegError: transformers is missing, the weights are not there, or do not fit the config.
    """

    def __init__(self, config: BertWordsConfig, vocabulary_size: int):
        super().__init__()
        if config.layers % STAGES:
            raise RefsegError(
                f"BERT has {config.layers} layers: choose a multiple of {STAGES}, as many for each stage."
            )
        self.channels, self.longest = config.dim, config.max_words
        bert = _bert(config, vocabulary_size)
        self.embeddings = bert.embeddings
        depth, layers = config.layers // STAGES, bert.encoder.layer
        self.stages = nn.ModuleList(BertStage(layers[i * depth : (i + 1) * depth]) for i in range(STAGES))
        for name, parameter in self.named_parameters():
            if name.endswith("self.key.bias"):  # it moves all scores of a query alike
                parameter.requires_grad_(False)

    def embed(self, token_ids: Tensor) -> Tensor:
        """ids [B,L] -> [B,L,C].

        Raises:
            RefsegError: more than ``max_words`` token positions.
        """
        self._check_length(token_ids)
        return self.embeddings(token_ids)


class BertStage(nn.Module):
    """Some of BERT's layers."""

    def __init__(self, layers: Any):
        super().__init__()
        self.layers = layers

    def forward(self, words: Tensor, token_valid: Tensor) -> Tensor:
        """words [B,L,C], valid [B,L] -> [B,L,C]; what stands under the padding means nothing."""
        bias = torch.zeros_like(token_valid, dtype=words.dtype).masked_fill(~token_valid, torch.finfo(words.dtype).min)
        for layer in self.layers:
            words = layer(words, bias[:, None, None])
        return words


def _bert(config: BertWordsConfig, vocabulary_size: int) -> Any:
    try:
        from transformers import BertConfig, BertModel
    except ImportError:
        raise RefsegError('BERT needs transformers: pip install "refseg[paper]" brings it.') from None
    if config.weights is None:
        size: dict[str, Any] = {
            "vocab_size": vocabulary_size,
            "hidden_size": config.dim,
            "intermediate_size": 4 * config.dim,
        }
        depth: dict[str, Any] = {"num_hidden_layers": config.layers, "num_attention_heads": config.heads}
        bert_config = BertConfig(**size, **depth, max_position_embeddings=config.max_words)
        return BertModel(bert_config, add_pooling_layer=False)
    try:
        bert = BertModel.from_pretrained(config.weights, add_pooling_layer=False)
    except Exception as error:  # whatever transformers, the hub or the network have to say
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RefsegError(
            f"The BERT weights {config.weights!r} could not be had ({reason}): name a model of the hub or a folder."
        ) from error
    found = (bert.config.vocab_size, bert.config.hidden_size, bert.config.num_hidden_layers)
    if found != (vocabulary_size, config.dim, config.layers):
        wanted = (vocabulary_size, config.dim, config.layers)
        raise RefsegError(
            f"The BERT weights {config.weights!r} have {found} pieces, channels and layers, the config says {wanted}: "
            "use the tokenizer and the sizes of the weights."
        )
    return bert
