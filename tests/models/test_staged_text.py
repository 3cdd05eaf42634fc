"""Text encoders in stages: stage by stage is the whole, padding is invisible, BERT is transformers' BERT."""

import pytest
import torch

from refseg.errors import RefsegError
from refseg.models.text import BertWordsConfig, TransformerWordsConfig

CONFIGS = [
    TransformerWordsConfig(dim=6, heads=2, max_words=13),
    BertWordsConfig(dim=6, layers=8, heads=2, max_words=13),
]


@pytest.fixture(params=CONFIGS, ids=lambda config: type(config).__name__)
def encoder(request):
    if isinstance(request.param, BertWordsConfig):
        pytest.importorskip("transformers")
    return request.param.build(vocabulary_size=11).eval()


@torch.no_grad()
def test_stage_by_stage_is_the_whole(encoder):
    ids, valid = torch.tensor([[2, 5, 3], [4, 7, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    words = encoder.embed(ids)
    for stage in encoder.stages:
        words = stage(words, valid)
    whole, words_valid = encoder(ids, valid)
    assert len(encoder.stages) == 4 and whole.shape == (2, 3, encoder.channels) and torch.equal(words_valid, valid)
    assert torch.equal(whole[valid], words[valid]) and (whole[1, 2] == 0).all()


@torch.no_grad()
def test_padding_changes_no_word(encoder):
    alone = encoder(torch.tensor([[2, 5, 3]]), torch.ones(1, 3, dtype=torch.bool))[0]
    padded = torch.tensor([[2, 5, 3, 9, 10], [3, 3, 4, 5, 6]])
    valid = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    assert torch.allclose(encoder(padded, valid)[0][0, :3], alone[0], atol=1e-6)


@torch.no_grad()
def test_words_are_normalised_in_the_end_if_asked():
    torch.manual_seed(0)
    plain = TransformerWordsConfig(dim=12, heads=3).build(7)
    encoder = TransformerWordsConfig(dim=12, heads=3, normalized=True).build(7)
    encoder.load_state_dict(plain.state_dict())
    ids, valid = torch.tensor([[3, 5, 2, 0]]), torch.tensor([[True, True, True, False]])
    words, expected = encoder(ids, valid)[0], plain(ids, valid)[0]
    expected = (expected - expected.mean(-1, keepdim=True)) / expected.std(-1, keepdim=True, unbiased=False)
    assert torch.allclose(words[:, :3], expected[:, :3], atol=1e-3) and not words[:, 3].any()


def test_the_order_of_words_matters(encoder):
    valid = torch.ones(1, 3, dtype=torch.bool)
    one, other = (encoder(torch.tensor([ids]), valid)[0] for ids in ([2, 5, 3], [3, 5, 2]))
    assert not torch.allclose(one[0, 1], other[0, 1], atol=1e-5)


def test_too_many_words_are_named(encoder):
    with pytest.raises(RefsegError, match="The batch has 14 words, the text encoder knows 13"):
        encoder.embed(torch.ones(1, 14, dtype=torch.long))


@torch.no_grad()
def test_bert_is_that_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 6, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=11, **sizes)).eval()
    bert.save_pretrained(tmp_path / "bert")
    config = BertWordsConfig(dim=6, layers=4, heads=2, weights=str(tmp_path / "bert"))
    ours = config.build(11).eval()
    ids, valid = torch.tensor([[2, 5, 3], [4, 7, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    theirs = bert(ids, attention_mask=valid.long()).last_hidden_state
    assert torch.allclose(ours(ids, valid)[0][valid], theirs[valid], atol=1e-6)


def test_bert_says_what_does_not_fit(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 6, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(vocab_size=11, **sizes)).save_pretrained(tmp_path / "bert")
    config = BertWordsConfig(dim=6, layers=4, heads=2, weights=str(tmp_path / "bert"))
    with pytest.raises(RefsegError, match="use the tokenizer and the sizes of the weights"):
        config.build(13)
    with pytest.raises(RefsegError, match="'nothing/here' could not be had"):
        BertWordsConfig(weights="nothing/here").build(11)
    with pytest.raises(RefsegError, match="choose a multiple of 4"):
        BertWordsConfig(layers=6).build(11)


@pytest.mark.parametrize("package, config", [("transformers", BertWordsConfig()), ("timm", None)])
def test_a_missing_package_is_named(package, config, monkeypatch):
    from refseg.models.backbones import SwinBackbone, SwinConfig

    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(RefsegError, match=rf'needs {package}: pip install "refseg\[paper\]"'):
        config.build(11) if config else SwinBackbone(SwinConfig())
