"""Answers as students write them; and the checks agree with the package's objective."""

import pytest
import torch
import torch.nn.functional as F

from refseg.objectives.losses import hidden_word_loss
from refseg.objectives.mask_grounding import hide_some
from refseg.objectives.word_predictor import mask_centre
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_12 as check


def hide(may_hide, draws, share):
    hidden = torch.zeros_like(may_hide)
    for b in range(len(may_hide)):
        candidates = [n for n in range(may_hide.shape[1]) if may_hide[b, n]]
        chosen = [n for n in candidates if draws[b, n] < share]
        if not chosen and candidates:
            chosen = [min(candidates, key=lambda n: draws[b, n])]
        hidden[b, chosen] = True
    return hidden


def centre(mask):
    found = []
    for one in mask:
        rows, columns = one.nonzero(as_tuple=True)
        H, W = one.shape
        place = ((columns + 0.5).mean() / W, (rows + 0.5).mean() / H) if len(rows) else (0.0, 0.0)
        found.append(torch.tensor(place))
    return torch.stack(found)


def loss(logits, ids, hidden):
    if not hidden.any():
        return torch.tensor(0.0)
    log = F.log_softmax(logits, dim=-1)
    return -log.gather(2, ids[..., None])[..., 0][hidden].mean()


def test_answers_of_students_pass(capsys):
    check.hide(hide)
    check.centre(centre)
    check.loss(loss)
    assert capsys.readouterr().out.count("OK") == 3


def test_what_is_hidden_is_what_training_hides(monkeypatch):
    for may_hide, draws, share in check.hiding_cases():
        monkeypatch.setattr(torch, "rand", lambda *shape, draws=draws, **options: draws)
        assert torch.equal(hide_some(may_hide, share), check._right_hiding(may_hide, draws, share))


def test_the_right_centre_is_the_packages():
    (mask,) = check.centre_cases()[0]
    assert torch.equal(check._right_centre(mask), mask_centre(mask[:, None])[0])
    assert torch.allclose(check._right_centre(mask)[0], torch.tensor([0.35, 0.375]))


def test_the_right_loss_is_the_packages():
    logits, ids, hidden = check.loss_cases()[0]
    assert torch.equal(check._right_loss(logits, ids, hidden), hidden_word_loss(logits[hidden], ids[hidden]))
    assert torch.allclose(check._right_loss(logits, ids, hidden), loss(logits, ids, hidden))


def test_the_sentence_about_every_second_sentence_is_true():
    """Four words that may be hidden, a share of 0.15: none is drawn in about half of the sentences."""
    assert 0.85**4 == pytest.approx(0.52, abs=0.01)


def test_an_answer_that_is_wrong_in_no_known_way_shows_where():
    for exercise, wrong in (
        (check.hide, lambda may_hide, draws, share: may_hide),
        (check.centre, lambda mask: check._right_centre(mask)[:, :1]),
        (check.loss, lambda logits, ids, hidden: check._right_loss(logits, ids, hidden) + 1),
    ):
        with pytest.raises(ExerciseError, match="with a tensor of shape"):
            exercise(wrong)


def test_a_function_that_changes_its_arguments_is_told_so():
    def in_place(may_hide, draws, share):
        draws[~may_hide] = 2.0
        return check._right_hiding(may_hide, draws, share)

    with pytest.raises(ExerciseError, match="changes its argument in place"):
        check.hide(in_place)
