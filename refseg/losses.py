"""Tensors in, scalar out: the terms that objectives are made of.

Both mask losses count real pixels only (``pixel_valid``), so that letterboxing a picture costs nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
    is added above and below, so that an empty mask predicted as empty costs nothing. Shapes as above.
    """
    prob = mask_logits.sigmoid() * pixel_valid
    truth = mask & pixel_valid
    both = (prob * truth).sum((1, 2, 3))
    return (1 - (2 * both + smooth) / (prob.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + smooth)).mean()


def map_loss(maps: Tensor, wanted: Tensor) -> Tensor:
    """Minus the log of the share of a map's weight that lies where it should, mean over the maps that are asked.

    Args:
        maps: [...,h,w], not negative, each sums to one.
        wanted: bool of the same shape; a map with no True is not asked. None asked: zero.
    """
    asked = wanted.flatten(-2).any(-1)
    share = (maps.float() * wanted).sum((-2, -1)).clamp(min=1e-6)
    return -(share.log() * asked).sum() / asked.sum().clamp(min=1)
