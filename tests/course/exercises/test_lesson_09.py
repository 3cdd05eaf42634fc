"""Answers as students write them; and the checks agree with the package's pointing game."""

import numpy as np
import pytest
import torch

from refseg.evaluation.pointing import point
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_09 as check


def hit(word_map, true_pixels):
    size = list(true_pixels.shape)
    large = torch.nn.functional.interpolate(word_map[None, None], size=size, mode="bilinear", align_corners=False)
    row, column = np.unravel_index(int(large.argmax()), size)
    return true_pixels[row, column].item()


def levels(true_pixels, object_pixels, pixel_valid):
    right = int((true_pixels & pixel_valid).sum())
    return right / int(pixel_valid.sum()), right / int((object_pixels & pixel_valid).sum())


def strikes(words):
    return [" ".join(word for i, word in enumerate(words) if i != n) for n in range(len(words))]


def test_answers_of_students_pass(capsys):
    check.pointing_hit(hit)
    check.chance_levels(levels)
    check.strike_out(strikes)
    assert capsys.readouterr().out.count("OK") == 3


def test_the_right_answers_are_the_packages():
    everything = torch.ones(check.H, check.W, dtype=torch.bool)
    for word_map, true_pixels in check.map_cases():
        assert point(word_map, true_pixels, everything).hit == check._right_hit(word_map, true_pixels)
    for true_pixels, object_pixels, valid in check.chance_cases():
        score = point(torch.ones(3, 5), true_pixels, object_pixels, valid)
        assert (score.chance, score.object_chance) == pytest.approx(
            check._right_chance(true_pixels, object_pixels, valid)
        )


def test_the_middle_of_the_largest_region_is_right_too(capsys):
    """Bilinear enlarging has its maximum at the middle of a region; who computes that needs no enlarged map."""

    def middle(word_map, true_pixels):
        row, column = divmod(int(word_map.argmax()), word_map.shape[1])
        return bool(true_pixels[4 * row + 2, 4 * column + 2])

    check.pointing_hit(middle)
    assert capsys.readouterr().out.startswith("OK")


def test_an_answer_that_is_wrong_in_no_known_way_is_told_where():
    with pytest.raises(ExerciseError, match="which is not right"):
        check.pointing_hit(lambda word_map, true_pixels: True)
