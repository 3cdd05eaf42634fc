"""Text encoders: token ids to word features; the class of a config chooses one."""

from refseg.models.text.staged import (
    STAGED_TEXTS,
    STAGES,
    BertStage,
    BertWords,
    BertWordsConfig,
    StagedText,
    TransformerStage,
    TransformerWords,
    TransformerWordsConfig,
)
from refseg.models.text.words import (
    TEXT_ENCODERS,
    ContextualWords,
    ContextualWordsConfig,
    SentenceVector,
    SentenceVectorConfig,
    WordEmbedding,
    WordEmbeddingConfig,
)

__all__ = [
    "BertStage",
    "BertWords",
    "BertWordsConfig",
    "ContextualWords",
    "ContextualWordsConfig",
    "STAGED_TEXTS",
    "STAGES",
    "SentenceVector",
    "SentenceVectorConfig",
    "StagedText",
    "TEXT_ENCODERS",
    "TransformerStage",
    "TransformerWords",
    "TransformerWordsConfig",
    "WordEmbedding",
    "WordEmbeddingConfig",
]
