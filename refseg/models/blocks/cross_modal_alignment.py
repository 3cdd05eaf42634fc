"""MagNet's cross-modal alignment module, CAM: words into pixels at several scales, and pixels into words.

Chng et al., Mask Grounding, CVPR 2024. The pixels' side is that of the authors' released network, number for number
(``tests/models/test_cross_modal_alignment.py``). The words' side is corrected as ``PixelsToWords`` says; ``released``
there computes what the release does.

PWAM, the pixel-word attention of LAVT (Yang et al., CVPR 2022), is one head of attention with the words as keys, whose
answer is multiplied with the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.blocks.attention import as_map, instance_norm, masked_mean, masked_softmax, merge_heads, split_heads
from refseg.models.blocks.layers import ResidualGate
from refseg.models.serialise import Config

EXTENDED_MASK = -1e4  # what BERT adds to the scores of padding, and what the release multiplies queries with


@dataclass(frozen=True)
class CAMConfig(Config):
    """Pyramid and directions; the values are those of the release, ``released_words`` apart."""

    pool_sizes: tuple[int, ...] = (1, 2, 3, 6)  # () omits the pyramid
    reduction: int = 4  # the pyramid's channels are the level's divided by this
    expansion: int = 4  # inner width of the pyramid's MLP, times the level's
    heads: int = 1  # of PWAM on the level itself
    pixels_to_words: bool = True  # the second direction
    released_words: bool = False  # the second direction as released, its defects included

    def __post_init__(self):
        if self.released_words and not self.pixels_to_words:
            raise RefsegError("released_words needs pixels_to_words: it says how that direction is computed.")


class WordsToPixels(nn.Module):
    """PWAM: every region asks the words, and the answer is multiplied with the region. [B,R,C] -> [B,R,C].

    Args:
        dim: C, of the regions and of the attention.
        word_channels: of the words.
        heads: the scores are divided by sqrt(C) for any number of heads, as released.
    """

    def __init__(self, dim: int, word_channels: int, heads: int = 1):
        super().__init__()
        self.heads = heads
        self.own = nn.Linear(dim, dim)
        self.query = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.key = nn.Linear(word_channels, dim, bias=False)  # a bias moves all scores of a query alike
        self.value = nn.Linear(word_channels, dim)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.project = nn.Linear(dim, dim)

    def forward(self, regions: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        """regions [B,R,C], words [B,L,Cl], valid [B,L] -> [B,R,C]."""
        weights = self.weights(regions, words, token_valid)
        answer = merge_heads(weights @ split_heads(self.value(words), self.heads))
        return F.gelu(self.project(F.gelu(self.own(regions)) * self.out(answer)))

    def weights(self, regions: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        """What each region reads: [B,K,R,L], sums to one over the valid words."""
        query, key = (split_heads(x, self.heads) for x in (self.query(regions), self.key(words)))
        scores = query @ key.mT * self.own.in_features**-0.5
        return masked_softmax(scores, token_valid[:, None, None])


class PixelsToWords(nn.Module):
    """The other direction: every word asks the regions. [B,L,C] -> [B,L,C].

    The released network gives this module BERT's additive mask (0 for a word, -10000 for padding) where 1 and 0 are
    expected. So the query of every real word is zero, its attention is the same everywhere, and the mean of values
    that are normalised over the image is zero: no word learns anything about the image except what the normalisation
    over all 20 positions carries over from the padding. ``released`` computes that. Ours has a mask of words, attends
    to the real regions only, and normalises every word for itself. The normalisation of keys and values over
    the image is the release's, but normalised keys and values are never made: both are linear in the regions, so the
    covariance of the regions gives their deviations, and words are fewer than regions. Same numbers, less work.

    Args:
        dim: C, of the words and of the attention.
        visual_channels: of the regions.
        released: as in the release.
    """

    def __init__(self, dim: int, visual_channels: int, released: bool = False):
        super().__init__()
        self.released = released
        self.own = nn.Linear(dim, dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(visual_channels, dim, bias=False)  # the normalisation removes a bias
        self.value = nn.Linear(visual_channels, dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.norm = None if released else nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)

    def forward(
        self, words: Tensor, token_valid: Tensor, regions: Tensor, region_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """words [B,L,C], valid [B,L], regions [B,R,Cv], valid [B,R] or None -> [B,L,C], and where each word looks.

        The latter are weights [B,L,R], which sum to one over the valid regions.
        """
        centred, covariance = centred_regions(regions, region_valid)
        weights = self._weights(words, token_valid, centred, covariance, region_valid)
        seen = self.out(self.value(weights @ centred) * inverse_deviation(self.value, covariance))
        seen = instance_norm(seen) if self.norm is None else self.norm(seen)
        return F.gelu(self.project(F.gelu(self.own(words)) * seen)), weights

    def _weights(
        self, words: Tensor, token_valid: Tensor, centred: Tensor, covariance: Tensor, region_valid: Tensor | None
    ) -> Tensor:
        """Of a normalised key only its deviation is needed, and that may as well divide the query."""
        query, scale = self.query(words), self.query.out_features**-0.5
        deviation = inverse_deviation(self.key, covariance)
        if self.released:
            mask = EXTENDED_MASK * (~token_valid[..., None]).to(query.dtype)
            return (query * mask @ (self.key(centred) * deviation).mT * scale + (1e4 * mask - 1e4)).softmax(-1)
        scores = (query * deviation * scale) @ self.key.weight @ centred.mT
        return scores.softmax(-1) if region_valid is None else masked_softmax(scores, region_valid[:, None])


class PoolingMLP(nn.Module):
    """One scale of the pyramid before its PWAM: pool to p x p, then three 1x1 convolutions. [B,C,h,w] -> [B,p*p,C']."""

    def __init__(self, size: int, dim: int, inner: int, reduced: int):
        super().__init__()
        self.size = size
        self.widen = nn.Linear(dim, inner, bias=False)
        self.norm = nn.LayerNorm(inner, eps=1e-6)  # as released; the other norms of CAM have torch's 1e-5
        self.narrow = nn.Linear(inner, dim, bias=False)
        self.reduce = nn.Linear(dim, reduced, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[B,C,h,w] -> [B,p*p,C']."""
        pooled = F.adaptive_avg_pool2d(pixels, self.size).flatten(2).mT
        return self.reduce(F.gelu(self.narrow(self.norm(self.widen(pooled)))))


class PyramidAlignment(nn.Module):
    """CAM on the pixels' side: PWAM on the level and on its pooled copies, all put together by the mixer.

    Args:
        dim: C, of the level.
        word_channels: of the words.
        config: the pyramid.
    """

    def __init__(self, dim: int, word_channels: int, config: CAMConfig):
        super().__init__()
        reduced = dim // config.reduction
        self.attend = WordsToPixels(dim, word_channels, config.heads)
        self.pyramid = nn.ModuleList(
            PoolingMLP(size, dim, config.expansion * dim, reduced) for size in config.pool_sizes
        )
        self.pool_sizes = config.pool_sizes
        self.attend_pooled = nn.ModuleList(WordsToPixels(reduced, word_channels) for _ in config.pool_sizes)
        joined = dim + reduced * len(config.pool_sizes)
        self.mixer = nn.Sequential(nn.Linear(joined, dim), nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())

    def forward(self, pixels: Tensor, words: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """The level with the words in it, and the residual that may continue through the backbone.

        Args:
            pixels: [B,C,h,w].
            words: [B,L,Cl].
            token_valid: [B,L].

        Returns:
            fused [B,C,h,w], and what PWAM gives at full resolution, [B,C,h,w]
        """
        residual, grid, scales = self.attend(pixels.flatten(2).mT, words, token_valid), pixels.shape[-2:], []
        for size, pool, attend in zip(self.pool_sizes, self.pyramid, self.attend_pooled, strict=True):
            pooled = attend(pool(pixels), words, token_valid)
            scales.append(enlargement(size, grid, pooled) @ pooled)  # [B,R,C/reduction]
        fused = self.mixer(torch.cat([*scales, residual], dim=-1))
        return as_map(fused, grid), as_map(residual, grid)


class WordAlignment(nn.Module):
    """CAM on the words' side: PWAM over the regions and a gate.

    Args:
        dim: of the words.
        visual_channels: of the level.
        config: whether as released.
    """

    def __init__(self, dim: int, visual_channels: int, config: CAMConfig):
        super().__init__()
        self.attend = PixelsToWords(dim, visual_channels, config.released_words)
        self.gate = ResidualGate(dim, nn.ReLU())

    def forward(
        self, words: Tensor, token_valid: Tensor, pixels: Tensor, region_valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """words [B,L,C], valid [B,L], pixels [B,Cv,h,w], valid [B,h,w] -> words [B,L,C], and where each looks [B,L,R].

        The release sees no padding.
        """
        valid = None if self.attend.released else region_valid.flatten(1)
        residual, weights = self.attend(words, token_valid, pixels.flatten(2).mT, valid)
        return self.gate(words, residual), weights


def enlargement(size: int, grid: Sequence[int], like: Tensor) -> Tensor:
    """Bilinear interpolation from size x size places to a grid, corners on corners, as a matrix [h*w,size*size].

    As a product of matrices it takes a fraction of the time of ``interpolate``, backwards above all.
    """
    units = torch.eye(size * size, device=like.device, dtype=like.dtype).unflatten(1, (size, size))
    return F.interpolate(units[:, None], grid, mode="bilinear", align_corners=True).flatten(1).T


def centred_regions(regions: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[B,R,C] less the mean over the valid regions, zero in the others, and their covariance [B,C,C]; in float32."""
    with torch.autocast(regions.device.type, enabled=False):
        regions = regions.float() if regions.dtype in (torch.float16, torch.bfloat16) else regions
        if valid is None or valid.all():
            centred, count = regions - regions.mean(1, keepdim=True), regions.shape[1]
        else:
            valid = valid[..., None]
            centred = (regions - masked_mean(regions, valid, dim=1)[:, None]).masked_fill(~valid, 0.0)
            count = valid.sum(1, keepdim=True).clamp(min=1)
        return centred, centred.mT @ centred / count


def inverse_deviation(linear: nn.Linear, covariance: Tensor) -> Tensor:
    """By what ``linear`` of centred regions is multiplied to have variance 1 in every channel: [B,C,C] -> [B,1,C']."""
    with torch.autocast(covariance.device.type, enabled=False):
        weight = linear.weight.to(covariance.dtype)
        variance = (weight @ covariance * weight).sum(-1)
        return (variance + 1e-5).rsqrt()[:, None]
