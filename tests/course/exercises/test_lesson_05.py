"""Answers as students write them; and the last check holds an answer against the equation as it is written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from refseg.models.blocks.attention import spatial_coordinates
from refseg_course.exercises import ExerciseError, compare
from refseg_course.exercises import lesson_05 as check


def alpha_beta(query_p, query_n, key_p, key_n, token_valid):
    query = query_p.unsqueeze(1) + query_n.unsqueeze(2)
    alpha = F.softmax(torch.einsum("bnpd,bkd->bnpk", query, key_p), dim=3)
    scores = torch.einsum("bnpd,bkd->bnpk", query, key_n).masked_fill(~token_valid[:, None, None], -1e9)
    return alpha, F.softmax(scores, dim=3)


def word_averaged(scores, word_scores, token_valid):
    total = 0
    for n in range(word_scores.shape[1]):
        total = total + token_valid[:, n, None, None] * (scores + word_scores[:, n : n + 1]).softmax(-1)
    return total / token_valid.sum(1)[:, None, None]


def product(scores, word_scores, token_valid):
    E = torch.exp(scores - scores.max(dim=2, keepdim=True).values)
    F_ = torch.exp(word_scores - word_scores.max(dim=2, keepdim=True).values)
    W = token_valid[:, None].float() / torch.einsum("bpk,bnk->bpn", E, F_)
    return E * torch.einsum("bpn,bnk->bpk", W, F_) / token_valid.sum(1)[:, None, None]


class MyCMSA(nn.Module):
    """Written from scratch, softmax by softmax."""

    def __init__(self, visual_channels, word_channels, dim):
        super().__init__()
        self.sizes = [visual_channels, word_channels, 8]
        self.query = nn.Linear(sum(self.sizes), dim)
        self.key = nn.Linear(sum(self.sizes), dim, bias=False)
        self.value = nn.Linear(sum(self.sizes), dim, bias=False)
        self.out = nn.Linear(dim, sum(self.sizes))

    def parts(self, linear, v, e, s):
        W_v, W_e, W_s = linear.weight.split(self.sizes, dim=1)
        bias = 0 if linear.bias is None else linear.bias
        return v @ W_v.T + s @ W_s.T + bias, e @ W_e.T

    def forward(self, pixels, words, token_valid):
        B, _, h, w = pixels.shape
        v, e = F.normalize(pixels.flatten(2).mT, dim=-1), F.normalize(words, dim=-1)
        s = spatial_coordinates(h, w, dtype=pixels.dtype).flatten(1).T.expand(B, h * w, 8)
        (q_p, q_n), (k_p, k_n), (g_p, g_n) = (self.parts(x, v, e, s) for x in (self.query, self.key, self.value))
        hidden = torch.zeros(token_valid.shape, dtype=v.dtype).masked_fill(~token_valid, -1e30)[:, None]
        alpha = word_averaged(q_p @ k_p.mT, q_n @ k_p.mT, token_valid)
        beta = word_averaged(q_p @ k_n.mT + hidden, q_n @ k_n.mT, token_valid)
        e_mean = (e * token_valid[..., None]).sum(1, keepdim=True) / token_valid.sum(1)[:, None, None]
        fused = self.out(alpha @ g_p + beta @ g_n) + torch.cat([v, e_mean.expand(B, h * w, -1), s], -1)
        return fused.mT.reshape(B, -1, h, w)


def test_answers_of_students_pass(capsys):
    check.alpha_beta(alpha_beta)
    check.word_averaged(word_averaged)
    check.product_weights(product)
    check.cmsa(MyCMSA)
    assert capsys.readouterr().out.count("OK") == 4


def test_the_right_block_is_the_equation_as_written():
    """So whoever passes the last check equals the literal form in value and gradients, underflow included."""
    for case in check.block_cases():
        fast, literal = (check.trial(kind, *case) for kind in (check._RightCMSA, check._Literal))
        assert fast.pop("no matrix of all pairs") and not literal.pop("no matrix of all pairs")
        assert compare(fast, literal, tolerance=1e-7) == ""
        assert all(gradient.abs().max() > 0 for gradient in literal["gradients"].values())


def test_the_large_scores_do_underflow():
    """Else the check would pass an answer without a guard."""
    pixels, words, valid, spread = check.block_cases()[1]
    assert check.trial(check._Unguarded, pixels, words, valid, spread)["fused"].isnan().any()


def test_other_parameters_are_told_by_name():
    class Short(MyCMSA):
        def __init__(self, visual_channels, word_channels, dim):
            super().__init__(visual_channels, word_channels, dim)
            self.key = nn.Linear(sum(self.sizes), dim)

    with pytest.raises(ExerciseError, match="key.bias"):
        check.cmsa(Short)


def test_exponentials_are_counted():
    with check.CountExponentials() as counter:
        torch.zeros(3, 5).exp()
        torch.zeros(7).softmax(0)
        torch.zeros(11).add(1)
    assert counter.count == 22
