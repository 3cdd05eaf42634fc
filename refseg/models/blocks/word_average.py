"""The softmax over keys whose scores are a sum of a part of the query region and one of the query word, averaged over
the query words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMALLEST_SUM = 1e-15  # its square is still far from the end of float32, and the gradient divides by the square


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
