"""Lesson 07, losses and metrics: what training asks of a mask, and what papers print about it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from refseg.objectives.losses import binary_cross_entropy as _right_bce
from refseg.objectives.losses import dice_loss
from refseg_course.exercises import Exercise, numbers

Masks = list[Tensor]

# ---------------------------------------------------------------------------------------------------------- losses


def loss_cases() -> list[tuple]:
    """mask_logits, mask and pixel_valid of three samples [3,1,4,5]; then logits of 200, where exp overflows."""
    mask_logits = 2 * numbers(3, 1, 4, 5, seed=1)
    mask = numbers(3, 1, 4, 5, seed=2) > torch.tensor([-0.2, 0.8, 1.4]).view(3, 1, 1, 1)
    pixel_valid = torch.ones_like(mask)
    pixel_valid[1, :, 3:] = False  # letterboxed below, and the mask is not empty there
    mask[1, :, 3] = True
    return [(mask_logits, mask, pixel_valid), (100 * mask_logits, mask, pixel_valid)]


def _clamped_log(values: Tensor) -> Tensor:
    return values.clamp(min=1e-7).log()


def _bce(mask_logits, mask, pixel_valid, log=torch.log, power=torch.sigmoid):
    prob = power(mask_logits)
    per_pixel = -(mask * log(prob) + ~mask * log(1 - prob))
    return per_pixel.masked_fill(~pixel_valid, 0).sum() / pixel_valid.sum()


def _bce_overflowing(mask_logits, mask, pixel_valid):
    return _bce(mask_logits, mask, pixel_valid)


def _bce_clamped(mask_logits, mask, pixel_valid):
    return _bce(mask_logits, mask, pixel_valid, log=_clamped_log)


def _bce_with_padding(mask_logits, mask, pixel_valid):
    return _right_bce(mask_logits, mask, torch.ones_like(pixel_valid))


def _bce_divided_by_all(mask_logits, mask, pixel_valid):
    return _right_bce(mask_logits, mask, pixel_valid) * pixel_valid.sum() / pixel_valid.numel()


def _bce_summed(mask_logits, mask, pixel_valid):
    return _right_bce(mask_logits, mask, pixel_valid) * pixel_valid.sum()


def _bce_per_sample(mask_logits, mask, pixel_valid):
    samples = zip(mask_logits, mask, pixel_valid)
    return torch.stack([_right_bce(*sample) for sample in samples]).mean()


def _bce_foreground_only(mask_logits, mask, pixel_valid):
    return _part_of_bce(mask_logits, mask, pixel_valid, mask)


def _bce_background_only(mask_logits, mask, pixel_valid):
    return _part_of_bce(mask_logits, mask, pixel_valid, ~mask)


def _part_of_bce(mask_logits, mask, pixel_valid, part):
    return _right_bce(mask_logits, mask, pixel_valid & part) * (pixel_valid & part).sum() / pixel_valid.sum()


def _bce_wrong_sign(mask_logits, mask, pixel_valid):
    return -_right_bce(mask_logits, mask, pixel_valid)


def _bce_inverted(mask_logits, mask, pixel_valid):
    return _right_bce(mask_logits, ~mask, pixel_valid)


_ONE_TERM = "One of the two kinds of pixel costs nothing: both the referent's pixels and the others have a term."

cross_entropy = Exercise(
    title="Binary cross-entropy",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_bce,
    cases=loss_cases,
    mistakes=[
        (
            _bce_overflowing,
            "With logits of 200 it is infinite or NaN: it takes the logarithm of a probability that became 0.",
        ),
        (
            _bce_clamped,
            "With logits of 200 the loss stops growing: it looks as if a bound keeps the logarithm from minus "
            "infinity, and a pixel beyond the bound has no gradient. Which function gives log(sigmoid(z)) from z?",
        ),
        (_bce_with_padding, "Padding is counted: pixels that are not real have a loss."),
        (
            _bce_divided_by_all,
            "Padding costs nothing, but the mean is too small. How many pixels is the sum divided by?",
        ),
        (_bce_summed, "This is a sum; a mean does not grow with the image."),
        (
            _bce_per_sample,
            "It looks like a mean over the samples' means. It should be one mean over all real pixels of the batch.",
        ),
        (_bce_foreground_only, _ONE_TERM),
        (_bce_background_only, _ONE_TERM),
        (_bce_wrong_sign, "The loss is negative: a logarithm of a probability is never above zero."),
        (_bce_inverted, "The loss is low where the prediction is wrong: mask and not mask look exchanged."),
    ],
    verified="mean over the real pixels, and right at logits of 200",
)


def dice_cases() -> list[tuple]:
    """As for cross-entropy, with two smooths; last a sample whose mask is empty and predicted as empty."""
    (first, _) = loss_cases()
    nothing = torch.zeros(1, 1, 4, 5, dtype=torch.bool)
    return [(*first, 1.0), (*first, 0.1), (torch.full((1, 1, 4, 5), -50.0), nothing, ~nothing, 1.0)]


def _dice(mask_logits, mask, pixel_valid, above, below, factor=2.0, power=1):
    prob, truth = mask_logits.sigmoid() * pixel_valid, (mask & pixel_valid).float()
    both = (prob * truth).sum((1, 2, 3))
    size = (prob**power).sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return (1 - (factor * both + above) / (size + below)).mean()


def _dice_without_smooth(mask_logits, mask, pixel_valid, smooth):
    return _dice(mask_logits, mask, pixel_valid, 0.0, 0.0)


def _dice_smooth_below(mask_logits, mask, pixel_valid, smooth):
    return _dice(mask_logits, mask, pixel_valid, 0.0, smooth)


def _dice_smooth_of_one(mask_logits, mask, pixel_valid, smooth):
    return dice_loss(mask_logits, mask, pixel_valid, 1.0)


def _dice_factor(mask_logits, mask, pixel_valid, smooth):
    return _dice(mask_logits, mask, pixel_valid, smooth, smooth, factor=1.0)


def _dice_squares(mask_logits, mask, pixel_valid, smooth):
    return _dice(mask_logits, mask, pixel_valid, smooth, smooth, power=2)


def _dice_of_batch(mask_logits, mask, pixel_valid, smooth):
    whole = (tensor.flatten()[None, None, None] for tensor in (mask_logits, mask, pixel_valid))
    return dice_loss(*whole, smooth)


def _dice_summed(mask_logits, mask, pixel_valid, smooth):
    return dice_loss(mask_logits, mask, pixel_valid, smooth) * len(mask)


def _dice_with_padding(mask_logits, mask, pixel_valid, smooth):
    return dice_loss(mask_logits, mask, torch.ones_like(pixel_valid), smooth)


def _dice_padding_in_prediction(mask_logits, mask, pixel_valid, smooth):
    prob, truth = mask_logits.sigmoid(), (mask & pixel_valid).float()
    sizes = prob.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return (1 - (2 * (prob * truth).sum((1, 2, 3)) + smooth) / (sizes + smooth)).mean()


def _dice_of_logits(mask_logits, mask, pixel_valid, smooth):
    truth = (mask & pixel_valid).float()
    values = mask_logits * pixel_valid
    sizes = values.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return (1 - (2 * (values * truth).sum((1, 2, 3)) + smooth) / (sizes + smooth)).mean()


def _dice_hard(mask_logits, mask, pixel_valid, smooth):
    return dice_loss(torch.where(mask_logits > 0, 1e4, -1e4), mask, pixel_valid, smooth)


def _dice_coefficient(mask_logits, mask, pixel_valid, smooth):
    return 1 - dice_loss(mask_logits, mask, pixel_valid, smooth)


def _dice_iou(mask_logits, mask, pixel_valid, smooth):
    prob, truth = mask_logits.sigmoid() * pixel_valid, (mask & pixel_valid).float()
    both = (prob * truth).sum((1, 2, 3))
    return (1 - (both + smooth) / (prob.sum((1, 2, 3)) + truth.sum((1, 2, 3)) - both + smooth)).mean()


dice = Exercise(
    title="Dice with smooth",
    difficulty=2,
    importance=4,
    minutes=10,
    right=dice_loss,
    cases=dice_cases,
    mistakes=[
        (
            _dice_without_smooth,
            "An empty mask gives a loss near 1 or NaN even for an empty prediction: smooth is missing.",
        ),
        (
            _dice_smooth_below,
            "An empty mask predicted as empty costs 1. Smooth keeps that at 0 only if it is added in two places.",
        ),
        (_dice_smooth_of_one, "The argument smooth changes nothing: it looks as if a fixed 1 is used."),
        (
            _dice_factor,
            "A perfect prediction would cost about one half: a factor seems to be missing in the numerator.",
        ),
        (_dice_squares, "The probabilities look squared in the denominator, as in V-Net. Here they are not."),
        (
            _dice_of_batch,
            "It looks like one Dice for the whole batch: the largest referent then dominates. Over which "
            "dimensions do you sum?",
        ),
        (_dice_summed, "The samples look summed: the loss would grow with the batch."),
        (_dice_with_padding, "Padding is counted, in the prediction and in the mask."),
        (
            _dice_padding_in_prediction,
            "Padding is counted: what is predicted on padded pixels makes the prediction larger.",
        ),
        (_dice_of_logits, "It looks as if the logits were not turned into probabilities."),
        (
            _dice_hard,
            "It looks as if the prediction was thresholded at 0.5 first. A step has no gradient: nothing could be"
            " learned.",
        ),
        (_dice_coefficient, "The better the prediction, the larger the value: this is the coefficient, not the loss."),
        (_dice_iou, "This is the soft IoU: its denominator is a union. Dice has the sum of both sizes there."),
    ],
    verified="one Dice per sample, without padding, smooth in numerator and denominator, empty masks cost nothing",
)


# --------------------------------------------------------------------------------------------------------- metrics


def mask_cases() -> list[tuple]:
    """Three samples of different size: a large referent, a small one, one that is missed; then three others."""
    return [_samples(0.3, 0.5), _samples(-0.4, 0.1)]


def _samples(first: float, second: float) -> tuple[Masks, Masks]:
    masks, pred_masks = [], []
    for n, (size, threshold) in enumerate([((11, 13), first), ((3, 5), second), ((7, 4), 0.9)]):
        value = numbers(*size, seed=11 + n)
        masks.append(value > threshold)
        pred_masks.append(value + 0.5 * numbers(*size, seed=17 + n) > threshold)
    pred_masks[2] = torch.zeros_like(masks[2])
    return pred_masks, masks


def _counts(pred_masks: Masks, masks: Masks) -> list[tuple[int, int, int, int, int]]:
    """Per sample: intersection, union, sum of both sizes, pixels on which both agree, pixels."""
    pairs = zip(pred_masks, masks)
    return [
        tuple(map(int, ((p & m).sum(), (p | m).sum(), p.sum() + m.sum(), (p == m).sum(), p.numel()))) for p, m in pairs
    ]


def _right_scores(pred_masks: Masks, masks: Masks) -> tuple[float, float]:
    """oIoU and mIoU."""
    counts = _counts(pred_masks, masks)
    return sum(c[0] for c in counts) / sum(c[1] for c in counts), _mean([c[0] / c[1] for c in counts])


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _exchanged(pred_masks, masks):
    return _right_scores(pred_masks, masks)[::-1]


def _mean_twice(pred_masks, masks):
    return (_right_scores(pred_masks, masks)[1],) * 2


def _overall_twice(pred_masks, masks):
    return (_right_scores(pred_masks, masks)[0],) * 2


def _ious_summed(pred_masks, masks):
    mean = _right_scores(pred_masks, masks)[1]
    return mean * len(masks), mean


def _union_as_sum(pred_masks, masks):
    counts = _counts(pred_masks, masks)
    return sum(c[0] for c in counts) / sum(c[2] for c in counts), _mean([c[0] / c[2] for c in counts])


def _dice_scores(pred_masks, masks):
    overall, mean = _union_as_sum(pred_masks, masks)
    return 2 * overall, 2 * mean


def _over_the_mask(pred_masks, masks):
    pairs = [(int((p & m).sum()), int(m.sum())) for p, m in zip(pred_masks, masks)]
    return sum(a for a, _ in pairs) / sum(b for _, b in pairs), _mean([a / b for a, b in pairs])


def _agreement(pred_masks, masks):
    counts = _counts(pred_masks, masks)
    return sum(c[3] for c in counts) / sum(c[4] for c in counts), _mean([c[3] / c[4] for c in counts])


def _weighted_by_pixels(pred_masks, masks):
    counts = _counts(pred_masks, masks)
    return _right_scores(pred_masks, masks)[0], sum(c[0] / c[1] * c[4] for c in counts) / sum(c[4] for c in counts)


def _missed_left_out(pred_masks, masks):
    kept = [pair for pair in zip(pred_masks, masks) if pair[0].any()]
    return _right_scores(*zip(*kept))


def _missed_left_out_of_mean(pred_masks, masks):
    return _right_scores(pred_masks, masks)[0], _missed_left_out(pred_masks, masks)[1]


_TWICE = "Both numbers are the same. Which of the two divides once, and which divides once per sample?"

overall_and_mean = Exercise(
    title="oIoU and mIoU",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_right_scores,
    cases=mask_cases,
    mistakes=[
        (_exchanged, "Both numbers are there, but in the wrong order: oIoU first."),
        (_mean_twice, _TWICE),
        (_overall_twice, _TWICE),
        (
            _ious_summed,
            "The first number looks like the sum of the samples' IoU. oIoU does not add IoUs up: what does it sum?",
        ),
        (
            _union_as_sum,
            "The union looks like the sum of the two sizes. Pixels that lie in both masks are then counted twice.",
        ),
        (
            _dice_scores,
            "These are Dice coefficients: twice the intersection over the sum of sizes. IoU divides by the union.",
        ),
        (
            _over_the_mask,
            "It looks as if the intersection is divided by the true mask. Predicting everything would then be perfect.",
        ),
        (
            _agreement,
            "Pixels outside both masks count as found. On a small referent an empty prediction would score almost 1.",
        ),
        (
            _weighted_by_pixels,
            "oIoU is right. In the mean, the samples look weighted by their pixels: every expression counts the same.",
        ),
        (
            _missed_left_out,
            "The sample without any prediction is missing. It is a miss, and it counts in both numbers.",
        ),
        (
            _missed_left_out_of_mean,
            "oIoU is right. In the mean, the sample without any prediction is missing: its IoU is 0.",
        ),
    ],
    verified="three samples of different size, one of them missed",
    tolerance=1e-6,
)


def precision_cases() -> list[tuple]:
    """Intersections, unions and tenths; 7 of 10, 6 of 10, 9 of 10 and 5 of 10 lie exactly at a threshold."""
    intersections, unions = [7, 60, 9, 1, 3, 80, 0, 5], [10, 100, 10, 2, 4, 100, 3, 10]
    return [(intersections, unions, tenths) for tenths in (5, 6, 7, 8, 9)]


def _right_precision(intersections: list[int], unions: list[int], tenths: int) -> float:
    """The share of samples whose IoU reaches tenths / 10."""
    return _mean([10 * i >= tenths * u for i, u in zip(intersections, unions)])


def _strict(intersections, unions, tenths):
    return _mean([10 * i > tenths * u for i, u in zip(intersections, unions)])


def _times_a_tenth(intersections, unions, tenths):
    return _mean([i / u >= tenths * 0.1 for i, u in zip(intersections, unions)])


def _float32(intersections, unions, tenths):
    thresholds = torch.arange(0.5, 1.0, 0.1)
    return _mean([i / u >= thresholds[tenths - 5].item() for i, u in zip(intersections, unions)])


def _counted(intersections, unions, tenths):
    return _right_precision(intersections, unions, tenths) * len(unions)


def _mean_of_those(intersections, unions, tenths):
    reached = [i / u for i, u in zip(intersections, unions) if 10 * i >= tenths * u]
    return sum(reached) / len(reached)


def _sum_of_those(intersections, unions, tenths):
    return sum(i / u for i, u in zip(intersections, unions) if 10 * i >= tenths * u) / len(unions)


def _below(intersections, unions, tenths):
    return 1 - _right_precision(intersections, unions, tenths)


def _over_pixels(intersections, unions, tenths):
    reached = sum(u for i, u in zip(intersections, unions) if 10 * i >= tenths * u)
    return reached / sum(unions)


def _misses_left_out(intersections, unions, tenths):
    hits = [pair for pair in zip(intersections, unions) if pair[0]]
    return _right_precision(*zip(*hits), tenths)


precision = Exercise(
    title="P@K with the right inequality",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_precision,
    cases=precision_cases,
    mistakes=[
        (
            _strict,
            "A sample exactly at the threshold is not counted: that is the video papers' convention, not this one.",
        ),
        (
            _times_a_tenth,
            "Some samples exactly at the threshold are lost and others not. Look at what Python makes of 7 * 0.1. "
            "Whole numbers can be compared without a division.",
        ),
        (
            _float32,
            "Some samples exactly at the threshold are lost: float32 thresholds from torch.arange are slightly "
            "off the tenths. Whole numbers can be compared without a division.",
        ),
        (_counted, "This is a number of samples. It should be their share."),
        (_mean_of_those, "This is the mean IoU of the samples that reach the threshold. P@K only counts them."),
        (
            _sum_of_those,
            "The samples that reach the threshold count with their IoU. In P@K each of them counts the same.",
        ),
        (_below, "This is the share of the samples that do not reach the threshold."),
        (
            _over_pixels,
            "The samples look weighted by their pixels. P@K is a mean over samples: each expression counts the same.",
        ),
        (
            _misses_left_out,
            "Samples with an empty intersection are missing. They are misses, and they count in the denominator.",
        ),
    ],
    verified="exact ties at 0.5, 0.6, 0.7, 0.8 and 0.9 count",
    tolerance=1e-9,
)
