"""Text encoders: token ids to word features."""

from refseg.models.text.staged import (
    STAGES,
    BertStage,
    BertWords,
    BertWordsConfig,
    StagedText,
    StagedTextConfig,
    TransformerStage,
    TransformerWords,
    TransformerWordsConfig,
)
from refseg.models.text.words import (
    ContextualWords,
    ContextualWordsConfig,
    SentenceVector,
    SentenceVectorConfig,
    TextConfig,
    WordEmbedding,
    WordEmbeddingConfig,
)

__all__ = [
    "BertStage",
    "BertWords",
    "BertWordsConfig",
    "ContextualWords",
    "ContextualWordsConfig",
    "STAGES",
    "SentenceVector",
    "SentenceVectorConfig",
    "StagedText",
    "StagedTextConfig",
    "TextConfig",
    "TransformerStage",
    "TransformerWords",
    "TransformerWordsConfig",
    "WordEmbedding",
    "WordEmbeddingConfig",
]
