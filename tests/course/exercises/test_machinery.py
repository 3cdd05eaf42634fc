"""The machinery of the exercises, on an exercise made up here."""

from __future__ import annotations

import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch

import refseg
from refseg_course.exercises import Exercise, ExerciseError, begin, compare, exercises_of, numbers, single_case, value


def shares(x, valid):
    """Each valid entry of a row divided by the sum of the valid ones."""
    kept = x * valid
    return kept / kept.sum(1, keepdim=True)


def over_rows(x, valid):
    kept = x * valid
    return kept / kept.sum(0, keepdim=True)


def with_padding(x, valid):
    return x / x.sum(1, keepdim=True)


def not_divided(x, valid):
    return x * valid


def refuses(x, valid):
    raise KeyError("x")


SHARES = Exercise(
    title="shares",
    difficulty=2,
    importance=3,
    minutes=10,
    right=shares,
    cases=lambda: [(numbers(3, 5).abs(), torch.arange(5).expand(3, 5) < 2 + torch.arange(3)[:, None])],
    mistakes=[
        (over_rows, "The sum runs over the rows."),
        (with_padding, "Padding is counted."),
        (not_divided, "Nothing is divided."),
    ],
    verified="rows sum to one",
)


def changed(**fields):
    """SHARES with other fields; a right answer has to be given again, since nobody can read it."""
    return replace(SHARES, **{"right": shares, **fields})


def message(answer, exercise=SHARES):
    with pytest.raises(ExerciseError) as caught:
        exercise(answer)
    return str(caught.value)


def test_a_right_answer_prints_one_line(capsys):
    assert SHARES(lambda x, valid: shares(x.double(), valid)) is None  # another float type is no mistake
    assert capsys.readouterr().out == "OK  shares: rows sum to one\n"
    assert SHARES.line == "difficulty 2/5, importance 3/5, 10 min"


def test_each_known_mistake_is_named():
    for wrong, sentence in SHARES.mistakes:
        assert message(wrong) == f"shares: {sentence}"


def test_a_mistake_must_agree_in_every_case():
    first = SHARES.cases()[0]
    two = changed(cases=lambda: [first, (torch.ones(2, 7), torch.ones(2, 7, dtype=torch.bool))])
    got = message(lambda x, valid: with_padding(x, valid) if len(x) == 3 else x, two)
    assert got.startswith("shares: with a tensor of shape [3, 5] and a tensor of shape [3, 5] ") and "not right" in got


def test_the_stub_passes_through():
    def stub(x, valid):
        raise NotImplementedError("your turn")

    with pytest.raises(NotImplementedError, match="your turn") as caught:
        SHARES(stub)
    assert caught.value._render_traceback_() == ["NotImplementedError: your turn"]


def test_other_wrong_answers_are_described():
    for answer, said in (
        (lambda x, valid: None, "return missing"),
        (lambda x, valid: shares(x, valid).T, "shape [5, 3], not [3, 5]"),
        (lambda x, valid: shares(x, valid) > 0, "bool values, not float"),
        (lambda x, valid: shares(x, valid) / 0 * 0, "NaN"),
        (lambda x, valid: shares(x, valid).tolist(), "a list, not a tensor"),
        (lambda x, valid: shares(x, valid) + 1, "15 of 15 values are not right, the first at index [0, 0]"),
        (lambda x, valid: x.mul_(valid) / x.sum(1, keepdim=True), "changes its argument in place"),
        (lambda x: x, "TypeError"),
        (torch.ones(3, 5), "the function itself"),
    ):
        assert said in message(answer)


def test_what_the_answer_raised_is_shown_with_it():
    with pytest.raises(ExerciseError) as caught:
        SHARES(refuses)
    shown = "\n".join(caught.value._render_traceback_())
    assert isinstance(caught.value.__cause__, KeyError)
    assert "in refuses" in shown and "in _outcome" not in shown and shown.endswith("it raises KeyError: 'x'.")
    with pytest.raises(ExerciseError) as caught:
        SHARES(not_divided)
    assert caught.value._render_traceback_() == ["ExerciseError: shares: Nothing is divided."]


def test_a_mistake_may_raise():
    exercise = changed(mistakes=[(refuses, "It asks for a key."), *SHARES.mistakes])
    assert message(refuses, exercise) == "shares: It asks for a key."


def test_an_answer_that_should_raise():
    exercise = changed(right=refuses)
    assert "should raise a KeyError" in message(lambda x, valid: x + 1, exercise)


def test_an_answer_may_be_a_number(capsys):
    exercise = changed(right=7, cases=single_case, probe=value, mistakes=[(6, "Six."), (8, "Eight."), (0, "None.")])
    exercise(torch.tensor(7))
    assert capsys.readouterr().out.startswith("OK")
    assert message(8, exercise) == "shares: Eight."
    assert message(9, exercise) == "shares: with your answer it gives 9, which is not right."  # never: not 7
    assert "not a number" in message("seven", exercise)


def test_compare():
    for got, expected, said in (
        ({"c3": 1.0}, {"c3": 1.0}, ""),
        ({"c4": 1.0}, {"c3": 1.0}, "keys ['c3']"),
        ({"c3": 2.0}, {"c3": 1.0}, "under 'c3' it gives 2"),
        ((1, 2), (1, 2), ""),
        ((1, 2), [1, 2, 3], "2 values, not 3"),
        ((1, 2), (1, 3), "in value 2 of 2"),
        (5, (1, 3), "a int, not 2"),
        ("left", "left", ""),
        ("left", "right", "'left', which is not right"),
        (np.float64(0.5), 0.5, ""),
        (torch.tensor([0.5]), 0.5, ""),
        (0.5, 0.5004, "not right"),
        (float("nan"), float("nan"), ""),
        (np.ones(3), torch.ones(3), ""),
        (torch.tensor([torch.inf]), torch.tensor([torch.inf]), ""),
        (torch.ones(2, requires_grad=True), torch.ones(2), ""),
    ):
        difference = compare(got, expected)
        assert said in difference and bool(said) == bool(difference), (got, expected)


def test_checks_leave_the_random_state_alone():
    before = torch.get_rng_state()
    SHARES(shares)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(numbers(2, 3, seed=5), numbers(2, 3, seed=5))
    assert not torch.equal(numbers(2, 3, seed=5), numbers(2, 3, seed=7))


def test_a_badly_described_exercise_cannot_be_made():
    for fields in [{"difficulty": 0}, {"importance": 6}, {"minutes": 0}, {"mistakes": SHARES.mistakes[:2]}]:
        with pytest.raises(ValueError, match="shares"):
            changed(**fields)


def test_exercises_of_a_module():
    import sys

    assert exercises_of(sys.modules[__name__]) == {"SHARES": SHARES}


def test_begin_says_when_versions_differ(capsys, monkeypatch, tmp_path):
    begin(refseg.__version__)
    assert capsys.readouterr().out == f"refseg {refseg.__version__}, one thread, seed 0\n"
    begin("0.0.7")
    assert "written for refseg 0.0.7" in capsys.readouterr().out
    (tmp_path / "refseg").mkdir()
    (tmp_path / "refseg" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    begin(refseg.__version__)
    assert f"lies in {tmp_path}" in capsys.readouterr().out


def test_the_traceback_of_a_plain_run_is_whole():
    """Outside Jupyter pytest and Python show what they always show."""
    try:
        SHARES(not_divided)
    except ExerciseError as error:
        assert "ExerciseError: shares: Nothing is divided." in "".join(traceback.format_exception(error))
