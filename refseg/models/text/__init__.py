"""Text encoders: token ids to word features."""

from refseg.models.text.base import StagedText, StagedTextConfig, TextConfig, TextEncoder
from refseg.models.text.bert import BertWords, BertWordsConfig
from refseg.models.text.transformer import TransformerWords, TransformerWordsConfig
from refseg.models.text.words import (
    ContextualWords,
    ContextualWordsConfig,
    SentenceVectorConfig,
    WordEmbedding,
    WordEmbeddingConfig,
)
