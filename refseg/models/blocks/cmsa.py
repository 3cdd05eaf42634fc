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

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from refseg.errors import RefsegError
from refseg.models.blocks.attention import (
    SPATIAL_CHANNELS,
    at_least_float32,
    l2_normalize,
    masked_mean,
    masked_softmax,
    spatial_coordinates,
)
from refseg.models.serialise import Config

SMALLEST_SUM = 1e-15  # its square is still far from the end of float32, and the gradient divides by the square


@dataclass(frozen=True)
class CrossModalConfig(Config):
    """Base of the configs of what lets words and regions meet on one level."""

    def at_level(self, level: str) -> CrossModalConfig:
        """The config of one level: this one, unless the levels differ."""
        return self

    def build(self, visual_channels: int, word_channels: int) -> nn.Module:
        """The block of one level, for visual features and words of these widths."""
        raise NotImplementedError


@dataclass(frozen=True)
class CMSAConfig(CrossModalConfig):
    """Width of queries, keys and values, and a factor on the scores (the paper: 512 and none)."""

    dim: int = 512
    scale: float = 1.0

    def build(self, visual_channels: int, word_channels: int) -> CrossModalSelfAttention:
        return CrossModalSelfAttention(visual_channels, word_channels, self)


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


def hide_keys(scores: Tensor, key_valid: Tensor) -> Tensor:
    """Scores [B,Q,K] so low where ``key_valid`` [B,K] is False that the softmax is exactly zero there.

    Half of the lowest float, because two such scores are added; with -inf a row without any valid key would be NaN.
    """
    return scores.masked_fill(~key_valid[:, None], torch.finfo(scores.dtype).min / 2)


def word_averaged_weights(scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> Tensor:
    """Mean over the valid query words n of softmax_k(scores[p,k] + word_scores[n,k]), k regions or words.

    The exponential of a sum is a product, so one exponential matrix E serves all query words: with F of the words and
    the sums Z = E F^T the mean is E * ((1/Z) F) / L, two thin products in place of L softmaxes. A factor per row of E
    or F cancels, so both may be softmaxes, which torch computes in one go. Where ``scores`` and
    ``word_scores`` peak sharply at different keys Z runs out of the range of floats; then the softmaxes are taken
    one by one. Both ways are exact.

    Args:
        scores: [B,R,K], query region by key.
        word_scores: [B,L,K], query word by key.
        token_valid: [B,L] bool, which query words count.

    Returns:
        [B,R,K], each row sums to one
    """
    with torch.no_grad():
        E, F = scores.softmax(-1), word_scores.softmax(-1)
        Z = (E @ F.mT).masked_fill_(~token_valid[:, None], 1.0)  # [B,R,L]
    if Z.amin() < SMALLEST_SUM:
        return word_by_word_weights(scores, word_scores, token_valid)
    return ProductWeights.apply(scores, word_scores, E, F, Z, word_shares(token_valid, Z.dtype))


class ProductWeights(torch.autograd.Function):
    """A = E * (W F) with W = shares / Z and Z = E F^T, differentiated with respect to log E and log F.

    Written out because plain autograd would keep three matrices of E's size where one will do: A is kept anyway, by the
    product with the values that follows.
    """

    @staticmethod
    def forward(ctx, scores: Tensor, word_scores: Tensor, E: Tensor, F: Tensor, Z: Tensor, shares: Tensor) -> Tensor:
        """E [B,R,K] and F [B,L,K] are exponentials of the scores, up to a factor per row; Z [B,R,L], shares [B,L]."""
        W = shares[:, None] / Z
        A = (W @ F).mul_(E)
        ctx.save_for_backward(E, F, Z, W, A)
        return A

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """From dA to d scores = E * dE and d word_scores = F * dF."""
        E, F, Z, W, A = ctx.saved_tensors
        through_product = grad * E  # what reaches W F
        through_sums = -(through_product @ F.mT) * W / Z  # what reaches Z, by way of W
        grad_word_scores = (W.mT @ through_product + through_sums.mT @ E).mul_(F)
        grad_scores = torch.matmul(through_sums, F, out=through_product).mul_(E).addcmul_(A, grad)
        return grad_scores, grad_word_scores, None, None, None, None


def word_by_word_weights(scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> Tensor:
    """The same as ``word_averaged_weights`` for any finite scores: one softmax per query word."""
    shares = word_shares(token_valid, scores.dtype)
    averaged = torch.zeros_like(scores)
    for n in range(word_scores.shape[1]):
        averaged = averaged + shares[:, n, None, None] * (scores + word_scores[:, n, None]).softmax(-1)
    return averaged


def word_shares(token_valid: Tensor, dtype: torch.dtype) -> Tensor:
    """What each query word counts in the mean, [B,L]: one over the number of valid words, zero for padding."""
    return token_valid.to(dtype) / token_valid.sum(1, keepdim=True).clamp(min=1)


class CrossModalSelfAttention(nn.Module):
    """CMSA: words and regions in, one feature per region out.

    Args:
        visual_channels: Cv.
        word_channels: Cl.
        config: width and scale.
    """

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

    def forward(self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None) -> Tensor:
        """Eq. 1-4 by the factorised path.

        Args:
            pixels: [B,Cv,h,w].
            words: [B,L,Cl].
            token_valid: [B,L] bool, True = real word.
            region_valid: [B,h,w] bool, True = a real part of the picture; None means all are.

        Returns:
            fused [B,Cv+Cl+8,h,w]
        """
        parts = multimodal_parts(pixels, words)
        fused = self.out(self.factorised(*parts, token_valid, region_valid)) + mean_of_parts(*parts, token_valid)
        return fused.transpose(1, 2).unflatten(2, pixels.shape[-2:])

    def factorised(self, v: Tensor, e: Tensor, s: Tensor, token_valid: Tensor, region_valid: Tensor | None) -> Tensor:
        """The attended value averaged over the query words, [B,R,d]: sums over regions and over words apart.

        ``v``, ``e`` and ``s`` are those of ``multimodal_parts``.
        """
        value_p, value_n = project_parts(self.value, v, e, s)
        scores_pp, scores_np, scores_pn, scores_nn = self.scores(v, e, s, token_valid, region_valid)
        with torch.autocast(v.device.type, enabled=False):
            alpha = word_averaged_weights(scores_pp, scores_np, token_valid)
            beta = word_averaged_weights(scores_pn, scores_nn, token_valid)
        return alpha.to(value_p.dtype) @ value_p + beta.to(value_n.dtype) @ value_n

    def scores(
        self, v: Tensor, e: Tensor, s: Tensor, token_valid: Tensor, region_valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four score matrices whose sum is the score of a pair of pairs, named query before key.

        Returns:
            pp [B,R,R], np [B,L,R], pn [B,R,L], nn [B,L,L], with the lowest scores at padded keys; float32 at least,
            under autocast too: without 1/sqrt(d) scores are large, and the softmax sees their differences
        """
        query_p, query_n = (self.scale * at_least_float32(part) for part in project_parts(self.query, v, e, s))
        key_p, key_n = (at_least_float32(part) for part in project_parts(self.key, v, e, s))
        with torch.autocast(v.device.type, enabled=False):
            scores_pp, scores_np = query_p @ key_p.mT, query_n @ key_p.mT
            scores_pn, scores_nn = query_p @ key_n.mT, query_n @ key_n.mT
        if region_valid is not None:
            keys = region_valid.flatten(1)
            scores_pp, scores_np = hide_keys(scores_pp, keys), hide_keys(scores_np, keys)
        return scores_pp, scores_np, hide_keys(scores_pn, token_valid), hide_keys(scores_nn, token_valid)

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

    def word_maps(
        self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None
    ) -> Tensor:
        """Where each query word looks: its weights over the key regions, averaged over the valid query regions.

        Returns:
            [B,L,h,w], sums to one over the regions, zero for padded words
        """
        scores_pp, scores_np, _, _ = self.scores(*multimodal_parts(pixels, words), token_valid, region_valid)
        queries = torch.ones_like(scores_pp[..., :1], dtype=torch.bool)
        if region_valid is not None:
            queries = region_valid.flatten(1)[..., None]
        maps = []
        for n in range(words.shape[1]):
            alpha = (scores_pp + scores_np[:, n, None]).softmax(-1)
            maps.append(masked_mean(alpha, queries, dim=1))
        return (torch.stack(maps, 1) * token_valid[..., None]).unflatten(2, pixels.shape[-2:])

    def pooled_words(
        self,
        pixels: Tensor,
        words: Tensor,
        token_valid: Tensor,
        region_valid: Tensor | None,
        shares: Tensor,
    ) -> Tensor:
        """What each word makes of the regions: Eq. 2-3 without the mean over words, but with one over query regions.

        One softmax over the regions per word, so for training only.

        Args:
            pixels, words, token_valid, region_valid: as for ``forward``.
            shares: [B,R], how much each query region counts; sums to one.

        Returns:
            [B,L,Cv+Cl+8]
        """
        parts = v, e, s = multimodal_parts(pixels, words)
        scores_pp, scores_np, scores_pn, scores_nn = self.scores(*parts, token_valid, region_valid)
        value_p, value_n = project_parts(self.value, *parts)
        pooled_v, pooled_s = torch.einsum("br,brc->bc", shares, v), shares @ s
        read = []
        for n in range(words.shape[1]):
            alpha = torch.einsum("br,brk->bk", shares, (scores_pp + scores_np[:, n, None]).softmax(-1))
            beta = torch.einsum("br,brl->bl", shares, (scores_pn + scores_nn[:, n, None]).softmax(-1))
            read.append(torch.einsum("bk,bkd->bd", alpha, value_p) + torch.einsum("bl,bld->bd", beta, value_n))
        f = torch.cat([_to_words(pooled_v, e), e, _to_words(pooled_s, e)], dim=-1)
        return self.out(torch.stack(read, 1)) + f

    def attention_row(
        self,
        pixels: Tensor,
        words: Tensor,
        token_valid: Tensor,
        query_region: int,
        query_word: int,
        region_valid: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weights of one query pair; the weight of key region p and key word n is alpha[:, p] * beta[:, n].

        Args:
            query_region: row * w + column.
            query_word: position of the word in the expression.

        Returns:
            alpha [B,R] and beta [B,L], each sums to one
        """
        scores_pp, scores_np, scores_pn, scores_nn = self.scores(
            *multimodal_parts(pixels, words), token_valid, region_valid
        )
        alpha = (scores_pp[:, query_region] + scores_np[:, query_word]).softmax(-1)
        return alpha, (scores_pn[:, query_region] + scores_nn[:, query_word]).softmax(-1)

    def region_rows(
        self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Where every query region looks: its ``attention_row`` averaged over the valid query words.

        Returns:
            alpha [B,R,R] and beta [B,R,L], query region before key; each row sums to one
        """
        scores_pp, scores_np, scores_pn, scores_nn = self.scores(
            *multimodal_parts(pixels, words), token_valid, region_valid
        )
        alpha = word_averaged_weights(scores_pp, scores_np, token_valid)
        return alpha, word_averaged_weights(scores_pn, scores_nn, token_valid)

    def joint_attention(
        self,
        pixels: Tensor,
        words: Tensor,
        token_valid: Tensor,
        query_regions: Sequence[int],
        query_words: Sequence[int],
        region_valid: Tensor | None = None,
    ) -> Tensor:
        """The weights of Q query pairs over all words and regions: the products of their attention rows.

        Args:
            query_regions: Q times row * w + column.
            query_words: Q positions in the expression.

        Returns:
            [B,Q,L,R], each [L,R] sums to one
        """
        rows = []
        for region, word in zip(query_regions, query_words, strict=True):
            alpha, beta = self.attention_row(pixels, words, token_valid, region, word, region_valid)
            rows.append(beta[:, :, None] * alpha[:, None])
        return torch.stack(rows, 1)


def _to_words(vector: Tensor, words: Tensor) -> Tensor:
    """The same vector [B,C] for every word, [B,L,C]."""
    return vector[:, None].expand(-1, words.shape[1], -1)


@dataclass(frozen=True)
class ConcatenationMeanConfig(CrossModalConfig):
    """The control without attention; it has nothing to choose."""

    def build(self, visual_channels: int, word_channels: int) -> ConcatenationMean:
        return ConcatenationMean(visual_channels, word_channels, self)


class ConcatenationMean(nn.Module):
    """The control without attention: the mean over the words of f_pn, Eq. 4 with the W_o path left out.

    Args:
        visual_channels: Cv.
        word_channels: Cl.
        config: empty.
    """

    def __init__(self, visual_channels: int, word_channels: int, config: ConcatenationMeanConfig):
        super().__init__()
        self.channels = visual_channels + word_channels + SPATIAL_CHANNELS

    def forward(self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None = None) -> Tensor:
        """As ``CrossModalSelfAttention.forward``; ``region_valid`` plays no part."""
        fused = mean_multimodal_feature(pixels, words, token_valid)
        return fused.transpose(1, 2).unflatten(2, pixels.shape[-2:])

    def word_maps(self, *args, **kwargs) -> Tensor:
        """There are none.

        Raises:
            RefsegError: always.
        """
        raise RefsegError("ConcatenationMean has no attention and so no word maps: use a model with CMSAConfig.")

    def attention_row(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """There is none.

        Raises:
            RefsegError: always.
        """
        raise RefsegError("ConcatenationMean has no attention and so no attention row: use a model with CMSAConfig.")

    def region_rows(self, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """There are none.

        Raises:
            RefsegError: always.
        """
        raise RefsegError("ConcatenationMean has no attention and so no attention rows: use a model with CMSAConfig.")

    def joint_attention(self, *args, **kwargs) -> Tensor:
        """There is none.

        Raises:
            RefsegError: always.
        """
        raise RefsegError("ConcatenationMean has no attention and so no weights: use a model with CMSAConfig.")
