"""Text encoders: padding is invisible, order matters exactly where we say so."""

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models.text import (
    ContextualWords,
    ContextualWordsConfig,
    SentenceVector,
    SentenceVectorConfig,
    WordEmbedding,
    WordEmbeddingConfig,
)

CONFIGS = [
    WordEmbeddingConfig(dim=7),
    ContextualWordsConfig(dim=6, max_words=13),
    SentenceVectorConfig(WordEmbeddingConfig(dim=7)),
    SentenceVectorConfig(ContextualWordsConfig(dim=6, max_words=13)),
]


def all_valid(token_ids):
    return torch.ones_like(token_ids, dtype=torch.bool)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_padding_changes_no_word(config):
    encoder = config.build(11)
    token_ids = torch.tensor([[2, 5, 3]])
    padded = torch.tensor([[2, 5, 3, 9, 10, 4], [3, 3, 4, 5, 6, 7]])  # what lies under the padding is arbitrary
    padded_valid = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    words, words_valid = encoder(token_ids, all_valid(token_ids))
    more_words, more_valid = encoder(padded, padded_valid)
    count = words.shape[1]
    assert words.shape[2] == encoder.channels
    assert words_valid.all() and more_valid[0].sum() == count
    assert torch.allclose(more_words[0, :count], words[0], atol=1e-6)
    assert not more_words[0, count:].any()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_every_parameter_gets_a_gradient(config):
    encoder = config.build(11)
    token_ids = torch.tensor([[2, 5, 3], [4, 4, 6]])
    words, _ = encoder(token_ids, all_valid(token_ids))
    words.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_word_embedding_knows_no_order_and_contextual_words_do():
    token_ids, reversed_ids = torch.tensor([[2, 5, 3]]), torch.tensor([[3, 5, 2]])
    bag, context = WordEmbedding(CONFIGS[0], 11), ContextualWords(CONFIGS[1], 11)
    words, backwards = (bag(ids, all_valid(ids))[0] for ids in (token_ids, reversed_ids))
    assert torch.equal(words, backwards.flip(1))
    words, backwards = (context(ids, all_valid(ids))[0] for ids in (token_ids, reversed_ids))
    assert (words - backwards.flip(1)).abs().min(-1).values.max() > 1e-3


def test_word_embedding_starts_between_plus_and_minus_008():
    weight = WordEmbedding(WordEmbeddingConfig(dim=101), 103).table.weight
    assert 0.079 < weight.max() <= 0.08 and -0.08 <= weight.min() < -0.079


def test_sentence_vector_is_the_mean_of_the_valid_words():
    encoder = SentenceVector(CONFIGS[2], 11)
    table = encoder.words.table.weight
    words, valid = encoder(torch.tensor([[2, 5, 7]]), torch.tensor([[True, True, False]]))
    assert torch.allclose(words, ((table[2] + table[5]) / 2)[None, None])
    assert valid.tolist() == [[True]]


def test_too_many_words_and_an_odd_width_are_refused():
    token_ids = torch.full((1, 14), 2)
    with pytest.raises(RefsegError, match="14 words.*13"):
        ContextualWords(CONFIGS[1], 11)(token_ids, all_valid(token_ids))
    with pytest.raises(RefsegError, match="even"):
        ContextualWords(ContextualWordsConfig(dim=7), 11)
