"""Tensors in, scalar out: the formulas of the terms.

Both mask losses count real pixels only (``pixel_valid``), so that letterboxing an image costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_of(losses: Sequence[Tensor]) -> Tensor:
    """The mean of several losses, scalars."""
    return reduce(torch.add, losses) / len(losses)


def binary_cross_entropy(mask_logits: Tensor, mask: Tensor, pixel_valid: Tensor) -> Tensor:
    """Mean binary cross-entropy over all real pixels of the batch (CMSA's loss, there at the network's own size).

    Args:
        mask_logits: [B,1,H,W] before the sigmoid.
        mask: [B,1,H,W] bool.
        pixel_valid: [B,1,H,W] bool, True = real.
    """
    per_pixel = F.binary_cross_entropy_with_logits(mask_logits, mask.to(mask_logits.dtype), reduction="none")
    return (per_pixel * pixel_valid).sum() / pixel_valid.sum()


def dice_loss(mask_logits: Tensor, mask: Tensor, pixel_valid: Tensor, smooth: float = 1.0) -> Tensor:
    """One minus the soft Dice coefficient, mean over samples: a small referent weighs as much as a large one.

    ``2 |P*M| / (|P| + |M|)`` with probabilities P (Milletari et al., V-Net, 2016, there with squares below); ``smooth``
    is added to both, so that an empty mask predicted as empty costs nothing. Shapes as above.
    """
    prob = mask_logits.sigmoid() * pixel_valid
    truth = mask & pixel_valid
    both = (prob * truth).sum((1, 2, 3))
    return (1 - (2 * both + smooth) / (prob.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + smooth)).mean()


def map_loss(maps: Tensor, wanted: Tensor) -> Tensor:
    """Minus the log of the share of a map's weight that lies where it should, mean over the maps that are asked for.

    Args:
        maps: [...,h,w], not negative, each sums to one.
        wanted: bool of the same shape; a map with no True does not count. If none counts: zero.
    """
    asked = wanted.flatten(-2).any(-1)
    share = (maps.float() * wanted).sum((-2, -1)).clamp(min=1e-6)
    return -(share.log() * asked).sum() / asked.sum().clamp(min=1)


def contrastive_loss(scores: Tensor, positive: Tensor, allowed: Tensor, counted: Tensor) -> Tensor:
    """InfoNCE: minus the log of the share that the positive has of a softmax over all candidates, mean over rows.

    Args:
        scores: [B,N], similarities already divided by the temperature.
        positive: [B] int64, which candidate is the right one.
        allowed: [B,N] bool, which candidates there are; the positive must be among them.
        counted: [B] bool, the rows that count. If none counts: zero.
    """
    hidden = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    per_row = F.cross_entropy(hidden, positive, reduction="none")
    return (per_row * counted).sum() / counted.sum().clamp(min=1)


def hidden_word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of the hidden words, mean over all of them; zero, with a gradient of zero, if there are none.

    Args:
        logits: [N,V], one row per hidden word.
        words: [N] int64, what they were.
    """
    return F.cross_entropy(logits, words, reduction="sum") / max(1, len(words))


def pixel_to_text_loss(
    text: Tensor, referent: Tensor, others: Tensor, in_referent: Tensor, in_others: Tensor, temperature: float
) -> Tensor:
    """InfoNCE of the text with the pixels: each pixel of the referent should be nearer to it than all other pixels.

    Args:
        text: [B,D], of length one.
        referent: [B,P,D], pixels of the referent, of length one.
        others: [B,Q,D], other pixels of the same image, of length one.
        in_referent: [B,P] bool, which of the first are real.
        in_others: [B,Q] bool, the same for the second.
        temperature: what similarities are divided by.

    Returns:
        mean over the referent's pixels, then over the images that have both kinds; zero if none has
    """
    near, far = (torch.einsum("bpd,bd->bp", pixels, text) / temperature for pixels in (referent, others))
    return _info_nce(near, far[:, None].expand(-1, near.shape[1], -1), in_referent, in_others)


def pixel_to_pixel_loss(
    referent: Tensor, others: Tensor, in_referent: Tensor, in_others: Tensor, temperature: float
) -> Tensor:
    """InfoNCE among pixels: each is nearer to the mean of its own kind than to every pixel of the other kind.

    Both kinds take the first role in turn; the arguments are those of ``pixel_to_text_loss``.
    """
    kinds = (referent, in_referent), (others, in_others)
    loss = 0.0
    for (own, in_own), (other, in_other) in (kinds, kinds[::-1]):
        mean = F.normalize((own * in_own[..., None]).sum(1), dim=-1, eps=1e-6)
        near = torch.einsum("bpd,bd->bp", own, mean) / temperature
        loss = loss + _info_nce(near, own @ other.mT / temperature, in_own, in_other)
    return loss


def _info_nce(near: Tensor, far: Tensor, counted: Tensor, allowed: Tensor) -> Tensor:
    """near [B,P], the positives; far [B,P,Q], the negatives; counted [B,P] and allowed [B,Q] say which there are."""
    counted = counted & allowed.any(1, keepdim=True)
    far = far.masked_fill(~allowed[:, None], torch.finfo(far.dtype).min)
    terms = torch.logaddexp(near, far.logsumexp(-1)) - near
    per_image = (terms * counted).sum(1) / counted.sum(1).clamp(min=1)
    return per_image.sum() / counted.any(1).sum().clamp(min=1)
