"""Where words and regions meet: the multimodal feature of Eq. 1, what every such block offers, and the control.

For region p and word n the multimodal feature is f_pn = [v_p/|v_p| ; e_n/|e_n| ; s_p] (Ye et al., CVPR 2019, Eq. 1):
visual feature, word feature, spatial coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from refseg.models.blocks.attention import SPATIAL_CHANNELS, Kept, l2_normalize, masked_mean, spatial_coordinates
from refseg.models.serialise import Config


@dataclass(frozen=True)
class CrossModalConfig(Config):
    """Base of the configs of what lets words and regions meet on one level."""

    def at_level(self, level: str) -> CrossModalConfig:
        """The config of one level: this one, unless the levels differ."""
        return self

    def build(self, visual_channels: int, word_channels: int) -> CrossModalBlock:
        """The block of one level, for visual features and words of these widths."""
        raise NotImplementedError


class CrossModalBlock(nn.Module):
    """Base of the blocks: words and regions of one level in, one feature per region out.

    ``channels`` is the width of what comes out. A block with attention puts what it attended with into ``kept``, as
    "attention", with the methods of ``cmsa.PairScores``.
    """

    channels: int
    pools_words = False  # whether the block has ``pooled_words``, see ``CrossModalSelfAttention``

    def forward(
        self,
        pixels: Tensor,
        words: Tensor,
        token_valid: Tensor,
        region_valid: Tensor | None = None,
        kept: Kept = None,
    ) -> Tensor:
        """What the regions and the words make of each other.

        Args:
            pixels: [B,Cv,h,w].
            words: [B,L,Cl].
            token_valid: [B,L] bool, True = real word.
            region_valid: [B,h,w] bool, True = a real part of the image; None means all are.
            kept: receives what ``explain`` needs, by name.

        Returns:
            [B,channels,h,w]
        """
        raise NotImplementedError

    def freeze_constants(self) -> None:
        """A normalisation follows: parameters that only add a constant to the output stop learning."""


def multimodal_parts(pixels: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three parts of Eq. 1: pixels [B,Cv,h,w], words [B,L,Cl] -> v [B,R,Cv], e [B,L,Cl], s [R,8].

    v and e have length one, each for itself; s is taken as it is.
    """
    h, w = pixels.shape[-2:]
    v = l2_normalize(pixels.flatten(2).transpose(1, 2))
    s = spatial_coordinates(h, w, pixels.device, pixels.dtype).flatten(1).T
    return v, l2_normalize(words), s


def multimodal_features(pixels: Tensor, words: Tensor) -> Tensor:
    """Eq. 1 in full: f [B,L,R,Cv+Cl+8], the word index before the region index."""
    v, e, s = multimodal_parts(pixels, words)
    B, R, L = *v.shape[:2], e.shape[1]
    pairs = (v[:, None].expand(B, L, R, -1), e[:, :, None].expand(B, L, R, -1), s.expand(B, L, R, -1))
    return torch.cat(pairs, dim=-1)


def mean_multimodal_feature(pixels: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
    """Mean over the valid words of f_pn, [B,R,Cv+Cl+8]: only its word part has anything to average."""
    return mean_of_parts(*multimodal_parts(pixels, words), token_valid)


def mean_of_parts(v: Tensor, e: Tensor, s: Tensor, token_valid: Tensor) -> Tensor:
    """``mean_multimodal_feature`` from the parts."""
    B, R = v.shape[:2]
    e_mean = masked_mean(e, token_valid[..., None], dim=1)
    return torch.cat([v, e_mean[:, None].expand(B, R, -1), s.expand(B, R, -1)], dim=-1)


def project_parts(linear: nn.Linear, v: Tensor, e: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """W f_pn = position part + word part: the columns of one weight, [B,R,d] and [B,L,d].

    The bias goes with the position part.
    """
    W_v, W_e, W_s = linear.weight.split([v.shape[-1], e.shape[-1], s.shape[-1]], dim=1)
    return nn.functional.linear(v, W_v, linear.bias) + nn.functional.linear(s, W_s), nn.functional.linear(e, W_e)


@dataclass(frozen=True)
class ConcatenationMeanConfig(CrossModalConfig):
    """The control without attention; it has nothing to choose."""

    def build(self, visual_channels: int, word_channels: int) -> ConcatenationMean:
        return ConcatenationMean(visual_channels, word_channels)


class ConcatenationMean(CrossModalBlock):
    """The control without attention: the mean over the words of f_pn, Eq. 4 without the W_o path.

    Args:
        visual_channels: Cv.
        word_channels: Cl.
    """

    def __init__(self, visual_channels: int, word_channels: int):
        super().__init__()
        self.channels = visual_channels + word_channels + SPATIAL_CHANNELS

    def forward(self, pixels: Tensor, words: Tensor, token_valid: Tensor, *others: Any) -> Tensor:
        """As every block; ``region_valid`` plays no part, and nothing is kept."""
        fused = mean_multimodal_feature(pixels, words, token_valid)
        return fused.transpose(1, 2).unflatten(2, pixels.shape[-2:])
