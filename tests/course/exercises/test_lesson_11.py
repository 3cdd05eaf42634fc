"""Answers as students write them; and the checks agree with the explorer."""

import numpy as np
import pytest
import torch

from refseg.explorer.reading import FrameReading, Level, Reading
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_11 as check


def moves(mask, without):
    changes = []
    for other in without:
        both, either = torch.logical_and(mask, other).sum(), torch.logical_or(mask, other).sum()
        changes.append(float(both / either) if either > 0 else 1.0)
    return int(np.argmin(changes))


def shares(maps):
    return torch.stack([word_map / sum(maps) for word_map in maps])


def findings(records):
    result = []
    for index, (hits, iou) in enumerate(records):
        known = [h for h in hits if h is not None]
        if iou is None or not known:
            continue
        if np.mean(known) >= 0.5 and iou < 0.5:
            result.append(index)
    return result


def test_answers_of_students_pass(capsys):
    check.moves_most(moves)
    check.word_shares(shares)
    check.right_map_wrong_mask(findings)
    assert capsys.readouterr().out.count("OK") == 3


def test_the_shares_are_those_that_the_explorer_shows():
    for (maps,) in check.map_cases():
        frame = FrameReading(torch.zeros(4, 4, dtype=torch.bool), torch.zeros(2, 2), {"c3": Level((0, 0, 1, 1), maps)})
        reading = Reading("words", [str(n) for n in range(len(maps))], [], 0, [frame])
        shown = torch.stack([reading.map(n, "c3", "words") for n in range(len(maps))])
        assert torch.allclose(shown, check._right_shares(maps))


def test_an_answer_that_fails_on_empty_masks_is_told():
    def careless(mask, without):
        return int(np.argmin([float((mask & other).sum()) / int((mask | other).sum()) for other in without]))

    with pytest.raises(ExerciseError, match="ZeroDivisionError"):
        check.moves_most(careless)
