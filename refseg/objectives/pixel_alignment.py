"""MagNet's alignment losses: pixels of the referent are pulled to each other and to the expression.

Only the names of the two parts are known, pixel to pixel and pixel to text (Chng et al., CVPR 2024; no training code
was released): **this term is our reconstruction.**
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.base import ReferringModel
from refseg.models.blocks.attention import l2_normalize
from refseg.objectives.base import ObjectiveContext, Term, TermConfig
from refseg.objectives.losses import pixel_to_pixel_loss, pixel_to_text_loss
from refseg.types import Prediction, RefBatch


@dataclass(frozen=True)
class PixelAlignmentConfig(TermConfig):
    """Weights of the two losses, 0 leaves one out; temperature and number of pixels."""

    pixel_to_pixel: float = 0.1
    pixel_to_text: float = 0.1
    temperature: float = 0.07
    referent_pixels: int = 256  # at most this many of the referent's pixels in an image are compared
    other_pixels: int = 1024  # and of the others

    def build(self, context: ObjectiveContext) -> PixelAlignment:
        return PixelAlignment(self, context)


class PixelAlignment(Term):
    """The losses "pixel_to_pixel" and "pixel_to_text": the referent's pixels near each other and near the expression.

    Raises:
        RefsegError: a model without pixels or a sentence vector in its trace.
    """

    def __init__(self, config: PixelAlignmentConfig, context: ObjectiveContext):
        weights = {"pixel_to_pixel": config.pixel_to_pixel, "pixel_to_text": config.pixel_to_text}
        super().__init__({name: weight for name, weight in weights.items() if weight})
        context.require(config, "sentence", "pixels")
        self.config = config
        if config.pixel_to_text:
            self.sentence_to_pixels = nn.Linear(context.trace_channels["sentence"], context.trace_channels["pixels"])

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        """In float32: these losses depend on differences of similarities."""
        trace, config, losses, text = prediction.trace, self.config, {}, None
        with torch.autocast(trace["pixels"].device.type, enabled=False):
            pixels = l2_normalize(trace["pixels"].float(), dim=1)
            if config.pixel_to_text:
                text = l2_normalize(self.sentence_to_pixels(trace["sentence"].float()))
            drawn = sample_pixels(pixels, batch, text, config.referent_pixels, config.other_pixels)
            if config.pixel_to_pixel:
                losses["pixel_to_pixel"] = pixel_to_pixel_loss(*drawn, config.temperature)
            if text is not None:
                losses["pixel_to_text"] = pixel_to_text_loss(text, *drawn, config.temperature)
        return losses


def sample_pixels(
    pixels: Tensor, batch: RefBatch, text: Tensor | None, referent_count: int, other_count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some pixels of the referent and some others of every image; memory stays bounded whatever the size.

    A region belongs to what covers more than half of it; padding belongs to neither. Half of the others are those most
    similar to the text, if there is one, which are the hardest to tell from the referent.

    Args:
        pixels: [B,D,h,w], of length one.
        batch: where the referents are.
        text: [B,D], of length one, or None.
        referent_count, other_count: P and Q, fewer where the map is smaller.

    Returns:
        [B,P,D], [B,Q,D], and which of them there are: [B,P] and [B,Q] bool
    """
    (h, w), regions = pixels.shape[-2:], pixels.flatten(2).mT
    inside = F.adaptive_avg_pool2d(batch.mask.float(), (h, w)).flatten(1) > 0.5
    real = F.adaptive_avg_pool2d(batch.pixel_valid.float(), (h, w)).flatten(1) > 0.5
    scores = torch.rand(inside.shape, device=inside.device)
    others = real & ~inside
    if text is not None:
        likeness = torch.einsum("brd,bd->br", regions.detach(), text.detach())
        hardest = likeness.masked_fill(~others, -torch.inf).topk(min(other_count // 2, inside.shape[1])).indices
        scores = scores.scatter(1, hardest, 2.0)
    first, in_first = _drawn(inside & real, torch.rand_like(scores), referent_count)
    second, in_second = _drawn(others, scores, other_count)
    rows = torch.arange(len(regions), device=regions.device)[:, None]
    return regions[rows, first], regions[rows, second], in_first, in_second


def _drawn(candidates: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` candidates [B,R] of highest score: their indices, and which of these are candidates at all."""
    found = scores.masked_fill(~candidates, -1.0).topk(min(count, scores.shape[1]))
    return found.indices, found.values >= 0
