"""Hidden words asked after training: the three ways, what counts as right, and heads that do not fit."""

import json
from dataclasses import replace

import pytest
import torch

from refseg.checkpoint import load_checkpoint
from refseg.datasets import Collate, build_dataset, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import HEADS, WAYS, WordGuesser


@pytest.fixture
def guesser(tiny_grounded):
    return WordGuesser.of(tiny_grounded)


@pytest.fixture
def batch(guesser):
    data = build_dataset("refshapes", "val", build_transform(guesser.image_size))
    return Collate(guesser.tokenizer)([data[index] for index in range(6)])


def one_hidden(guesser, batch):
    """The first word of every sentence that may be hidden."""
    may = guesser.may_be_hidden(batch.token_ids)
    assert may.any(1).all()
    return torch.nn.functional.one_hot(may.int().argmax(1), may.shape[1]).bool()


def test_guesses_are_shares_and_see_what_they_are_said_to_see(guesser, batch):
    hidden = one_hidden(guesser, batch)
    found = guesser.guess(batch, hidden)
    assert list(found) == list(WAYS)
    for shares in found.values():
        assert shares.shape == (6, len(guesser.tokenizer)) and torch.allclose(shares.sum(1), torch.ones(6))
    other_mask = guesser.guess(replace(batch, mask=batch.mask.flip(-1)), hidden)
    other_picture = guesser.guess(replace(batch, frames=batch.frames.flip(-1)), hidden)
    changed = {"picture and mask": (True, True), "picture": (False, True), "words alone": (False, False)}
    for way, (by_mask, by_picture) in changed.items():
        for other, changes in ((other_mask, by_mask), (other_picture, by_picture)):
            assert torch.equal(found[way], other[way]) is not changes, way


def test_the_word_itself_is_not_seen(guesser, batch):
    hidden = one_hidden(guesser, batch)
    other = replace(batch, token_ids=torch.where(hidden, guesser.tokenizer.ids["the"], batch.token_ids))
    for way, shares in guesser.guess(batch, hidden).items():
        assert torch.equal(shares, guesser.guess(other, hidden)[way])


def test_the_best_words_come_first(guesser):
    shares = torch.full((len(guesser.tokenizer),), 0.0)
    shares[guesser.tokenizer.ids["the"]], shares[guesser.tokenizer.ids["of"]] = 0.6, 0.3
    assert [word for word, _ in guesser.best(shares, 2)] == ["the", "of"]


def test_special_and_empty_words_are_not_asked_for(guesser):
    words = guesser.tokenizer
    ids = torch.tensor([words.ids["<pad>"], words.ids["the"], words.hidden_id])
    assert guesser.may_be_hidden(ids).tolist() == [False, False, True]


def test_rows_by_hand(batch):
    rows = batch.rows([4, 4, 0])
    assert rows.expressions == [batch.expressions[n] for n in (4, 4, 0)]
    assert torch.equal(rows.frames, batch.frames[[4, 4, 0]]) and len(rows.distinct_images()[0]) <= 2


def test_no_heads_no_guesser(tiny_checkpoint):
    assert WordGuesser.of(tiny_checkpoint) is None


def test_prediction_does_not_need_the_heads(tiny_grounded, batch):
    with torch.no_grad():
        before = load_checkpoint(tiny_grounded).model(batch).mask_logits
        (tiny_grounded / HEADS).unlink()
        assert torch.equal(load_checkpoint(tiny_grounded).model(batch).mask_logits, before)


def test_damaged_heads_and_heads_of_another_network(tiny_grounded):
    loaded = load_checkpoint(tiny_grounded)
    with pytest.raises(RefsegError, match="heads do not fit the network"):
        WordGuesser(loaded, {})
    (tiny_grounded / HEADS).write_bytes(b"no tensors")
    with pytest.raises(RefsegError, match="heads.safetensors is damaged"):
        WordGuesser.of(tiny_grounded)


def test_a_network_of_another_objective(tiny_grounded):
    path = tiny_grounded / "config.json"
    config = json.loads(path.read_text())
    older = {"type": "SegmentationConfig", "bce": 1.0, "dice": 0.5, "semantics": 0.0}
    for objective, said in ((None, "trained with Mask"), (older, "trained with Mask"), ({"type": "X"}, "unknown type")):
        config["record"]["experiment"]["objective"] = objective
        path.write_text(json.dumps(config))
        with pytest.raises(RefsegError, match=said):
            WordGuesser.of(tiny_grounded)
    for experiment in (None, ["a list"]):
        config["record"]["experiment"] = experiment
        path.write_text(json.dumps(config))
        with pytest.raises(RefsegError, match="trained with Mask"):
            WordGuesser.of(tiny_grounded)
    with pytest.raises(RefsegError, match="trained with Mask"):
        WordGuesser(replace(load_checkpoint(tiny_grounded), config={}), {})
