"""What lessons measure of words: a model that knows one word, and a guesser that always says the same."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from refseg.datasets import Collate, build_dataset, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.hidden_words import WAYS, WordGuesser
from refseg.models.base import ReferringModel
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction
from refseg_course.word_measures import OTHER, ablation_scores, hidden_words, recover, word_ablations
from refshapes.wording import MEANINGS

ASKED = {kind: MEANINGS[kind] for kind in ("colour", "shape")}
KNOWN = ASKED["colour"] | ASKED["shape"]


# ---- word ablation -----------------------------------------------------------------------------------------------


class Knowing(ReferringModel):
    """Its mask is the referent if "the" was said."""

    def __init__(self, words: WordVocabulary):
        super().__init__()
        self.words, self.weight = words, nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        said = (batch.token_ids == self.words.ids["the"]).any(1)[:, None, None, None]
        return Prediction(torch.where(batch.mask & said, 1.0, -1.0), {})


@pytest.fixture
def shapes(tiny_refshapes):
    data = build_dataset("refshapes", "val", build_transform(96), objects=True)
    return data, WordVocabulary.build(data.expressions)


def test_striking_out_the_only_word_that_counts(shapes):
    data, words = shapes
    sample = replace(data[0], expression="red the red star")
    whole, without = word_ablations(Knowing(words), sample, words)
    assert whole == 1 and without == [("red", 1.0), ("the", 0.0), ("red", 1.0), ("star", 1.0)]
    with pytest.raises(RefsegError, match="its only word"):
        word_ablations(Knowing(words), replace(sample, expression="star"), words)


def test_ablation_by_kind(shapes):
    data, words = shapes
    scores = ablation_scores(Knowing(words), data, words, progress=False)
    long = [text.split() for text in data.expressions if len(text.split()) > 1]
    assert sum(row["N"] for row in scores.values()) == sum(map(len, long))
    single = [text for text in long if text.count("the") == 1]
    assert single and scores[OTHER]["mIoU without"] < scores[OTHER]["mIoU"]
    assert all(row["mIoU"] == row["mIoU without"] for kind, row in scores.items() if kind != OTHER)


# ---- hidden words ------------------------------------------------------------------------------------------------


@pytest.fixture
def guesser(tiny_grounded):
    return WordGuesser.of(tiny_grounded)


@pytest.fixture
def batch(guesser):
    data = build_dataset("refshapes", "val", build_transform(guesser.image_size))
    return Collate(guesser.tokenizer)([data[index] for index in range(6)])


def test_hidden_words_by_hand(batch, guesser):
    asked = {}
    for rows, hidden, holes in hidden_words(batch, ASKED):
        words = [hole.word for hole in holes]
        assert (hidden.sum(1) == 1).all() and guesser.tokenizer.decode(rows.token_ids[hidden].tolist()) == words
        for sample, hole in zip(rows.sample_ids, holes, strict=True):
            asked.setdefault(sample, []).append(hole.word)
            assert hole.kind in ("colour", "shape") and hole.group.startswith(f"{hole.kind} of ")
    for sample, expression in zip(batch.sample_ids, batch.expressions):
        assert sorted(asked.get(sample, [])) == sorted(w for w in expression.split() if w in KNOWN)


def test_words_that_come_back_are_counted(guesser, monkeypatch):
    """A guesser that always says red, and disc among the shapes: synonyms count as right."""
    words = guesser.tokenizer
    shares = torch.full((len(words),), 0.1)
    shares[words.ids["red"]], shares[words.ids["disc"]] = 0.9, 0.8
    monkeypatch.setattr(
        guesser, "guess", lambda batch, hidden: {way: shares.expand(int(hidden.sum()), -1) for way in WAYS}
    )
    data = build_dataset("refshapes", "val", build_transform(guesser.image_size))
    texts = [word for text in data.expressions for word in text.split()]
    tally = recover(guesser, data, ASKED)["picture"]

    def total(counts, kind):
        return sum(n for group, n in counts.items() if group.startswith(kind))

    circles = texts.count("disc") + texts.count("circle")
    assert total(tally.right, "colour") == texts.count("red") and total(tally.right, "shape") == 0
    assert total(tally.right_of_kind, "shape") == circles > texts.count("disc")
    assert sum(tally.asked.values()) == sum(word in KNOWN for word in texts)
    assert tally.shares(of_kind=True).keys() == tally.shares().keys() == tally.asked.keys()
