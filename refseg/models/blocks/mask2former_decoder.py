"""The mask decoder of MagNet: Mask2Former's (Cheng et al., CVPR 2022) with one learned query for one referent.

The query looks at one level after the other, where the mask that it predicted last is, and after every look it predicts
again. Its answer is a vector; a pixel belongs to the mask where its embedding agrees with that vector.

Omitted, because no mask depends on it: the class head, which with one query multiplies every mask by 1, and queries
and keys of the self-attention, whose softmax over a single query is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import keys_and_values
from refseg.models.blocks.layers import CrossAttentionLayer
from refseg.models.serialise import Config


@dataclass(frozen=True)
class MaskDecoderConfig(Config):
    """The values are those of the release; the width is the pixel decoder's."""

    layers: int = 9
    heads: int = 8
    inner: int = 2048  # width of the feed-forward part
    upsampling: int = 1  # logits per pixel embedding, along either side (ours, for the lessons: sharper masks)


class Mask2FormerDecoder(nn.Module):
    """From levels and pixel embeddings to one mask, and to those of all layers before.

    Args:
        dim: D, of levels, pixels and query.
        levels: names of the levels in the order in which the layers look at them, again and again.
        config: depth and widths.
    """

    def __init__(self, dim: int, levels: Sequence[str], config: MaskDecoderConfig):
        super().__init__()
        self.levels, self.upsampling = list(levels), config.upsampling
        self.query, self.query_position = nn.Parameter(torch.randn(dim)), nn.Parameter(torch.randn(dim))
        self.level_embedding = nn.ParameterDict({level: torch.randn(dim) for level in levels})
        self.layers = nn.ModuleList(_layer(dim, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)
        last = nn.Linear(dim, dim * config.upsampling**2)
        self.to_pixels = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)

    def forward(self, pixels: Tensor, features: dict[str, Tensor]) -> list[Tensor]:
        """Mask logits of the query as it begins and after every layer.

        Args:
            pixels: [B,D,H',W'].
            features: {level: [B,D,h,w]}.

        Returns:
            layers + 1 times [B,1,f*H',f*W'], f the upsampling; the answer last
        """
        query = self.query.expand(len(pixels), 1, -1)  # [B,1,D]
        masks = [self.mask_logits(query, pixels)]
        for number, layer in enumerate(self.layers):
            level = self.levels[number % len(self.levels)]
            hidden = outside(masks[-1], features[level].shape[-2:])
            keys, values = keys_and_values(features[level], self.level_embedding[level])
            query = layer(query, self.query_position, keys, values, hidden)
            masks.append(self.mask_logits(query, pixels))
        return masks

    def mask_logits(self, query: Tensor, pixels: Tensor) -> Tensor:
        """query [B,1,D], pixels [B,D,H',W'] -> [B,1,f*H',f*W']: one vector for each of the f*f logits of a pixel."""
        vectors = self.to_pixels(self.norm(query)).unflatten(2, (-1, pixels.shape[1]))  # [B,1,f*f,D]
        return F.pixel_shuffle(torch.einsum("bqfd,bdhw->bfhw", vectors, pixels), self.upsampling)


@torch.no_grad()
def outside(mask_logits: Tensor, grid: Sequence[int]) -> Tensor:
    """Regions that the next layer does not look at, [B,R]: those off the mask [B,1,H',W'], unless all of them are."""
    off = F.interpolate(mask_logits, grid, mode="bilinear", align_corners=False).flatten(1) < 0
    return off & ~off.all(1, keepdim=True)


def _layer(dim: int, config: MaskDecoderConfig) -> CrossAttentionLayer:
    layer = CrossAttentionLayer(dim, config.heads, config.inner, lone_query=True)
    for parameter in layer.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return layer
