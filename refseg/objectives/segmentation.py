"""The plain objective: the predicted mask against the referent's mask, BCE plus Dice."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.losses import binary_cross_entropy, dice_loss
from refseg.types import Prediction, RefBatch


@dataclass
class SegmentationConfig:
    """Weights of the two terms; CMSA trained with BCE alone."""

    bce: float = 1.0
    dice: float = 0.5


class Segmentation(nn.Module):
    """(model, batch) -> prediction, {name: loss}. ``weights`` says how the losses add up.

    The logits are compared at the size of the network's input: whatever the stride of its head, two models are
    trained on the same pixels.
    """

    def __init__(self, config: SegmentationConfig):
        super().__init__()
        self.weights = {"bce": config.bce, "dice": config.dice}

    def forward(self, model: nn.Module, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """The model's prediction as it is, and "bce" and "dice", each a scalar and not yet weighted."""
        prediction = model(batch)
        size = batch.mask.shape[-2:]
        logits = F.interpolate(prediction.mask_logits.float(), size, mode="bilinear", align_corners=False)
        return prediction, {
            "bce": binary_cross_entropy(logits, batch.mask, batch.pixel_valid),
            "dice": dice_loss(logits, batch.mask, batch.pixel_valid),
        }
