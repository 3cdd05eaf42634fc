"""The pointing game on maps made by hand, whose every number can be counted."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from refseg.datasets import Collate, build_dataset, build_transform
from refseg.errors import RefsegError
from refseg.evaluation.pointing import point, point_words
from refseg.models.base import Explanation, ReferringModel
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction
from refseg_course.word_measures import pointing_scores, relative_word_maps, summarise
from refshapes.wording import WORD_KINDS, word_kinds

H, W = 6, 10  # a map of 3 x 5: every region is 2 x 2 pixels


def rectangle(top, left, height, width):
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def peak_at(row, column, weight=1.0):
    word_map = torch.full((3, 5), 1e-3)
    word_map[row, column] = weight
    return word_map


def test_a_hit_and_the_chances_beside_it():
    true, things = rectangle(2, 4, 2, 2), rectangle(2, 4, 2, 2) | rectangle(0, 0, 2, 3)
    score = point(peak_at(1, 2), true, things)
    assert score.hit and score.on_object
    assert score.chance == pytest.approx(4 / 60) and score.object_chance == pytest.approx(4 / 10)


def test_a_miss_on_another_object_and_one_on_none():
    true, things = rectangle(2, 4, 2, 2), rectangle(2, 4, 2, 2) | rectangle(0, 0, 2, 3)
    other, nothing = point(peak_at(0, 0), true, things), point(peak_at(2, 4), true, things)
    assert (other.hit, other.on_object) == (False, True) and (nothing.hit, nothing.on_object) == (False, False)


def test_rows_and_columns_are_not_exchanged():
    """Row 0, column 2 on a grid that is wider than high."""
    assert point(peak_at(0, 2), rectangle(0, 4, 2, 2), rectangle(0, 4, 2, 2)).hit
    assert not point(peak_at(2, 0), rectangle(0, 4, 2, 2), rectangle(0, 4, 2, 2)).hit


def test_the_mass_of_an_even_map_is_the_share_of_the_pixels():
    score = point(torch.full((3, 5), 0.7), rectangle(1, 3, 3, 4), rectangle(0, 0, 6, 10))
    assert score.mass == pytest.approx(12 / 60) == pytest.approx(score.chance)


def test_padding_counts_for_nothing():
    """The largest weight lies in the padding, and so does half of the object."""
    word_map, valid = peak_at(2, 4, weight=3.0), rectangle(0, 0, 6, 8)
    word_map[0, 0] = 1.0
    score = point(word_map, rectangle(0, 0, 2, 2) | rectangle(4, 8, 2, 2), rectangle(0, 0, 6, 10), valid)
    assert score.hit and score.chance == pytest.approx(4 / 48) and score.object_chance == pytest.approx(4 / 48)


def test_what_cannot_be_scored_is_refused():
    nothing = torch.zeros(H, W, dtype=torch.bool)
    with pytest.raises(RefsegError, match="no pointing score"):
        point(peak_at(0, 0), nothing, nothing)
    with pytest.raises(RefsegError, match="no pointing score"):
        point(torch.zeros(3, 5), rectangle(0, 0, 2, 2), rectangle(0, 0, 2, 2))


# ---- words of RefShapes ------------------------------------------------------------------------------------------


def test_every_word_that_is_true_of_something_has_a_kind(tiny_refshapes):
    seen = set()
    for split in ("train", "testB"):
        for ref in build_dataset("refshapes", split).refs:
            for sentence in ref["sentences"]:
                for kind, true_of in zip(word_kinds(sentence["tokens"]), sentence["word_objects"], strict=True):
                    assert kind or not true_of, sentence["sent"]
                    seen |= {kind} if true_of else set()
    assert seen == set(WORD_KINDS)


def test_left_of_is_a_relation_and_on_the_left_a_place():
    kinds = word_kinds("the big one left of the spotted box on the far left".split())
    assert kinds == [None, "size", None, "relation", None, None, "texture", "shape", None, None, None, "place"]


# ---- a model that knows where everything is ------------------------------------------------------------------------


class Shown(ReferringModel):
    """Shows the same explanation whatever is asked."""

    def __init__(self, explanation: Explanation):
        super().__init__()
        self.explanation = explanation

    def forward(self, batch):
        return Prediction(torch.zeros(()), {})

    def explain(self, batch, prediction, *, region_rows=False):
        return self.explanation


class Knowing(ReferringModel):
    """Looks, with every word, at the pixels that the word is true of; its mask is the referent if "the" was said."""

    def __init__(self, words: WordVocabulary, wrong: bool = False):
        super().__init__()
        self.words, self.wrong = words, wrong
        self.weight = nn.Parameter(torch.zeros(1))

    def explain(self, batch, prediction, *, region_rows=False):
        maps = torch.zeros(*batch.token_valid.shape, *batch.objects.shape[-2:])
        for b, known in enumerate(batch.annotations):
            for n, true_of in enumerate(known.word_objects):
                numbers = torch.tensor([known.object_ids.index(i) + 1 for i in true_of or []])
                inside = torch.isin(batch.objects[b, 0].long(), numbers)
                maps[b, n] = (~inside if self.wrong else inside).float() + 1e-4
        return Explanation({"c5": maps})

    def forward(self, batch):
        said = (batch.token_ids == self.words.ids["the"]).any(1)[:, None, None, None]
        return Prediction(torch.where(batch.mask & said, 1.0, -1.0), {})


@pytest.fixture
def shapes(tiny_refshapes):
    data = build_dataset("refshapes", "val", build_transform(96), objects=True)
    return data, WordVocabulary.build(data.expressions)


def test_who_knows_points_right_and_who_looks_elsewhere_never(shapes):
    data, words = shapes
    right = pointing_scores(Knowing(words), data, words, progress=False)["c5"]
    wrong = pointing_scores(Knowing(words, wrong=True), data, words, progress=False)["c5"]
    assert right["all"]["pointing"] == 1 and right["all"]["mass"] > 0.98 and right["all"]["on_object"] == 1
    assert wrong["all"]["pointing"] == 0 and wrong["all"]["mass"] < 0.02
    true = [w for ref in data.refs for s in ref["sentences"] for w in s["word_objects"] if w]
    assert right["all"]["N"] == len(true) == sum(row["N"] for kind, row in right.items() if kind != "all")
    assert set(right) <= {*WORD_KINDS, "all"} and 0 < right["all"]["chance"] < right["all"]["object_chance"] < 1


def test_batches_do_not_matter(shapes):
    data, words = shapes
    part = Subset(data, range(7))
    one, many = (pointing_scores(Knowing(words), part, words, batch_size=n, progress=False) for n in (1, 7))
    for kind, row in many["c5"].items():
        assert one["c5"][kind] == pytest.approx(row)


def test_relative_maps_take_away_what_all_words_share():
    """A corner that draws nearly all weight of every word, and a place of its own for each."""
    maps = torch.full((1, 3, 2, 5), 0.01)
    maps[0, :, 0, 0] = 0.9
    maps[0, 0, 1, 4], maps[0, 1, 0, 2] = 0.05, 0.05
    maps[0, 2] = 0  # padding
    model = Shown(Explanation({"c4": maps}))
    relative = relative_word_maps(model, SimpleNamespace(token_valid=torch.tensor([[True, True, False]])))["c4"]
    assert relative[0, 0].argmax() == 9 and relative[0, 1].argmax() == 2 and relative[0, 2].sum() == 0
    assert relative[0, 0, 1, 4] == pytest.approx(0.05 / 0.03) and relative[0, 0, 0, 0] == pytest.approx(1)


def test_a_batch_that_does_not_know_its_objects_is_refused(tiny_refshapes):
    data = build_dataset("refshapes", "val", build_transform(96))
    words = WordVocabulary.build(data.expressions)
    with pytest.raises(RefsegError, match="objects=True"):
        point_words({"c5": torch.ones(1, 9, 2, 2)}, Collate(words)([data[0]]), words)
    with pytest.raises(RefsegError, match="No word was scored"):
        summarise([])


def test_the_network_itself_can_be_scored(tiny_refshapes, tiny_checkpoint):
    from refseg.checkpoint import load_checkpoint

    loaded = load_checkpoint(tiny_checkpoint)
    loaded.model.train()
    data = build_dataset("refshapes", "val", build_transform(loaded.image_size), objects=True)
    scores = pointing_scores(loaded.model, Subset(data, range(3)), loaded.tokenizer, progress=False)
    assert set(scores) == {"c3", "c4", "c5"} and loaded.model.training
    assert 0 < scores["c3"]["all"]["mass"] < 1
