"""BERT in four stages. Its library transformers (``pip install "refseg[paper]"``) is imported when it is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refseg.errors import RefsegError, first_line, require
from refseg.models.blocks.attention import first_positions
from refseg.models.text.base import STAGES, StagedText, StagedTextConfig


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
            raise RefsegError(f"BERT has {config.layers} layers, which {STAGES} stages cannot share: use a multiple.")
        self.channels = config.dim
        bert = _bert(config, vocabulary_size)
        self.embeddings = bert.embeddings
        depth, layers = config.layers // STAGES, bert.encoder.layer
        self.stages = nn.ModuleList(BertStage(layers[i * depth : (i + 1) * depth]) for i in range(STAGES))
        for name, parameter in self.named_parameters():
            if name.endswith("self.key.bias"):  # it moves all scores of a query alike
                parameter.requires_grad_(False)

    def embed(self, token_ids: Tensor) -> Tensor:
        """See ``StagedText``."""
        first_positions(self.embeddings.position_embeddings.weight, token_ids.shape[1], "text encoder")
        return self.embeddings(token_ids)


class BertStage(nn.Module):
    """Some of BERT's layers."""

    def __init__(self, layers: Any):
        super().__init__()
        self.layers = layers

    def forward(self, words: Tensor, token_valid: Tensor) -> Tensor:
        """words [B,L,C], valid [B,L] -> [B,L,C]; rows of padding mean nothing."""
        bias = torch.zeros_like(token_valid, dtype=words.dtype).masked_fill(~token_valid, torch.finfo(words.dtype).min)
        for layer in self.layers:
            words = layer(words, bias[:, None, None])
        return words


def _bert(config: BertWordsConfig, vocabulary_size: int) -> Any:
    transformers = require("transformers", 'BERT needs transformers: pip install "refseg[paper]".')
    if config.weights is None:
        size: dict[str, Any] = {"vocab_size": vocabulary_size, "max_position_embeddings": config.max_words}
        size |= {"hidden_size": config.dim, "intermediate_size": 4 * config.dim}
        size |= {"num_hidden_layers": config.layers, "num_attention_heads": config.heads}
        return transformers.BertModel(transformers.BertConfig(**size), add_pooling_layer=False)
    try:
        bert = transformers.BertModel.from_pretrained(config.weights, add_pooling_layer=False)
    except Exception as error:  # transformers, the hub and the network raise many kinds
        raise RefsegError(
            f"The BERT weights {config.weights!r} could not be loaded ({first_line(error)}): name a model of the hub "
            "or a folder."
        ) from error
    found = (bert.config.vocab_size, bert.config.hidden_size, bert.config.num_hidden_layers)
    if found != (wanted := (vocabulary_size, config.dim, config.layers)):
        raise RefsegError(
            f"The BERT weights {config.weights!r} have {found} pieces, channels and layers, the config says {wanted}: "
            "use the tokenizer and the sizes of the weights."
        )
    return bert
