"""Answers as students write them; and the checks agree with the package's objective."""

import pytest
import torch
import torch.nn.functional as F

from refseg.models.blocks.vlba import VLBA, VLBAConfig, regions_of_words, words_of_regions
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_13 as check


def directions(scores, token_valid, region_valid):
    lowest = float("-inf")
    reads = scores.masked_fill(~token_valid[:, None], lowest).softmax(2)
    looks = scores.mT.masked_fill(~region_valid[:, None], lowest).softmax(2)
    return reads, looks


def with_zeros(scores, token_valid, region_valid):
    """Rows of padding cleared: as right as leaving them."""
    reads, looks = directions(scores, token_valid, region_valid)
    return [reads * region_valid[..., None], looks * token_valid[..., None]]


def contrast(centres, referents, temperature):
    centres, referents = F.normalize(centres, dim=1), F.normalize(referents, dim=1)
    logits = torch.einsum("bd,cd->bc", centres, referents) / temperature
    own = torch.arange(len(logits))
    return 0.5 * F.cross_entropy(logits, own) + 0.5 * F.cross_entropy(logits.T, own)


def area(values, positive):
    won = 0.0
    for p in values[positive]:
        for n in values[~positive]:
            won += 1.0 if p > n else 0.5 if p == n else 0.0
    return won / (int(positive.sum()) * int((~positive).sum()))


def test_answers_of_students_pass(capsys):
    check.directions(directions)
    check.directions(with_zeros)
    check.contrast(contrast)
    check.area(area)
    assert capsys.readouterr().out.count("OK") == 4


def test_the_right_directions_are_the_packages():
    block = VLBA(6, 4, VLBAConfig()).requires_grad_(False)
    pixels, words = torch.randn(1, 6, 2, 3), torch.randn(1, 4, 4)
    token_valid = torch.tensor([[True, True, True, False]])
    region_valid = torch.tensor([[[True, True, False], [True, True, False]]])
    scores = block.scores(pixels.flatten(2).mT, words, region_valid.flatten(1))[:, 0]
    reads, looks = check._right_directions(scores, token_valid, region_valid.flatten(1))
    assert torch.allclose(reads, words_of_regions(scores[:, None], token_valid)[:, 0])
    assert torch.allclose(looks, regions_of_words(scores[:, None], region_valid.flatten(1))[:, 0])


def test_the_areas_in_the_cases_by_hand():
    values, positive = check.area_cases()[1]  # 0.9, 0.5, -0.3 against 0.2, 0.5
    assert check._right_area(values, positive) == pytest.approx((2 + 1.5 + 0) / 6)
    assert check._right_area(torch.zeros(4), torch.tensor([True, False, False, True])) == 0.5


def test_an_answer_that_is_wrong_in_no_known_way_shows_where():
    for exercise, wrong in (
        (check.directions, lambda scores, token_valid, region_valid: scores),
        (check.directions, lambda scores, token_valid, region_valid: (scores, scores)),
        (check.contrast, lambda centres, referents, temperature: check._right_contrast(centres, referents, 0.1)),
        (check.area, lambda values, positive: 0.7),
    ):
        with pytest.raises(ExerciseError, match="with a tensor of shape"):
            exercise(wrong)
