"""Cross-modal self-attention as the authors' TensorFlow release computes it (lwye/CMSA-Net, 2019).

It is not the module of the paper. Every linear map is followed by a ReLU; keys and values are max-pooled over windows
of two words, two rows and two columns; at C4 and C3 the multimodal feature is first reduced by a 1x1 map with ReLU.
Because of the ReLUs on the keys (and of the reduction) the softmax over word-region cells is not a product of one over
words and one over regions: this form can look at "red" here and at "car" there, and it pays the full price.

The release runs one sentence at a time and drops padded words first. Here a batch may mix lengths: padded places are
set to 0 before the pooling, and no output of a ReLU is below 0; a cell without a valid place is not a key, and padded
query words are not in the mean. A batch therefore equals its samples one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.blocks.attention import SPATIAL_CHANNELS, Kept, at_least_float32, masked_mean, masked_softmax
from refseg.models.blocks.cross_modal import (
    CrossModalBlock,
    CrossModalConfig,
    mean_of_parts,
    multimodal_parts,
    project_parts,
)
from refseg.models.blocks.word_average import word_shares


@dataclass(frozen=True)
class CMSAReleaseConfig(CrossModalConfig):
    """One level of the release; its defaults are those of C5."""

    dim: int = 512  # of queries, keys and values; the release: 512, 128, 64 at C5, C4, C3
    reduction: int | None = None  # width of the multimodal feature before the attention; the release: None, 256, 128
    hide_padding: bool = False  # True: the padding is not a key, as in the paper's form; the release looks at it too

    def build(self, visual_channels: int, word_channels: int) -> ReleaseCrossModalSelfAttention:
        return ReleaseCrossModalSelfAttention(visual_channels, word_channels, self)


@dataclass(frozen=True)
class CMSAReleaseLevelsConfig(CrossModalConfig):
    """The three levels of the release, each with widths of its own."""

    c3: CMSAReleaseConfig = CMSAReleaseConfig(64, 128)
    c4: CMSAReleaseConfig = CMSAReleaseConfig(128, 256)
    c5: CMSAReleaseConfig = CMSAReleaseConfig(512)

    def at_level(self, level: str) -> CMSAReleaseConfig:
        return {"c3": self.c3, "c4": self.c4, "c5": self.c5}[level]


class PooledKeys(NamedTuple):
    """What the queries look at: M = ceil(L/2) * ceil(h/2) * ceil(w/2) cells, words before rows before columns."""

    key: Tensor  # [B,M,d]
    value: Tensor  # [B,M,d]
    place_valid: Tensor  # [B,L,h,w] bool, the places that the cells are made of
    valid: Tensor | None  # [B,M] bool, None if all are


class PooledAttention(NamedTuple):
    """Queries and the keys they look at, with the methods of ``PairScores``; places share a cell's weight equally.

    Unlike in the paper's form the weight of region p and word n is not alpha[:, p] * beta[:, n]: a ``row`` is only what
    is left of ``joint``.
    """

    query: Tensor  # [B,L,R,d]
    keys: PooledKeys

    def of(self, rows: Tensor) -> PooledAttention:
        """That of some samples of the batch."""
        key, value, place_valid, valid = self.keys
        valid = None if valid is None else valid[rows]
        return PooledAttention(self.query[rows], PooledKeys(key[rows], value[rows], place_valid[rows], valid))

    def word_maps(self, token_valid: Tensor, region_valid: Tensor | None = None) -> Tensor:
        """See ``PairScores``: [B,L,R]."""
        queries = torch.ones_like(self.query[:, 0, :, :1], dtype=torch.bool)
        if region_valid is not None:
            queries = region_valid.flatten(1)[..., None]
        maps = []
        for n in range(self.query.shape[1]):
            weights = masked_mean(key_weights(self.query[:, n], self.keys), queries, dim=1)
            maps.append(spread(weights[:, None], self.keys.place_valid)[:, 0].sum(1).flatten(1))
        return torch.stack(maps, 1) * token_valid[..., None]

    def region_rows(self, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """See ``PairScores``; one query word at a time, because the weights of one are a matrix [R,L,R]."""
        shares = word_shares(token_valid, self.query.dtype)
        alpha = beta = self.query.new_zeros(())
        for n in range(self.query.shape[1]):
            joint = spread(key_weights(self.query[:, n], self.keys), self.keys.place_valid).flatten(3)  # [B,R,L,R]
            joint = joint * shares[:, n, None, None, None]
            alpha, beta = alpha + joint.sum(2), beta + joint.sum(3)
        return alpha, beta

    def joint(self, query_regions: Sequence[int], query_words: Sequence[int]) -> Tensor:
        """See ``PairScores``: [B,Q,L,R]."""
        weights = key_weights(self.query[:, list(query_words), list(query_regions)], self.keys)
        return spread(weights, self.keys.place_valid).flatten(3)

    def row(self, query_region: int, query_word: int) -> tuple[Tensor, Tensor]:
        """See ``PairScores``: the marginals alpha [B,R] and beta [B,L]."""
        joint = self.joint([query_region], [query_word])[:, 0]
        return joint.sum(1), joint.sum(2)


class ReleaseCrossModalSelfAttention(CrossModalBlock):
    """CMSA of the release: words and regions in, one feature per region out.

    Args:
        visual_channels: Cv.
        word_channels: Cl.
        config: widths.
    """

    def __init__(self, visual_channels: int, word_channels: int, config: CMSAReleaseConfig):
        super().__init__()
        multimodal = visual_channels + word_channels + SPATIAL_CHANNELS
        self.channels = multimodal if config.reduction is None else config.reduction
        self.hide_padding = config.hide_padding
        self.reduce = None if config.reduction is None else nn.Linear(multimodal, config.reduction)
        self.query = nn.Linear(self.channels, config.dim)
        self.key = nn.Linear(self.channels, config.dim)
        self.value = nn.Linear(self.channels, config.dim)
        self.out = nn.Linear(config.dim, self.channels)
        for linear in filter(None, (self.reduce, self.query, self.key, self.value, self.out)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        pixels: Tensor,
        words: Tensor,
        token_valid: Tensor,
        region_valid: Tensor | None = None,
        kept: Kept = None,
    ) -> Tensor:
        """mean_n( relu(W_o attended_pn) + f_pn ), f the multimodal feature or its reduction: [B,channels,h,w].

        Kept is "attention". ``region_valid`` plays a part only with ``hide_padding``.

        Raises:
            RefsegError: a padded word before a real one.
        """
        (query, keys), residual = self.look(pixels, words, token_valid, region_valid)
        if kept is not None:
            kept["attention"] = PooledAttention(query, keys)
        attended = attend(query.flatten(1, 2), keys).view_as(query)
        update = masked_mean(self.out(attended).relu_(), token_valid[:, :, None, None], dim=1)
        return (update + residual).transpose(1, 2).unflatten(2, pixels.shape[-2:])

    def attention(
        self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None
    ) -> PooledAttention:
        """What ``forward`` attends with on these inputs, to look at."""
        return self.look(pixels, words, token_valid, region_valid)[0]

    def look(
        self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None
    ) -> tuple[PooledAttention, Tensor]:
        """Queries and what they look at, and the mean over the valid words of f [B,R,C]."""
        check_padding_comes_last(token_valid)
        place_valid = places(token_valid, region_valid if self.hide_padding else None, pixels.shape[-2:])
        parts = multimodal_parts(pixels, words)
        if self.reduce is None:
            query, key, value = (relu_of_sum(linear, parts) for linear in (self.query, self.key, self.value))
            residual = mean_of_parts(*parts, token_valid)
        else:
            f = relu_of_sum(self.reduce, parts)
            query, key, value = (linear(f).relu() for linear in (self.query, self.key, self.value))
            residual = masked_mean(f, token_valid[:, :, None, None], dim=1)
        return PooledAttention(query, pooled_keys(key, value, place_valid)), residual


def check_padding_comes_last(token_valid: Tensor) -> None:
    """Windows of two words are counted from the first word on, so nothing may stand before it.

    Raises:
        RefsegError: it does.
    """
    if (token_valid[:, 1:] & ~token_valid[:, :-1]).any():
        raise RefsegError(
            "A padded word comes before a real one: the release form of CMSA needs all padding after the words."
        )


def places(token_valid: Tensor, region_valid: Tensor | None, grid: Sequence[int]) -> Tensor:
    """Which pairs of word and region may be looked at, [B,L,h,w] bool."""
    if region_valid is None:
        return token_valid[:, :, None, None].expand(-1, -1, *grid)
    return token_valid[:, :, None, None] & region_valid[:, None]


def relu_of_sum(linear: nn.Linear, parts: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """relu(W f_pn) [B,L,R,d] without building f: a part of the region and a part of the word are added."""
    position_part, word_part = project_parts(linear, *parts)
    return (position_part[:, None] + word_part[:, :, None]).relu_()


def pooled_keys(key: Tensor, value: Tensor, place_valid: Tensor) -> PooledKeys:
    """Keys and values [B,L,R,d], none below 0, max-pooled over windows of two words, rows and columns.

    At the end of an odd side a window is one thick (TensorFlow's "same" padding).
    """
    if place_valid.all():
        return PooledKeys(max_pool(key, place_valid.shape), max_pool(value, place_valid.shape), place_valid, None)
    hidden = ~place_valid.flatten(2)[..., None]
    key, value = (max_pool(x.masked_fill(hidden, 0.0), place_valid.shape) for x in (key, value))
    valid = max_pool(place_valid.flatten(2)[..., None].to(key.dtype), place_valid.shape)[..., 0] > 0
    return PooledKeys(key, value, place_valid, valid)


def max_pool(x: Tensor, shape: Sequence[int]) -> Tensor:
    """[B,L,R,d] with ``shape`` [B,L,h,w] -> [B,M,d]."""
    return F.max_pool3d(x.view(*shape, -1).movedim(-1, 1), 2, ceil_mode=True).flatten(2).mT


def attend(query: Tensor, keys: PooledKeys) -> Tensor:
    """softmax(query key^T) value, [B,Q,d]: the weights [B,Q,M] are never in memory, which would be 0.5 GB at 40x40.

    In float32 at least: without 1/sqrt(d) the scores are large, and the softmax sees their differences.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = (at_least_float32(x)[:, None] for x in (query, keys.key, keys.value))
        hidden = None
        if keys.valid is not None:
            # The kernels multiply scores by log2(e); half of the lowest float stays finite.
            hidden = torch.zeros_like(keys.valid, dtype=key.dtype)
            hidden = hidden.masked_fill(~keys.valid, torch.finfo(key.dtype).min / 2)[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=hidden, scale=1.0)[:, 0]


def key_weights(query: Tensor, keys: PooledKeys) -> Tensor:
    """The weights of ``attend`` for few queries [B,Q,d]: [B,Q,M]."""
    with torch.autocast(query.device.type, enabled=False):
        scores = at_least_float32(query) @ at_least_float32(keys.key).mT
    return scores.softmax(-1) if keys.valid is None else masked_softmax(scores, keys.valid[:, None])


def spread(weights: Tensor, place_valid: Tensor) -> Tensor:
    """Each cell's weight shared out equally among its valid places: [B,Q,M] -> [B,Q,L,h,w].

    Cells and their places are products of a word part and a region part, so the mutual information of words and
    regions stays what it was among the cells.
    """
    L, h, w = place_valid.shape[1:]
    members = place_valid[:, None].to(weights.dtype)
    count = 8 * F.avg_pool3d(F.pad(members, (0, w % 2, 0, h % 2, 0, L % 2)), 2)  # [B,1,L',h',w']
    shares = weights.unflatten(2, count.shape[2:]) / count.clamp(min=1)
    for dim in (2, 3, 4):
        shares = shares.repeat_interleave(2, dim)
    return shares[:, :, :L, :h, :w] * members
