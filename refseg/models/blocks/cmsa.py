"""Cross-modal self-attention: every word-region pair attends to every other (Ye et al., CVPR 2019, Sec. 3.1-3.2).

For region p and word n the multimodal feature is f_pn = [v_p/|v_p| ; e_n/|e_n| ; s_p] (Eq. 1): visual feature, word
feature, spatial coordinates. With q = W_q f, k = W_k f, g = W_v f, one softmax over all word-region pairs gives
the attended value, and the module returns the mean over the words of W_o attended + f (Eq. 2-4).

At 40x40 regions and 20 words the softmax has 32,000 keys for each of 32,000 queries. But W f is a sum of a part that
knows only the region and a part that knows only the word, so the softmax is a product and the same numbers
cost one ordinary attention over regions: ``factorised_attention``. ``literal_attention`` is the equation as written;
the tests compare the two. The identity is old (product-key memories, span scoring, graph attention, the
concatenation form of non-local networks); that Eq. 1-4 are exactly of this form we have not found written down.

What we decided where the paper is silent: padded words and regions are masked; biases sit where they can act (a bias
of the keys shifts all scores of a query alike, a bias of the values is a second bias of W_o); Xavier initialisation
as in the release. The paper has no 1/sqrt(d); ``scale`` is there to try it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refseg.models.blocks.attention import SPATIAL_CHANNELS, Kept, at_least_float32, masked_mean, masked_softmax
from refseg.models.blocks.cross_modal import (
    CrossModalBlock,
    CrossModalConfig,
    mean_of_parts,
    multimodal_features,
    multimodal_parts,
    project_parts,
)
from refseg.models.blocks.word_average import word_averaged_weights


@dataclass(frozen=True)
class CMSAConfig(CrossModalConfig):
    """Width of queries, keys and values, and a factor on the scores (the paper: 512 and none)."""

    dim: int = 512
    scale: float = 1.0

    def build(self, visual_channels: int, word_channels: int) -> CrossModalSelfAttention:
        return CrossModalSelfAttention(visual_channels, word_channels, self)


class PairScores(NamedTuple):
    """The four score matrices whose sum is the score of a pair of pairs, named query before key."""

    pp: Tensor  # [B,R,R]
    np: Tensor  # [B,L,R]
    pn: Tensor  # [B,R,L]
    nn: Tensor  # [B,L,L]

    def of(self, rows: Tensor) -> PairScores:
        """That of some samples of the batch."""
        return PairScores(*(scores[rows] for scores in self))

    def word_maps(self, token_valid: Tensor, region_valid: Tensor | None = None) -> Tensor:
        """Where each query word looks: its weights over the key regions, averaged over the valid query regions.

        Args:
            token_valid: [B,L] bool.
            region_valid: [B,h,w] bool.

        Returns:
            [B,L,R], sums to one over the regions, zero for padded words
        """
        queries = torch.ones_like(self.pp[..., :1], dtype=torch.bool)
        if region_valid is not None:
            queries = region_valid.flatten(1)[..., None]
        maps = [
            masked_mean((self.pp + self.np[:, n, None]).softmax(-1), queries, dim=1) for n in range(self.np.shape[1])
        ]
        return torch.stack(maps, 1) * token_valid[..., None]

    def region_rows(self, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """Where every query region looks: ``row`` averaged over the valid query words.

        Returns:
            alpha [B,R,R] and beta [B,R,L], query region before key; each row sums to one
        """
        alpha = word_averaged_weights(self.pp, self.np, token_valid)
        return alpha, word_averaged_weights(self.pn, self.nn, token_valid)

    def joint(self, query_regions: Sequence[int], query_words: Sequence[int]) -> Tensor:
        """The weights of Q query pairs over all words and regions, the products of their rows.

        Args:
            query_regions: Q times row * w + column.
            query_words: Q positions in the expression.

        Returns:
            [B,Q,L,R], each [L,R] sums to one
        """
        rows = [self.row(region, word) for region, word in zip(query_regions, query_words, strict=True)]
        return torch.stack([beta[:, :, None] * alpha[:, None] for alpha, beta in rows], 1)

    def row(self, query_region: int, query_word: int) -> tuple[Tensor, Tensor]:
        """The weights of one query pair: that of key region p and key word n is alpha[:, p] * beta[:, n].

        Returns:
            alpha [B,R] and beta [B,L], each sums to one
        """
        alpha = (self.pp[:, query_region] + self.np[:, query_word]).softmax(-1)
        return alpha, (self.pn[:, query_region] + self.nn[:, query_word]).softmax(-1)


class CrossModalSelfAttention(CrossModalBlock):
    """CMSA: words and regions in, one feature per region out.

    Args:
        visual_channels: Cv.
        word_channels: Cl.
        config: width and scale.
    """

    pools_words = True

    def __init__(self, visual_channels: int, word_channels: int, config: CMSAConfig):
        super().__init__()
        self.channels = visual_channels + word_channels + SPATIAL_CHANNELS
        self.scale = config.scale
        self.query = nn.Linear(self.channels, config.dim)
        self.key = nn.Linear(self.channels, config.dim, bias=False)
        self.value = nn.Linear(self.channels, config.dim, bias=False)
        self.out = nn.Linear(config.dim, self.channels)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        pixels: Tensor,
        words: Tensor,
        token_valid: Tensor,
        region_valid: Tensor | None = None,
        kept: Kept = None,
    ) -> Tensor:
        """Eq. 1-4 by the factorised path: [B,Cv+Cl+8,h,w]. Kept are "attention", the scores, and "parts" of Eq. 1."""
        parts = multimodal_parts(pixels, words)
        if kept is not None:
            kept["parts"] = parts
        attended = self.factorised(*parts, token_valid, region_valid, kept)
        fused = self.out(attended) + mean_of_parts(*parts, token_valid)
        return fused.transpose(1, 2).unflatten(2, pixels.shape[-2:])

    def factorised(
        self,
        v: Tensor,
        e: Tensor,
        s: Tensor,
        token_valid: Tensor,
        region_valid: Tensor | None,
        kept: Kept = None,
    ) -> Tensor:
        """The attended value averaged over the query words, [B,R,d]: sums over regions and over words apart.

        ``v``, ``e`` and ``s`` are those of ``multimodal_parts``.
        """
        value_p, value_n = project_parts(self.value, v, e, s)
        scores = self.scores(v, e, s, token_valid, region_valid)
        if kept is not None:
            kept["attention"] = scores
        with torch.autocast(v.device.type, enabled=False):
            alpha = word_averaged_weights(scores.pp, scores.np, token_valid)
            beta = word_averaged_weights(scores.pn, scores.nn, token_valid)
        return alpha.to(value_p.dtype) @ value_p + beta.to(value_n.dtype) @ value_n

    def scores(self, v: Tensor, e: Tensor, s: Tensor, token_valid: Tensor, region_valid: Tensor | None) -> PairScores:
        """The scores of regions and words, with the lowest ones at padded keys.

        float32 at least, under autocast too: without 1/sqrt(d) scores are large, and the softmax sees their
        differences.
        """
        query_p, query_n = (self.scale * at_least_float32(part) for part in project_parts(self.query, v, e, s))
        key_p, key_n = (at_least_float32(part) for part in project_parts(self.key, v, e, s))
        with torch.autocast(v.device.type, enabled=False):
            scores = PairScores(query_p @ key_p.mT, query_n @ key_p.mT, query_p @ key_n.mT, query_n @ key_n.mT)
        pn, nn = (hide_keys(x, token_valid) for x in (scores.pn, scores.nn))
        if region_valid is None:
            return scores._replace(pn=pn, nn=nn)
        keys = region_valid.flatten(1)
        return PairScores(hide_keys(scores.pp, keys), hide_keys(scores.np, keys), pn, nn)

    def literal(self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None) -> Tensor:
        """The same as ``forward`` by the equations as they are written, with the full N x N softmax, N = L*R.

        For reading and for the tests: 3.8 GiB of scores at the paper's size.
        """
        f = multimodal_features(pixels, words)
        B, L, R, _ = f.shape
        query, key, value = (linear(f).flatten(1, 2) for linear in (self.query, self.key, self.value))
        regions = torch.ones_like(f[:, 0, :, 0], dtype=torch.bool) if region_valid is None else region_valid.flatten(1)
        pair_valid = (token_valid[:, :, None] & regions[:, None]).flatten(1)
        weights = masked_softmax(self.scale * query @ key.mT, pair_valid[:, None])  # [B,N,N]
        multimodal = self.out(weights @ value).unflatten(1, (L, R)) + f
        fused = masked_mean(multimodal, token_valid[:, :, None, None], dim=1)
        return fused.transpose(1, 2).unflatten(2, pixels.shape[-2:])

    def attention(
        self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None
    ) -> PairScores:
        """What ``forward`` attends with on these inputs, to look at."""
        return self.scores(*multimodal_parts(pixels, words), token_valid, region_valid)

    def pooled_words(self, scores: PairScores, parts: tuple[Tensor, Tensor, Tensor], shares: Tensor) -> Tensor:
        """What each word makes of the regions: Eq. 2-3 without the mean over words, but with one over query regions.

        One softmax over the regions per word, so for training only.

        Args:
            scores, parts: as ``forward`` keeps them.
            shares: [B,R], how much each query region counts; sums to one.

        Returns:
            [B,L,Cv+Cl+8]
        """
        v, e, s = parts
        value_p, value_n = project_parts(self.value, *parts)
        pooled_v, pooled_s = torch.einsum("br,brc->bc", shares, v), shares @ s
        read = []
        for n in range(e.shape[1]):
            alpha = torch.einsum("br,brk->bk", shares, (scores.pp + scores.np[:, n, None]).softmax(-1))
            beta = torch.einsum("br,brl->bl", shares, (scores.pn + scores.nn[:, n, None]).softmax(-1))
            read.append(torch.einsum("bk,bkd->bd", alpha, value_p) + torch.einsum("bl,bld->bd", beta, value_n))
        of_every_word = (x[:, None].expand(-1, e.shape[1], -1) for x in (pooled_v, pooled_s))
        f = torch.cat([next(of_every_word), e, next(of_every_word)], dim=-1)
        return self.out(torch.stack(read, 1)) + f

    def freeze_constants(self) -> None:
        """That is the bias of W_o."""
        self.out.bias.requires_grad_(False)


def hide_keys(scores: Tensor, key_valid: Tensor) -> Tensor:
    """Scores [B,Q,K] so low where ``key_valid`` [B,K] is False that the softmax is exactly zero there.

    Half of the lowest float, because two such scores are added; with -inf a row without any valid key would be NaN.
    """
    return scores.masked_fill(~key_valid[:, None], torch.finfo(scores.dtype).min / 2)
