"""Text encoders: padding is invisible, order matters exactly where we say so, BERT is transformers' BERT."""

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models.backbones import SwinConfig
from refseg.models.text import (
    BertWordsConfig,
    ContextualWordsConfig,
    SentenceVectorConfig,
    TransformerWordsConfig,
    WordEmbeddingConfig,
)

BAG, CONTEXT = WordEmbeddingConfig(dim=7), ContextualWordsConfig(dim=6, max_words=13)
SMALL = TransformerWordsConfig(dim=6, heads=2, max_words=13)
BERT = BertWordsConfig(dim=6, layers=8, heads=2, max_words=13)


@pytest.fixture
def encoders():
    """One of each kind, for 11 token ids."""
    pytest.importorskip("transformers")
    configs = [BAG, CONTEXT, SentenceVectorConfig(BAG), SentenceVectorConfig(CONTEXT), SMALL, BERT]
    return {config: config.build(11).eval() for config in configs}


def read(encoder, token_ids):
    token_ids = torch.tensor([token_ids])
    return encoder(token_ids, torch.ones_like(token_ids, dtype=torch.bool))


def test_padding_changes_no_word(encoders):
    padded = torch.tensor([[2, 5, 3, 9, 10, 4], [3, 3, 4, 5, 6, 7]])  # what lies under the padding is arbitrary
    padded_valid = torch.tensor([[True] * 3 + [False] * 3, [True] * 6])
    for config, encoder in encoders.items():
        words, words_valid = read(encoder, [2, 5, 3])
        more_words, more_valid = encoder(padded, padded_valid)
        count = words.shape[1]
        assert words.shape[2] == encoder.channels, config
        assert words_valid.all() and more_valid[0].sum() == count, config
        assert torch.allclose(more_words[0, :count], words[0], atol=1e-6), config
        assert not more_words[0, count:].any(), config


def test_every_parameter_that_learns_gets_a_gradient(encoders):
    for config, encoder in encoders.items():
        words, _ = read(encoder, [2, 5, 3, 4, 4, 6])
        (words * torch.randn_like(words)).sum().backward()
        for name, parameter in encoder.named_parameters():
            assert not parameter.requires_grad or parameter.grad.any(), (config, name)


def test_only_the_bag_of_words_knows_no_order(encoders):
    for config in (BAG, CONTEXT, SMALL, BERT):
        words, backwards = (read(encoders[config], ids)[0] for ids in ([2, 5, 3], [3, 5, 2]))
        difference = (words - backwards.flip(1)).abs().amax(-1).min()
        assert (difference == 0) == (config == BAG) and (config == BAG or difference > 1e-5), config


def test_words_at_the_start_and_their_mean():
    weight = WordEmbeddingConfig(dim=101).build(103).table.weight
    assert 0.079 < weight.max() <= 0.08 and -0.08 <= weight.min() < -0.079
    encoder = SentenceVectorConfig(BAG).build(11)
    table = encoder.words.table.weight
    words, valid = encoder(torch.tensor([[2, 5, 7]]), torch.tensor([[True, True, False]]))
    assert torch.allclose(words, ((table[2] + table[5]) / 2)[None, None]) and valid.tolist() == [[True]]


def test_stage_by_stage_is_the_whole(encoders):
    ids, valid = torch.tensor([[2, 5, 3], [4, 7, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    for config in (SMALL, BERT):
        words = encoders[config].embed(ids)
        for stage in encoders[config].stages:
            words = stage(words, valid)
        assert len(encoders[config].stages) == 4 and torch.equal(encoders[config](ids, valid)[0][valid], words[valid])


def test_words_are_normalised_in_the_end_if_asked():
    plain, encoder = SMALL.build(7), TransformerWordsConfig(dim=6, heads=2, max_words=13, normalized=True).build(7)
    encoder.load_state_dict(plain.state_dict())
    words, expected = read(encoder, [3, 5, 2])[0], read(plain, [3, 5, 2])[0]
    expected = (expected - expected.mean(-1, keepdim=True)) / expected.std(-1, keepdim=True, unbiased=False)
    assert torch.allclose(words, expected, atol=1e-3)


@torch.no_grad()
def test_bert_is_that_of_transformers_and_says_what_does_not_fit(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 6, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=11, **sizes)).eval()
    bert.save_pretrained(tmp_path / "bert")
    config = BertWordsConfig(dim=6, layers=4, heads=2, weights=str(tmp_path / "bert"))
    ours = config.build(11).eval()
    ids, valid = torch.tensor([[2, 5, 3], [4, 7, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    theirs = bert(ids, attention_mask=valid.long()).last_hidden_state
    assert torch.allclose(ours(ids, valid)[0][valid], theirs[valid], atol=1e-6)
    with pytest.raises(RefsegError, match="use the tokenizer and the sizes of the weights"):
        config.build(13)
    with pytest.raises(RefsegError, match="'nothing/here' could not be loaded"):
        BertWordsConfig(weights="nothing/here").build(11)


def test_what_cannot_be_is_refused(encoders):
    for config in (CONTEXT, SMALL, BERT):
        with pytest.raises(RefsegError, match="The batch has 14 words, the text encoder knows 13"):
            read(encoders[config], [2] * 14)
    with pytest.raises(RefsegError, match="even"):
        ContextualWordsConfig(dim=7).build(11)
    with pytest.raises(RefsegError, match="use a multiple"):
        BertWordsConfig(layers=6).build(11)


def test_a_missing_package_is_named(monkeypatch):
    for package, build in (
        ("transformers", lambda: BertWordsConfig().build(11)),
        ("timm", lambda: SwinConfig().build()),
    ):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        with pytest.raises(RefsegError, match=rf'needs {package}: pip install "refseg\[paper\]"'):
            build()
