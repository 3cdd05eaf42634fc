"""MagNet's alignment losses against numbers worked out on paper, and the pixels that they compare."""

from math import exp, log
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from refseg.objectives.losses import pixel_to_pixel_loss, pixel_to_text_loss
from refseg.objectives.pixel_alignment import sample_pixels

H, W = 12, 20
ALONG, ACROSS = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def there(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def test_pixel_to_text_by_hand():
    """A referent's pixel along the text, one across it; two other pixels across it; temperature 1/2."""
    referent, others = torch.stack([ALONG, ACROSS])[None], torch.stack([ACROSS, ACROSS])[None]
    loss = pixel_to_text_loss(ALONG[None], referent, others, there([True, True]), there([True, True]), 0.5)
    near, far = -log(exp(2) / (exp(2) + 2)), -log(1 / 3)
    assert loss.item() == pytest.approx((near + far) / 2)
    loss = pixel_to_text_loss(ALONG[None], referent, others, there([True, False]), there([False, True]), 0.5)
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


def test_images_without_both_kinds_do_not_count():
    referent, others = torch.randn(3, 7, 5), torch.randn(3, 11, 5)
    in_referent, in_others = torch.ones(3, 7, dtype=torch.bool), torch.ones(3, 11, dtype=torch.bool)
    in_referent[1], in_others[2] = False, False
    text = torch.randn(3, 5)
    first = slice(0, 1)
    whole = pixel_to_pixel_loss(referent, others, in_referent, in_others, 0.7)
    alone = pixel_to_pixel_loss(referent[first], others[first], in_referent[first], in_others[first], 0.7)
    assert whole.item() == pytest.approx(alone.item())
    whole = pixel_to_text_loss(text, referent, others, in_referent, in_others, 0.7)
    alone = pixel_to_text_loss(text[first], referent[first], others[first], in_referent[first], in_others[first], 0.7)
    assert whole.item() == pytest.approx(alone.item())
    none = torch.zeros_like(in_referent)
    assert pixel_to_pixel_loss(referent, others, none, in_others, 0.7) == 0
    assert pixel_to_text_loss(text, referent, others, none, in_others, 0.7) == 0


def test_missing_pixels_change_nothing_and_get_no_gradient():
    referent = torch.randn(1, 7, 5, requires_grad=True)
    others = torch.randn(1, 11, 5, requires_grad=True)
    text, in_referent, in_others = torch.randn(1, 5), torch.arange(7)[None] < 3, torch.arange(11)[None] < 5
    for loss in (
        pixel_to_pixel_loss(referent, others, in_referent, in_others, 0.07),
        pixel_to_text_loss(text, referent, others, in_referent, in_others, 0.07),
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
    pixel_to_text_loss(text, referent, others, *all_there, 0.5).backward()
    with torch.no_grad():
        referent -= 0.1 * referent.grad
    assert (referent @ text[0]).mean().item() > before


def test_pixels_are_drawn_from_either_side():
    mask, valid = torch.zeros(1, 1, H, W, dtype=torch.bool), torch.ones(1, 1, H, W, dtype=torch.bool)
    mask[..., : H // 2, : W // 2] = True
    valid[..., 16:] = False  # the last column of five
    marked = SimpleNamespace(mask=mask, pixel_valid=valid)
    pixels = torch.zeros(1, 2, 3, 5)
    inside = nn.functional.adaptive_avg_pool2d(marked.mask.float(), (3, 5))[0, 0] > 0.5
    pixels[0, 0][inside], pixels[0, 1][~inside] = 1.0, 1.0
    referent, others, in_referent, in_others = sample_pixels(pixels, marked, None, 4, 50)
    assert in_referent.sum() == min(4, inside.sum()) and in_others.sum() == (~inside[:, :4]).sum()
    assert (referent[in_referent] == torch.tensor([1.0, 0.0])).all()
    assert (others[in_others] == torch.tensor([0.0, 1.0])).all()


def test_half_of_the_others_are_the_hardest():
    nowhere = torch.zeros(1, 1, H, W, dtype=torch.bool)
    marked = SimpleNamespace(mask=nowhere, pixel_valid=~nowhere)
    pixels = torch.arange(15.0).view(1, 1, 3, 5)
    for _ in range(5):
        _, others, _, in_others = sample_pixels(pixels, marked, torch.ones(1, 1), 3, 6)
        assert in_others.all() and others[0, :3, 0].sort().values.tolist() == [12.0, 13.0, 14.0]
        assert len(set(others.flatten().tolist())) == 6
