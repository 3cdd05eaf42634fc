"""The losses of Mask Grounding and of the alignment, against numbers worked out on paper."""

from math import exp, log

import pytest
import torch

from refseg.objectives.losses import hidden_word_loss, pixel_to_pixel_loss, pixel_to_text_loss

ALONG, ACROSS = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def there(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_hidden_words_by_hand():
    logits = torch.tensor([[0.0, log(3)], [log(7), 0.0]])
    assert hidden_word_loss(logits, torch.tensor([1, 1])).item() == pytest.approx((log(4 / 3) + log(8)) / 2)
    nothing = torch.zeros(0, 5, requires_grad=True)
    loss = hidden_word_loss(nothing, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0 and nothing.grad.shape == (0, 5)


def test_pixel_to_text_by_hand():
    """A referent's pixel along the text, one across it; two other pixels across it; temperature 1/2."""
    referent, others = torch.stack([ALONG, ACROSS])[None], torch.stack([ACROSS, ACROSS])[None]
    loss = pixel_to_text_loss(referent, others, ALONG[None], there([True, True]), there([True, True]), 0.5)
    near, far = -log(exp(2) / (exp(2) + 2)), -log(1 / 3)
    assert loss.item() == pytest.approx((near + far) / 2)
    loss = pixel_to_text_loss(referent, others, ALONG[None], there([True, False]), there([False, True]), 0.5)
    assert loss.item() == pytest.approx(-log(exp(2) / (exp(2) + 1)))


def test_pixel_to_pixel_by_hand():
    """All pixels of a kind alike, the kinds at a right angle: each is at 1 to its own mean, at 0 to the others."""
    referent, others = ALONG.expand(1, 3, 2), ACROSS.expand(1, 5, 2)
    loss = pixel_to_pixel_loss(referent, others, there([True] * 3), there([True] * 5), 1.0)
    assert loss.item() == pytest.approx(-log(exp(1) / (exp(1) + 5)) - log(exp(1) / (exp(1) + 3)))


def test_the_mean_of_a_kind_has_length_one():
    referent, others = torch.stack([ALONG, ACROSS])[None], -ALONG.expand(1, 1, 2)
    loss = pixel_to_pixel_loss(referent, others, there([True, True]), there([True]), 1.0)
    own = 2**-0.5  # of both pixels to their mean direction
    first = -log(exp(own) / (exp(own) + exp(-1))), -log(exp(own) / (exp(own) + 1))
    second = -log(exp(1) / (exp(1) + exp(-1) + 1))
    assert loss.item() == pytest.approx(sum(first) / 2 + second, rel=1e-5)


def test_pictures_without_both_kinds_do_not_count():
    referent, others = torch.randn(3, 7, 5), torch.randn(3, 11, 5)
    in_referent, in_others = torch.ones(3, 7, dtype=torch.bool), torch.ones(3, 11, dtype=torch.bool)
    in_referent[1], in_others[2] = False, False
    text = torch.randn(3, 5)
    first = slice(0, 1)
    whole = pixel_to_pixel_loss(referent, others, in_referent, in_others, 0.7)
    alone = pixel_to_pixel_loss(referent[first], others[first], in_referent[first], in_others[first], 0.7)
    assert whole.item() == pytest.approx(alone.item())
    whole = pixel_to_text_loss(referent, others, text, in_referent, in_others, 0.7)
    alone = pixel_to_text_loss(referent[first], others[first], text[first], in_referent[first], in_others[first], 0.7)
    assert whole.item() == pytest.approx(alone.item())
    none = torch.zeros_like(in_referent)
    assert pixel_to_pixel_loss(referent, others, none, in_others, 0.7) == 0
    assert pixel_to_text_loss(referent, others, text, none, in_others, 0.7) == 0


def test_missing_pixels_change_nothing_and_get_no_gradient():
    referent = torch.randn(1, 7, 5, requires_grad=True)
    others = torch.randn(1, 11, 5, requires_grad=True)
    text, in_referent, in_others = torch.randn(1, 5), torch.arange(7)[None] < 3, torch.arange(11)[None] < 5
    for loss in (
        pixel_to_pixel_loss(referent, others, in_referent, in_others, 0.07),
        pixel_to_text_loss(referent, others, text, in_referent, in_others, 0.07),
    ):
        loss.backward()
        assert referent.grad[:, 3:].abs().max() == 0 and others.grad[:, 5:].abs().max() == 0
        assert referent.grad.isfinite().all() and others.grad.isfinite().all()
        assert referent.grad[:, :3].abs().max() > 0
        referent.grad = others.grad = None


def test_training_pulls_pixels_to_the_text():
    referent = torch.nn.Parameter(torch.randn(1, 3, 4))
    others, text = torch.randn(1, 5, 4), torch.nn.functional.normalize(torch.randn(1, 4), dim=-1)
    all_there = torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool)
    before = (referent @ text[0]).mean().item()
    pixel_to_text_loss(referent, others, text, *all_there, 0.5).backward()
    with torch.no_grad():
        referent -= 0.1 * referent.grad
    assert (referent @ text[0]).mean().item() > before
