"""Cross-modal self-attention: every word-region pair attends to every other (Ye et al., CVPR 2019, Sec. 3.1-3.2).

For region p and word n the multimodal feature is f_pn = [v_p/|v_p| ; e_n/|e_n| ; s_p] (Eq. 1): visual feature, word
feature, spatial coordinates. With q = W_q f, k = W_k f, g = W_v f, one softmax over all word-region pairs gives
the attended value, and the module returns the mean over the words of W_o attended + f (Eq. 2-4).

At 40x40 regions and 20 words the softmax has 32,000 keys for each of 32,000 queries. But W f is a sum of a part that
knows only the region and a part that knows only the word, so the softmax is a product and the same numbers
cost one ordinary attention over regions: ``factorised_attention``. ``literal_attention`` is the equation as written;
the tests hold the two together. As far as we know the factorisation is new.

What we decided where the paper is silent: padded words and regions are masked; biases sit where they can act (a bias
of the keys shifts all scores of a query alike, a bias of the values is a second bias of W_o); Xavier initialisation
as in the release. The paper has no 1/sqrt(d); ``scale`` is there to try it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.attention import (
    SPATIAL_CHANNELS,
    l2_normalize,
    masked_mean,
    masked_softmax,
    spatial_coordinates,
)


@dataclass
class CMSAConfig:
    """Width of queries, keys and values, and a factor on the scores (the paper: 512 and none)."""

    dim: int = 512
    scale: float = 1.0


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
    v, e, s = multimodal_parts(pixels, words)
    B, R = v.shape[:2]
    e_mean = masked_mean(e, token_valid[..., None], dim=1)
    return torch.cat([v, e_mean[:, None].expand(B, R, -1), s.expand(B, R, -1)], dim=-1)


def project_parts(linear: nn.Linear, v: Tensor, e: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """W f_pn = position part + word part: the columns of one weight, [B,R,d] and [B,L,d].

    The bias goes with the position part.
    """
    W_v, W_e, W_s = linear.weight.split([v.shape[-1], e.shape[-1], s.shape[-1]], dim=1)
    return F.linear(v, W_v, linear.bias) + F.linear(s, W_s), F.linear(e, W_e)


def word_averaged_weights(scores: Tensor, word_scores: Tensor, word_weights: Tensor) -> Tensor:
    """sum_n word_weights[n] softmax_p'(scores[p,p'] + word_scores[n,p']), one query word after the other.

    Args:
        scores: [B,R,R], query region by key region, -inf where the key is padding.
        word_scores: [B,L,R], query word by key region.
        word_weights: [B,L], what each query word counts, zero for padding.

    Returns:
        [B,R,R]
    """
    averaged = torch.zeros_like(scores)
    for n in range(word_scores.shape[1]):
        weights = (scores + word_scores[:, n, None]).softmax(-1)
        averaged = averaged + word_weights[:, n, None, None] * weights
    return averaged


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
        attended = self.factorised(pixels, words, token_valid, region_valid)
        fused = self.out(attended) + mean_multimodal_feature(pixels, words, token_valid)
        return fused.transpose(1, 2).unflatten(2, pixels.shape[-2:])

    def factorised(self, pixels: Tensor, words: Tensor, token_valid: Tensor, region_valid: Tensor | None) -> Tensor:
        """The attended value averaged over the query words, [B,R,d]: sums over regions and over words apart."""
        parts = multimodal_parts(pixels, words)
        value_p, value_n = project_parts(self.value, *parts)
        scores_pp, scores_np, scores_pn, scores_nn = self.scores(*parts, region_valid)
        word_weights = token_valid / token_valid.sum(1, keepdim=True).clamp(min=1)
        alpha = word_averaged_weights(scores_pp, scores_np, word_weights.to(pixels.dtype))
        beta = masked_softmax(scores_pn[:, None] + scores_nn[:, :, None], token_valid[:, None, None])
        return alpha @ value_p + masked_mean(beta, token_valid[:, :, None, None], dim=1) @ value_n

    def scores(
        self, v: Tensor, e: Tensor, s: Tensor, region_valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four score matrices whose sum is the score of a pair of pairs, named query before key.

        Returns:
            pp [B,R,R], np [B,L,R], pn [B,R,L], nn [B,L,L]; pp is -inf at padded key regions
        """
        query_p, query_n = project_parts(self.query, v, e, s)
        key_p, key_n = project_parts(self.key, v, e, s)
        query_p, query_n = self.scale * query_p, self.scale * query_n
        pp = query_p @ key_p.mT
        if region_valid is not None:
            pp = pp.masked_fill(~region_valid.flatten(1)[:, None], float("-inf"))
        return pp, query_n @ key_p.mT, query_p @ key_n.mT, query_n @ key_n.mT

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
        pp, np, _, _ = self.scores(*multimodal_parts(pixels, words), region_valid)
        maps = []
        for n in range(words.shape[1]):
            alpha = (pp + np[:, n, None]).softmax(-1)
            queries = torch.ones_like(alpha[..., :1], dtype=torch.bool)
            queries = queries if region_valid is None else region_valid.flatten(1)[..., None]
            maps.append(masked_mean(alpha, queries, dim=1))
        return (torch.stack(maps, 1) * token_valid[..., None]).unflatten(2, pixels.shape[-2:])

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
        pp, np, pn, nn_ = self.scores(*multimodal_parts(pixels, words), region_valid)
        alpha = (pp[:, query_region] + np[:, query_word]).softmax(-1)
        return alpha, masked_softmax(pn[:, query_region] + nn_[:, query_word], token_valid)


@dataclass
class ConcatenationMeanConfig:
    """The control without attention; it has nothing to choose."""


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


CROSS_MODAL = {CMSAConfig: CrossModalSelfAttention, ConcatenationMeanConfig: ConcatenationMean}
