"""Lesson 04, cross-modal self-attention as the equations write it (Ye et al., CVPR 2019, Eq. 1-4).

The four together make the whole block for all word-region pairs at once. The second sample of every batch has a
padded word, and its features are not zero.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.blocks.attention import l2_normalize, masked_mean, spatial_coordinates
from refseg.models.blocks.attention import masked_softmax as _right_softmax
from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg_course.exercises import Exercise, numbers

B, L, R = 2, 3, 6
CV, CL, H, W, DIM = 4, 5, 2, 3, 7
N = L * R


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B,CV,H,W], words [B,L,CL] and token_valid [B,L]: three words, then two and padding."""
    token_valid = torch.tensor([[True, True, True], [True, True, False]])
    return numbers(B, CV, H, W, seed=1), numbers(B, L, CL, seed=2), token_valid


def lent_block(spread: float = 0.5) -> CrossModalSelfAttention:
    """The package's block with weights of standard deviation ``spread``."""
    with torch.random.fork_rng(devices=[]):  # making a block draws numbers; the student's come out as before
        block = CrossModalSelfAttention(CV, CL, CMSAConfig(dim=DIM))
    with torch.no_grad():
        for seed, parameter in enumerate(block.parameters()):
            parameter.copy_(spread * numbers(*parameter.shape, seed=seed))
    return block


# ------------------------------------------------------------------------------------------ the multimodal feature


def features_cases() -> list[tuple]:
    """A full batch, and one in which a region and the padded word are zero everywhere, as after a ReLU."""
    pixels, words, token_valid = batch()
    empty = pixels.clone()
    empty[0, :, 0, 0] = 0
    return [(pixels, words, token_valid), (empty, words * token_valid[..., None], token_valid)]


def _right_features(pixels: Tensor, words: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
    """f [B,L,R,Cv+Cl+8] and pair_valid [B,L,R]."""
    return _joined(l2_normalize(_flat(pixels)), l2_normalize(words), _coords(pixels)), _pair_valid_of(token_valid)


def _flat(pixels: Tensor) -> Tensor:
    """[B,C,h,w] -> [B,R,C]."""
    return pixels.flatten(2).mT


def _coords(pixels: Tensor) -> Tensor:
    """[R,8]."""
    return spatial_coordinates(*pixels.shape[-2:]).flatten(1).T


def _joined(v: Tensor, e: Tensor, s: Tensor) -> Tensor:
    """The parts of all pairs side by side, [B,L,R,C]."""
    shape = (B, L, R, -1)
    return torch.cat([v[:, None].expand(shape), e[:, :, None].expand(shape), s.expand(shape)], -1)


def _pair_valid_of(token_valid: Tensor) -> Tensor:
    """[B,L] -> [B,L,R]."""
    return token_valid[:, :, None].expand(B, L, R)


def _raw(pixels, words, token_valid):
    return _joined(_flat(pixels), words, _coords(pixels)), _pair_valid_of(token_valid)


def _normalised_jointly(pixels, words, token_valid):
    return F.normalize(_raw(pixels, words, token_valid)[0], dim=-1), _pair_valid_of(token_valid)


def _normalised_over_places(pixels, words, token_valid):
    return _joined(F.normalize(_flat(pixels)), F.normalize(words), _coords(pixels)), _pair_valid_of(token_valid)


def _only_reshaped(pixels, words, token_valid):
    v = l2_normalize(pixels.reshape(B, R, CV))
    return _joined(v, l2_normalize(words), _coords(pixels)), _pair_valid_of(token_valid)


def _regions_first(pixels, words, token_valid):
    f, pair_valid = _right_features(pixels, words, token_valid)
    return f.transpose(1, 2), pair_valid.mT


def _grid_turned(pixels, words, token_valid):
    return _joined(l2_normalize(_flat(pixels)), l2_normalize(words), _coords(pixels.mT)), _pair_valid_of(token_valid)


def _divided_by_zero(pixels, words, token_valid):
    v, e = (x / x.norm(dim=-1, keepdim=True) for x in (_flat(pixels), words))
    return _joined(v, e, _coords(pixels)), _pair_valid_of(token_valid)


def _every_pair_real(pixels, words, token_valid):
    f, pair_valid = _right_features(pixels, words, token_valid)
    return f, torch.ones_like(pair_valid)


def _padding_called_real(pixels, words, token_valid):
    f, pair_valid = _right_features(pixels, words, token_valid)
    return f, ~pair_valid


def _valid_mixed_up(pixels, words, token_valid):
    return _right_features(pixels, words, token_valid)[0], token_valid.repeat(1, R).view(B, L, R)


multimodal_features = Exercise(
    title="The multimodal feature",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_features,
    cases=features_cases,
    mistakes=[
        (_raw, "The features are in f as they came: nothing has length one."),
        (
            _normalised_jointly,
            "It looks as if the whole vector f was normalised to length one. Then a long word feature makes the "
            "image's part short. Which parts of Eq. 1 are divided by a length of their own?",
        ),
        (
            _normalised_over_places,
            "It looks as if the lengths run along the wrong dimension, over all regions and all words. Which "
            "dimension does your normalisation take if you name none?",
        ),
        (
            _only_reshaped,
            "The image's part mixes channels and places: it looks as if the pixels were only reshaped. The "
            "channels of one region do not lie side by side in memory.",
        ),
        (_regions_first, "The region index comes before the word index. The shape should be [B,L,R,C], words first."),
        (_grid_turned, "The coordinates belong to another grid: height and width look exchanged."),
        (
            _divided_by_zero,
            "A region or a word that is zero everywhere gives NaN: it looks as if it was divided by its own length.",
        ),
        (
            _every_pair_real,
            "Padding is counted: pair_valid marks every pair as real, and the second sample has padding.",
        ),
        (_padding_called_real, "The pairs of padding are marked as real and the others are not. True means real."),
        (_valid_mixed_up, "The wrong pairs are real: it looks as if the words run along the regions of pair_valid."),
    ],
    verified="two words or three, padding, regions and words that are zero",
)


# ------------------------------------------------------------------------------------- the softmax over real pairs


def softmax_cases() -> list[tuple]:
    """Ordinary scores, scores in the thousands, and a sample in which no pair is real."""
    scores = numbers(B, N, N, seed=3)
    pair_valid = batch()[2].repeat_interleave(R, dim=1)
    return [(scores, pair_valid), (1000 * scores, pair_valid), (scores, pair_valid & torch.tensor([[True], [False]]))]


def _softmax_of_keys(scores: Tensor, pair_valid: Tensor) -> Tensor:
    """Weights [B,N,N]: each row sums to one over the real pairs, or is zero where there is none."""
    return _right_softmax(scores, pair_valid[:, None])


def _padding_has_weight(scores, pair_valid):
    return scores.softmax(-1)


def _wrong_axis(scores, pair_valid):
    return scores.softmax(1)


def _wrong_axis_and_hidden(scores, pair_valid):
    return _right_softmax(scores, pair_valid[:, None], dim=1)


def _wrong_axis_with_infinity(scores, pair_valid):
    return _with_infinity(scores, pair_valid, dim=1)


def _wrong_axis_with_zeros(scores, pair_valid):
    return _wrong_axis_with_infinity(scores, pair_valid).nan_to_num(0)


def _hidden_afterwards(scores, pair_valid):
    return scores.softmax(-1) * pair_valid[:, None]


def _scores_of_zero(scores, pair_valid):
    return (scores * pair_valid[:, None]).softmax(-1)


def _queries_hidden(scores, pair_valid):
    return scores.softmax(-1) * pair_valid[:, :, None]


def _real_hidden(scores, pair_valid):
    return _right_softmax(scores, ~pair_valid[:, None])


def _real_hidden_with_infinity(scores, pair_valid):
    return _with_infinity(scores, ~pair_valid)


def _overflowing(scores, pair_valid):
    E = scores.exp() * pair_valid[:, None]
    return E / E.sum(-1, keepdim=True)


def _overflowing_but_for_nothing(scores, pair_valid):
    E = scores.exp() * pair_valid[:, None]
    return E / E.sum(-1, keepdim=True).clamp(min=1e-9)


def _with_infinity(scores, pair_valid, dim=-1):
    return scores.masked_fill(~pair_valid[:, None], -torch.inf).softmax(dim)


def _shared_among_padding(scores, pair_valid):
    return scores.masked_fill(~pair_valid[:, None], -1e9).softmax(-1)


_AXIS = (
    "It looks as if the softmax runs along the wrong axis: the weights of a query do not sum to one. In [B,N,N] the "
    "queries come first, then the keys."
)
_OVERFLOW = (
    "With scores in the thousands the weights are NaN: an exponential overflows. What can you subtract from all "
    "scores of a query without changing its weights?"
)
_INVERTED = "The padded pairs get the weight and the real ones none: the mask looks inverted."

masked_softmax = Exercise(
    title="One softmax over the real pairs",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_softmax_of_keys,
    cases=softmax_cases,
    mistakes=[
        (_padding_has_weight, "Padding is counted: pairs with a padded word get weight in the second sample."),
        (_wrong_axis, _AXIS),
        (_wrong_axis_and_hidden, _AXIS),
        (_wrong_axis_with_infinity, _AXIS),
        (_wrong_axis_with_zeros, _AXIS),
        (
            _hidden_afterwards,
            "Padding has no weight, but the other weights no longer sum to one: it looks as if padding was "
            "removed after the softmax.",
        ),
        (_scores_of_zero, "Padding has scores of zero before the softmax. Zero is a score like any other: exp(0) = 1."),
        (_queries_hidden, "The rows of padded queries are hidden, and the real queries still look at padding."),
        (_real_hidden, _INVERTED),
        (_real_hidden_with_infinity, _INVERTED),
        (_overflowing, _OVERFLOW),
        (_overflowing_but_for_nothing, _OVERFLOW),
        (
            _with_infinity,
            "A sample without any real pair gives NaN: a row of nothing but minus infinity has no softmax. It "
            "should give zeros there.",
        ),
        (
            _shared_among_padding,
            "In a sample without any real pair, the padding gets the weight. It should be zeros there.",
        ),
    ],
    verified="every row sums to one over the real pairs, at scores in the thousands too",
)


# ------------------------------------------------------------------------------------- value, output and mean


def fused_cases() -> list[tuple]:
    """weights [B,N,N], value [B,N,d], f [B,L,R,C], the map W_o, token_valid [B,L]."""
    pixels, words, token_valid = batch()
    f, pair_valid = _right_features(pixels, words, token_valid)
    weights = _right_softmax(numbers(B, N, N, seed=4), pair_valid.flatten(1)[:, None])
    return [(weights, numbers(B, N, DIM, seed=5), f, lent_block().out, token_valid)]


def _right_fused(weights: Tensor, value: Tensor, f: Tensor, out: nn.Linear, token_valid: Tensor) -> Tensor:
    """Eq. 2 and Eq. 4: fused [B,R,C]."""
    multimodal = out(weights @ value).unflatten(1, f.shape[1:3]) + f
    return masked_mean(multimodal, token_valid[:, :, None, None], dim=1)


def _mean_counts_padding(weights, value, f, out, token_valid):
    return (out(weights @ value).unflatten(1, f.shape[1:3]) + f).mean(1)


def _divided_by_all_words(weights, value, f, out, token_valid):
    multimodal = out(weights @ value).unflatten(1, f.shape[1:3]) + f
    return (multimodal * token_valid[:, :, None, None]).mean(1)


def _summed(weights, value, f, out, token_valid):
    return L * _divided_by_all_words(weights, value, f, out, token_valid)


def _without_f(weights, value, f, out, token_valid):
    return _right_fused(weights, value, torch.zeros_like(f), out, token_valid)


def _gathered_by_keys(weights, value, f, out, token_valid):
    return _right_fused(weights.mT, value, f, out, token_valid)


def _pairs_mixed_up(weights, value, f, out, token_valid):
    multimodal = out(weights @ value).unflatten(1, (R, L)).transpose(1, 2) + f
    return masked_mean(multimodal, token_valid[:, :, None, None], dim=1)


def _mean_over_regions(weights, value, f, out, token_valid):
    return (out(weights @ value).unflatten(1, f.shape[1:3]) + f).mean(2)


fused_feature = Exercise(
    title="From weights to one feature per region",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_fused,
    cases=fused_cases,
    mistakes=[
        (_mean_counts_padding, "Padding is counted: the padded word is one of the words whose mean is taken."),
        (
            _divided_by_all_words,
            "The sum omits the padded word, but the sample with padding is too small. What is it divided by?",
        ),
        (_summed, "The words look summed. Eq. 4 combines the words differently."),
        (_without_f, "The attended part is right, but something that Eq. 4 adds to it is missing."),
        (
            _gathered_by_keys,
            "The weights look transposed: a row belongs to one query and says what it takes from every key.",
        ),
        (_pairs_mixed_up, "Words and regions are mixed up where N is unfolded again: N counts the words first."),
        (_mean_over_regions, "It looks as if the mean runs over the regions: what is left is one feature per word."),
    ],
    verified="gathered per query, f added, the mean over the real words",
)


# ------------------------------------------------------------------------------------------------- the whole block


def block_cases() -> list[tuple]:
    """The block that lends its four maps, pixels, words, token_valid."""
    return [(lent_block(), *batch())]


def _right_literal(block: CrossModalSelfAttention, pixels: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
    """Eq. 1-4: fused [B,C,h,w]."""
    return block.literal(pixels, words, token_valid)


def _assembled(
    block, pixels, words, token_valid, features=_right_features, softmax=_softmax_of_keys, fused=_right_fused
):
    """The same out of the parts of the three exercises before; mistakes exchange a part."""
    f, pair_valid = features(pixels, words, token_valid)
    query, key, value = (linear(f).flatten(1, 2) for linear in (block.query, block.key, block.value))
    weights = softmax(query @ key.mT, pair_valid.flatten(1))
    return fused(weights, value, f, block.out, token_valid).mT.unflatten(2, pixels.shape[-2:])


def _divided_by_the_root(scores, pair_valid):
    return _softmax_of_keys(scores / DIM**0.5, pair_valid)


def _exchanged(scores, pair_valid):
    return _softmax_of_keys(scores.mT, pair_valid)


def _no_word_padded(block, pixels, words, token_valid):
    return _right_literal(block, pixels, words, torch.ones_like(token_valid))


def _channels_reshaped(block, pixels, words, token_valid):
    fused = _right_literal(block, pixels, words, token_valid)
    return fused.flatten(2).mT.reshape(fused.shape)


def _channels_last(block, pixels, words, token_valid):
    return _right_literal(block, pixels, words, token_valid).movedim(1, -1)


def _not_a_grid(block, pixels, words, token_valid):
    return _right_literal(block, pixels, words, token_valid).flatten(2).mT


_GRID = "The numbers are right, but they do not lie on the grid. The shape should be [B,C,h,w]."

literal_cmsa = Exercise(
    title="CMSA as it is written",
    difficulty=3,
    importance=5,
    minutes=15,
    right=_right_literal,
    cases=block_cases,
    mistakes=[
        (
            partial(_assembled, softmax=_divided_by_the_root),
            "The scores look divided by the square root of their width. Attention usually does that, Eq. 3 does not.",
        ),
        (
            partial(_assembled, softmax=_exchanged),
            "Query and key look exchanged: a row of the scores belongs to one query.",
        ),
        (partial(_assembled, softmax=_wrong_axis_and_hidden), _AXIS),
        (_no_word_padded, "Padding is counted everywhere, in the softmax and in the mean."),
        (
            partial(_assembled, softmax=_padding_has_weight),
            "Padding is counted in the softmax: it gets weight as a key.",
        ),
        (partial(_assembled, fused=_mean_counts_padding), "Padding is counted in the mean over the words."),
        (partial(_assembled, fused=_without_f), "The attended part is right, but f is not added."),
        (
            partial(_assembled, features=_normalised_jointly),
            "It looks as if the whole vector f was normalised to length one, not its parts.",
        ),
        (
            _channels_reshaped,
            "Channels and regions are mixed: it looks as if [B,R,C] was only reshaped to [B,C,h,w].",
        ),
        (_channels_last, _GRID),
        (_not_a_grid, _GRID),
    ],
    verified="the same numbers as CrossModalSelfAttention.literal with the same weights",
)
