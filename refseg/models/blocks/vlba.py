"""Vision-language bidirectional attention, VLBA: words and pixels attend to each other through one score map.

The authors of AlignFormer (Wei et al., 2023, arXiv 2301.06429 v1) released the code of its later version, LGFormer,
whose VLBA this is, number for number (``tests/models/test_vlba.py``). Every region scores every word once, [R,L].
Softmaxed along the words, a row says what the region reads; along the regions, a column says where the word looks.

Where ours differs: biases that the normalisation after them removes are omitted; padded regions, of which the
release has none, take no part; and the gates begin random (``ResidualGate``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import as_map, instance_norm, masked_softmax, merge_heads, split_heads
from refseg.models.blocks.layers import ResidualGate
from refseg.models.serialise import Config


@dataclass(frozen=True)
class VLBAConfig(Config):
    """Directions and heads; without either direction, words and pixels pass as they came."""

    words_to_pixels: bool = True  # language to vision: every region reads the words
    pixels_to_words: bool = True  # vision to language: every word looks at the regions
    heads: int = 1  # as released; they divide the level's channels and the words'


def score_map(queries: Tensor, keys: Tensor, heads: int = 1) -> Tensor:
    """How well every region and every word agree, before any softmax.

    Args:
        queries: [B,R,C], of the regions.
        keys: [B,L,C], of the words.
        heads: K; the scores are divided by sqrt(C) for any number of heads, as released.

    Returns:
        [B,K,R,L]
    """
    return split_heads(queries, heads) @ split_heads(keys, heads).mT * queries.shape[-1] ** -0.5


def words_of_regions(scores: Tensor, token_valid: Tensor) -> Tensor:
    """What each region reads: softmax along the words. [B,K,R,L] and [B,L] -> [B,K,R,L], rows sum to one."""
    return masked_softmax(scores, token_valid[:, None, None])


def regions_of_words(scores: Tensor, region_valid: Tensor) -> Tensor:
    """Where each word looks: softmax along the regions. [B,K,R,L] and [B,R] -> [B,K,L,R], rows sum to one."""
    return masked_softmax(scores.mT, region_valid[:, None, None])


def read(weights: Tensor, values: Tensor) -> Tensor:
    """Weighted means of values, head by head: [B,K,N,M] and [B,M,C] -> [B,N,C]."""
    return merge_heads(weights @ split_heads(values, weights.shape[1]))


class VLBAOutput(NamedTuple):
    """What pixels and words became; the residuals are what each learned from the other, before the gate."""

    pixels: Tensor  # [B,C,h,w], continue into the backbone
    words: Tensor  # [B,L,Cl], zero where padded, continue to the next level
    pixel_residual: Tensor  # [B,C,h,w]; the pixels themselves where they do not read
    word_residual: Tensor  # [B,L,Cl]; the words themselves where they do not look
    scores: Tensor | None  # [B,K,R,L], the score map that both directions share; None without a direction


class VisionLanguageBidirectionalAttention(nn.Module):
    """Both sides of one level, in parallel: the pixels' line of each method has its twin in the words' line.

    Args:
        dim: C, of the pixels and of queries and keys.
        word_channels: Cl.
        config: directions and heads.
        gated: False for the last level, after which nothing follows: ``pixels`` and ``words`` of the output are
            then those that came in.
    """

    def __init__(self, dim: int, word_channels: int, config: VLBAConfig, gated: bool = True):
        super().__init__()
        self.heads = config.heads
        self.query = self.key = None
        if config.words_to_pixels or config.pixels_to_words:
            self.query = nn.Linear(dim, dim, bias=False)  # the normalisation removes a bias
            # A bias distinguishes regions, but not words: without the words' side it has no effect.
            self.key = nn.Linear(word_channels, dim, bias=config.pixels_to_words)
        self.to_pixels = PixelSide(dim, word_channels) if config.words_to_pixels else None
        self.to_words = WordSide(word_channels, dim) if config.pixels_to_words else None
        self.pixel_gate = ResidualGate(dim, nn.ReLU()) if gated and config.words_to_pixels else None
        self.word_gate = ResidualGate(word_channels, nn.ReLU()) if gated and config.pixels_to_words else None

    def forward(
        self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None
    ) -> VLBAOutput:
        """Let them look at each other.

        Args:
            pixels: [B,C,h,w].
            words: [B,L,Cl].
            token_valid: [B,L].
            region_valid: [B,h,w], or None if all regions are real.
        """
        regions = pixels.flatten(2).mT
        real = torch.ones_like(regions[..., 0], dtype=torch.bool) if region_valid is None else region_valid.flatten(1)
        pixel_residual, word_residual = regions, words
        scores = self.scores(regions, words, real)
        if scores is not None and self.to_pixels is not None:
            pixel_residual = self.to_pixels(regions, words, words_of_regions(scores, token_valid), real)
        if scores is not None and self.to_words is not None:
            word_residual = self.to_words(words, regions, regions_of_words(scores, real), real)
        pixels_on = regions if self.pixel_gate is None else self.pixel_gate(regions, pixel_residual)
        words_on = words if self.word_gate is None else self.word_gate(words, word_residual)
        grid, shown = pixels.shape[-2:], token_valid[..., None]
        maps = as_map(pixels_on, grid), as_map(pixel_residual, grid)
        return VLBAOutput(maps[0], words_on * shown, maps[1], word_residual * shown, scores)

    def scores(self, regions: Tensor, words: Tensor, region_valid: Tensor) -> Tensor | None:
        """The one map that both directions share, [B,K,R,L]; None without a direction."""
        if self.query is None or self.key is None:
            return None
        return score_map(instance_norm(self.query(regions), region_valid), self.key(words), self.heads)


VLBA = VisionLanguageBidirectionalAttention


class PixelSide(nn.Module):
    """Language to vision: what a region read, normalised over the image, is concatenated with it and mixed.

    Args:
        dim: C.
        word_channels: Cl.
    """

    def __init__(self, dim: int, word_channels: int):
        super().__init__()
        self.value = nn.Linear(word_channels, dim, bias=False)  # the normalisation removes both biases,
        self.out = nn.Linear(dim, dim, bias=False)  # because the weights of a region sum to one
        self.own = nn.Linear(dim, dim)
        self.mix = _mixer(dim)

    def forward(self, regions: Tensor, words: Tensor, weights: Tensor, region_valid: Tensor) -> Tensor:
        """regions [B,R,C], words [B,L,Cl], weights [B,K,R,L], valid [B,R] -> [B,R,C]."""
        read_words = instance_norm(self.out(read(weights, self.value(words))), region_valid)
        return self.mix(torch.cat([F.gelu(self.own(regions)), read_words], dim=-1))


class WordSide(nn.Module):
    """Vision to language: what a word saw, of values normalised over the image, is concatenated with it and mixed.

    Args:
        word_channels: Cl.
        dim: C, of the regions.
    """

    def __init__(self, word_channels: int, dim: int):
        super().__init__()
        self.value = nn.Linear(dim, word_channels, bias=False)  # the normalisation removes a bias
        self.out = nn.Linear(word_channels, word_channels)
        self.own = nn.Linear(word_channels, word_channels)
        self.mix = _mixer(word_channels)

    def forward(self, words: Tensor, regions: Tensor, weights: Tensor, region_valid: Tensor) -> Tensor:
        """words [B,L,Cl], regions [B,R,C], weights [B,K,L,R], valid [B,R] -> [B,L,Cl]."""
        seen = self.out(read(weights, instance_norm(self.value(regions), region_valid)))
        return self.mix(torch.cat([F.gelu(self.own(words)), seen], dim=-1))


def _mixer(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU())
