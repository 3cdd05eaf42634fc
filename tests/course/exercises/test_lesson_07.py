"""Answers as students write them; and the right answers are what the package's meter says."""

import pytest
import torch
import torch.nn.functional as F

from refseg.evaluation.protocols import Meter
from refseg_course.exercises import ExerciseError
from refseg_course.exercises import lesson_07 as check


def cross_entropy(mask_logits, mask, pixel_valid):
    losses = torch.where(mask, -F.logsigmoid(mask_logits), -F.logsigmoid(-mask_logits))
    return losses[pixel_valid].mean()


def dice(mask_logits, mask, pixel_valid, smooth):
    losses = []
    for logits, truth, valid in zip(mask_logits, mask, pixel_valid):
        p, g = torch.sigmoid(logits[valid]), truth[valid].float()
        losses.append(1 - (2 * (p * g).sum() + smooth) / (p.sum() + g.sum() + smooth))
    return sum(losses) / len(losses)


def overall_and_mean(pred_masks, masks):
    inter = [torch.logical_and(p, m).sum().item() for p, m in zip(pred_masks, masks)]
    union = [torch.logical_or(p, m).sum().item() for p, m in zip(pred_masks, masks)]
    return sum(inter) / sum(union), sum(a / b for a, b in zip(inter, union)) / len(masks)


def precision(intersections, unions, tenths):
    count = 0
    for i, u in zip(intersections, unions):
        if i / u >= tenths / 10:
            count += 1
    return count / len(unions)


def test_answers_of_students_pass(capsys):
    check.cross_entropy(cross_entropy)
    check.dice(dice)
    check.overall_and_mean(overall_and_mean)
    check.precision(precision)
    assert capsys.readouterr().out.count("OK") == 4


def test_right_scores_are_the_meter_of_the_package():
    for pred_masks, masks in check.mask_cases():
        meter = Meter()
        for pair in zip(pred_masks, masks):
            meter.update_mask(*pair)
        scores = meter.compute()
        assert check._right_scores(pred_masks, masks) == pytest.approx((scores["oIoU"], scores["mIoU"]))
        assert 0 < scores["mIoU"] < scores["oIoU"] < 1


def test_right_precision_is_that_of_the_package():
    for intersections, unions, tenths in check.precision_cases():
        meter = Meter(samples=[(i, u, None) for i, u in zip(intersections, unions)])
        assert check._right_precision(intersections, unions, tenths) == meter.compute()[f"P@0.{tenths}"]


def test_other_wrong_answers_are_described():
    with pytest.raises(ExerciseError, match="not right"):
        check.precision(lambda intersections, unions, tenths: 0.123)
