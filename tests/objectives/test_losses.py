"""Losses against numbers worked out on paper; padding must weigh nothing."""

from math import exp, log

import pytest
import torch

from refseg.objectives.losses import (
    binary_cross_entropy,
    contrastive_loss,
    dice_loss,
    hidden_word_loss,
    map_loss,
)

# Probabilities 1/2, 3/4 and 1/4; the first and the third pixel belong to the referent.
LOGITS = torch.tensor([0.0, log(3), -log(3)]).reshape(1, 1, 1, 3)
MASK = torch.tensor([True, False, True]).reshape(1, 1, 1, 3)
ALL = torch.ones_like(MASK)


def test_binary_cross_entropy_by_hand():
    # -log of 1/2, 1/4 and 1/4
    assert binary_cross_entropy(LOGITS, MASK, ALL).item() == pytest.approx((1 + 2 + 2) * log(2) / 3)


def test_dice_by_hand():
    # overlap 1/2 + 1/4, sizes 3/2 and 2
    assert dice_loss(LOGITS, MASK, ALL).item() == pytest.approx(1 - (2 * 0.75 + 1) / (1.5 + 2 + 1))
    assert dice_loss(LOGITS, MASK, ALL, smooth=0.5).item() == pytest.approx(1 - (2 * 0.75 + 0.5) / (1.5 + 2 + 0.5))


def test_dice_is_a_mean_over_samples_and_cross_entropy_over_pixels():
    small = torch.zeros(1, 1, 5, 7, dtype=torch.bool)
    small[..., 2, 3] = True
    masks = torch.cat([small, ~small])
    logits = torch.randn(2, 1, 5, 7)
    valid = torch.ones_like(masks)
    valid[1, ..., 2:] = False  # the second sample has 5 * 2 real pixels
    each = [(logits[i : i + 1], masks[i : i + 1], valid[i : i + 1]) for i in range(2)]
    dice = sum(dice_loss(*one) for one in each) / 2
    assert torch.allclose(dice_loss(logits, masks, valid), dice)
    bce = (35 * binary_cross_entropy(*each[0]) + 10 * binary_cross_entropy(*each[1])) / 45
    assert torch.allclose(binary_cross_entropy(logits, masks, valid), bce)


BOTH = (binary_cross_entropy, dice_loss)


def test_padding_changes_nothing():
    logits, mask = torch.randn(2, 1, 5, 7, requires_grad=True), torch.rand(2, 1, 5, 7) > 0.5
    wide, wide_mask = torch.full((2, 1, 11, 13), 3.0), torch.ones(2, 1, 11, 13, dtype=torch.bool)
    wide[..., 3:8, 4:11], wide_mask[..., 3:8, 4:11] = logits, mask
    valid = torch.zeros_like(wide_mask)
    valid[..., 3:8, 4:11] = True
    for loss in BOTH:
        values = loss(logits, mask, torch.ones_like(mask)), loss(wide, wide_mask, valid)
        assert torch.allclose(*values), loss
        assert torch.allclose(*(torch.autograd.grad(value, logits, retain_graph=True)[0] for value in values)), loss


def test_no_gradient_reaches_the_padding():
    logits = torch.randn(1, 1, 3, 5, requires_grad=True)
    valid = torch.ones(1, 1, 3, 5, dtype=torch.bool)
    valid[..., 2:] = False
    mask = torch.rand(1, 1, 3, 5) > 0.5
    (binary_cross_entropy(logits, mask, valid) + dice_loss(logits, mask, valid)).backward()
    assert logits.grad[..., 2:].abs().max() == 0 and logits.grad[..., :2].abs().min() > 0


def test_empty_masks_are_finite_and_cost_nothing_when_predicted():
    empty, valid = torch.zeros(1, 1, 3, 5, dtype=torch.bool), torch.ones(1, 1, 3, 5, dtype=torch.bool)
    silent, loud = torch.full((1, 1, 3, 5), -40.0), torch.full((1, 1, 3, 5), 40.0)
    assert dice_loss(silent, empty, valid).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(loud, empty, valid).item() == pytest.approx(1 - 1 / 16)
    assert binary_cross_entropy(loud, empty, valid).item() == pytest.approx(40)  # not infinite


def test_gradients_push_logits_towards_the_mask():
    for loss in BOTH:
        logits = LOGITS.clone().requires_grad_()
        loss(logits, MASK, ALL).backward()
        assert logits.grad.flatten().sign().tolist() == [-1, 1, -1], loss  # descent raises the first and the third


def test_contrast_by_hand():
    scores = torch.tensor([[2.0, 0.0, 9.0], [1.0, 1.0, 1.0], [0.0, 5.0, 0.0]], requires_grad=True)
    positive, counted = torch.tensor([0, 1, 2]), torch.tensor([True, True, False])
    allowed = torch.tensor([[True, True, False], [True] * 3, [True] * 3])
    loss = contrastive_loss(scores, positive, allowed, counted)
    assert loss.item() == pytest.approx((log(1 + exp(-2)) + log(3)) / 2)  # the third row is not asked
    loss.backward()
    assert scores.grad[0, 2] == 0 and scores.grad[2].abs().max() == 0  # nor is what is not allowed


def test_contrast_of_nothing_is_zero():
    scores = torch.randn(3, 5, requires_grad=True)
    loss = contrastive_loss(scores, torch.zeros(3, dtype=torch.int64), torch.ones(3, 5) > 0, torch.zeros(3) > 0)
    loss.backward()
    assert loss.item() == 0 and scores.grad.abs().max() == 0


def test_hidden_words_by_hand():
    logits = torch.tensor([[0.0, log(3)], [log(7), 0.0]])
    assert hidden_word_loss(logits, torch.tensor([1, 1])).item() == pytest.approx((log(4 / 3) + log(8)) / 2)
    nothing = torch.zeros(0, 5, requires_grad=True)
    loss = hidden_word_loss(nothing, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and nothing.grad.shape == (0, 5)


def test_maps_by_hand():
    maps = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]]).view(3, 2, 2)
    wanted = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool().view(3, 2, 2)
    expected = (-log(0.75) - log(1e-6)) / 2  # the second does not count, the third misses altogether
    assert map_loss(maps, wanted).item() == pytest.approx(expected)
    assert map_loss(maps, torch.zeros_like(wanted)).item() == 0
