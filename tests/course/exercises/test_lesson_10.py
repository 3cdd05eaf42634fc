"""Answers as students write them; and the checks agree with the package's block and its mirrored words."""

import math

import pytest
import torch

from refseg.datasets.transforms import swap_left_right
from refseg.models.blocks.cfsa import CFSAConfig, CrossFrameSelfAttention
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_10 as check


def attention(query, key, frame_valid):
    B, T, R, d = key.shape
    scores = query @ key.reshape(B, T * R, d).transpose(1, 2) / d**0.5
    scores[~frame_valid.repeat_interleave(R, dim=1)[:, None].expand(B, R, T * R)] = float("-inf")
    return torch.softmax(scores, dim=-1).reshape(B, R, T, R)


def direction(weights, row, column, target):
    y = (weights.sum(dim=(0, 2)) @ torch.arange(weights.shape[1]).float()).item() - row
    x = (weights.sum(dim=(0, 1)) @ torch.arange(weights.shape[2]).float()).item() - column
    if (weights.sum(dim=(1, 2)) @ torch.arange(len(weights)).float()).item() < target:
        y, x = -y, -x
    return max({"left": -x, "right": x, "up": -y, "down": y}.items(), key=lambda pair: pair[1])[0]


def mirrored(expression):
    other = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
    return " ".join(other.get(word, word) for word in expression.split(" "))


def test_answers_of_students_pass(capsys):
    check.target_attention(attention)
    check.direction(direction)
    check.mirrored_words(mirrored)
    assert capsys.readouterr().out.count("OK") == 3


def test_the_right_weights_are_the_packages():
    """One head, with the block's own queries and keys, at every region that asks."""
    torch.manual_seed(0)
    block = CrossFrameSelfAttention(5, CFSAConfig(dim=6, heads=1, offsets=False)).double()
    torch.nn.init.normal_(block.key.weight)
    x, target = torch.randn(2, 3, 5, 2, 2, dtype=torch.float64), torch.tensor([1, 0])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    with torch.no_grad():
        normed = block.norm(x.flatten(3).mT)  # [B,T,R,C]
        query, key = block.query(normed[torch.arange(2), target]), block.key(normed)
        weights = check._right_attention(query, key, valid)
        for region in range(4):
            row = block.attention(x, target, valid).row(region)[:, 0]
            torch.testing.assert_close(weights[:, region], row)


def test_the_right_direction_is_that_of_a_thing_that_moves():
    """A thing goes two regions a frame, and a head finds it in another frame; the asking region is anywhere."""
    steps = {"left": (0, -2), "right": (0, 2), "up": (-2, 0), "down": (2, 0)}
    for name, (y, x) in steps.items():
        for target, frame in ((1, 0), (1, 2), (0, 1), (2, 1)):
            weights = torch.zeros(3, 9, 9)
            weights[frame, 4 + y * (frame - target), 4 + x * (frame - target)] = 1.0
            assert check._right_direction(weights, 4, 4, target) == name


def test_cases_of_directions_are_clear():
    """No answer depends on rounding: one way is clearly the longest, and the head clearly looked away from now."""
    answers = set()
    for weights, row, column, target in check.look_cases():
        y, x, time = check._mean_offset(weights, row, column, target)
        assert abs(abs(x) - abs(y)) > 0.2 and abs(time) > 0.2 and math.isclose(float(weights.sum()), 1, rel_tol=1e-5)
        answers.add(check._right_direction(weights, row, column, target))
    assert answers == {"left", "right", "up", "down"}


def test_the_right_words_are_the_packages():
    assert check.mirrored_words._right is swap_left_right
    for (expression,) in check.expression_cases():
        assert mirrored(expression) == swap_left_right(expression)
        assert swap_left_right(swap_left_right(expression)) == expression


def test_an_answer_that_is_wrong_in_no_known_way_shows_where():
    for wrong in (
        lambda query, key, frame_valid: check._right_attention(key[:, 0], key, frame_valid),
        lambda query, key, frame_valid: check._right_attention(query, key, frame_valid)[:1],
    ):
        with pytest.raises(ExerciseError, match="with a tensor of shape .* (values are not right|it has shape)"):
            check.target_attention(wrong)


def test_a_function_that_changes_its_arguments_is_refused():
    def in_place(query, key, frame_valid):
        key[~frame_valid] = 0
        return check._right_attention(query, key, frame_valid)

    with pytest.raises(ExerciseError, match="changes its argument in place"):
        check.target_attention(in_place)


def test_a_direction_that_is_always_the_same_is_shown_with_its_answer():
    with pytest.raises(ExerciseError, match="it gives 'left', which is not right"):
        check.direction(lambda weights, row, column, target: "left")
