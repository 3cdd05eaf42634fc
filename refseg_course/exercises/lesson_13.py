"""Lesson 13, AlignFormer: two softmaxes of one matrix, the contrastive loss, and the area under the curve."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from refseg.evaluation.metrics import area_under_curve
from refseg.models.blocks.attention import l2_normalize
from refseg.models.blocks.vlba import regions_of_words, words_of_regions
from refseg.objectives.losses import contrastive_loss
from refseg_course.exercises import Exercise, numbers

# ------------------------------------------------------------------------------------------ one matrix, read two ways

B, R, L = 2, 5, 3


def directions_cases() -> list[tuple]:
    """scores [B,R,L], token_valid [B,L], region_valid [B,R]; the second sample has padding on both sides."""
    token_valid, region_valid = torch.ones(B, L, dtype=torch.bool), torch.ones(B, R, dtype=torch.bool)
    token_valid[1, 2], region_valid[1, 3:] = False, False
    scores = 2 * numbers(B, R, L, seed=5)
    return [(scores, token_valid, region_valid), (scores[:1], token_valid[:1], region_valid[:1])]


def _right_directions(scores: Tensor, token_valid: Tensor, region_valid: Tensor) -> tuple[Tensor, Tensor]:
    """What each region reads of the words [B,R,L], and where each word looks [B,L,R]."""
    scores = scores[:, None]  # one head
    return words_of_regions(scores, token_valid)[:, 0], regions_of_words(scores, region_valid)[:, 0]


def _of_what_is_real(answer: Callable, scores: Tensor, token_valid: Tensor, region_valid: Tensor) -> list:
    """Rows of padded regions and words have no meaning; only the others are compared."""
    found = answer(scores, token_valid, region_valid)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        return found
    rows = (region_valid[..., None], token_valid[..., None])
    return [x * real if x.shape[:2] == real.shape[:2] else x for x, real in zip(found, rows)]


def _exchanged(scores, token_valid, region_valid):
    return tuple(reversed(_right_directions(scores, token_valid, region_valid)))


def _along_the_words_twice(scores, token_valid, region_valid):
    reads, _ = _right_directions(scores, token_valid, region_valid)
    return reads, reads.mT


def _along_the_regions_twice(scores, token_valid, region_valid):
    _, looks = _right_directions(scores, token_valid, region_valid)
    return looks.mT, looks


def _axes_exchanged(scores, token_valid, region_valid):
    reads, looks = _right_directions(scores, token_valid, region_valid)
    return looks.mT, reads.mT


def _not_transposed(scores, token_valid, region_valid):
    reads, looks = _right_directions(scores, token_valid, region_valid)
    return reads, looks.mT


def _padding_counted(scores, token_valid, region_valid):
    return _right_directions(scores, torch.ones_like(token_valid), torch.ones_like(region_valid))


def _padded_words_counted(scores, token_valid, region_valid):
    return _right_directions(scores, torch.ones_like(token_valid), region_valid)


def _padded_regions_counted(scores, token_valid, region_valid):
    return _right_directions(scores, token_valid, torch.ones_like(region_valid))


def _padding_afterwards(scores, token_valid, region_valid):
    reads, looks = _padding_counted(scores, token_valid, region_valid)
    return reads * token_valid[:, None], looks * region_valid[:, None]


def _made_of_the_first(scores, token_valid, region_valid):
    reads, _ = _right_directions(scores, token_valid, region_valid)
    of_word = reads.mT * region_valid[:, None]
    return reads, of_word / of_word.sum(-1, keepdim=True).clamp(min=1e-9)


def _one_softmax(scores, token_valid, region_valid):
    real = region_valid[..., None] & token_valid[:, None]
    both = scores.masked_fill(~real, -1e9).flatten(1).softmax(-1).view(scores.shape) * real
    return both, both.mT


directions = Exercise(
    title="One matrix, read two ways",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_right_directions,
    cases=directions_cases,
    probe=_of_what_is_real,
    mistakes=[
        (_exchanged, "Both are there, but in the wrong order: what regions read comes first."),
        (
            _along_the_words_twice,
            "The second is the first, transposed: it sums to one over the words. A word that looks distributes "
            "its weight over the regions.",
        ),
        (
            _along_the_regions_twice,
            "The first is the second, transposed: it sums to one over the regions. A region that reads "
            "distributes its weight over the words.",
        ),
        (_axes_exchanged, "Both softmaxes run along the wrong axis. Print the sums: which of them should be one?"),
        (_not_transposed, "The second has the shape of the scores, [B,R,L]. Its rows should be words: [B,L,R]."),
        (_padding_counted, "Padding gets weight, words and regions alike."),
        (_padded_words_counted, "Regions read padded words."),
        (_padded_regions_counted, "Words look at padded regions."),
        (
            _padding_afterwards,
            "Padding has no weight, but what is left does not sum to one: it looks as if padding was removed "
            "after the softmax.",
        ),
        (
            _made_of_the_first,
            "The second looks like the first, divided by its sums over the regions. It then contains how each "
            "region distributed its weight. Start from the scores again.",
        ),
        (_one_softmax, "One softmax runs over all pairs. There should be two, each over one side only."),
    ],
    verified="both shapes, both sums, and padding of words and of regions",
)

# ----------------------------------------------------------------------------------------------- the contrastive loss


def contrast_cases() -> list[tuple]:
    """centres [B,D], referents [B,D], not of length one, and a temperature; lengths differ, one pair fits badly."""
    centres, referents = numbers(4, 6, seed=6), numbers(4, 6, seed=7)
    referents = referents + 1.5 * centres * torch.tensor([[1.0], [3.0], [0.2], [-1.0]])
    return [(centres, referents, 0.5), (centres[:2], referents[:2], 0.07), (3 * centres, referents, 0.2)]


def _logits(centres: Tensor, referents: Tensor, temperature: float) -> Tensor:
    return l2_normalize(centres) @ l2_normalize(referents).T / temperature


def _rows(logits: Tensor) -> Tensor:
    own, all_of = torch.arange(len(logits)), torch.ones_like(logits, dtype=torch.bool)
    return contrastive_loss(logits, own, all_of, torch.ones(len(logits), dtype=torch.bool))


def _right_contrast(centres: Tensor, referents: Tensor, temperature: float) -> Tensor:
    """Which referent does a centre mean, and which centre a referent: the mean of both cross-entropies."""
    logits = _logits(centres, referents, temperature)
    return (_rows(logits) + _rows(logits.T)) / 2


def _centres_only(centres, referents, temperature):
    return _rows(_logits(centres, referents, temperature))


def _referents_only(centres, referents, temperature):
    return _rows(_logits(centres, referents, temperature).T)


def _summed(centres, referents, temperature):
    return 2 * _right_contrast(centres, referents, temperature)


def _summed_over_samples(centres, referents, temperature):
    return len(centres) * _right_contrast(centres, referents, temperature)


def _raw(centres, referents, temperature):
    logits = centres @ referents.T / temperature
    return (_rows(logits) + _rows(logits.T)) / 2


def _wrong_dimension(centres, referents, temperature):
    logits = l2_normalize(centres, dim=0) @ l2_normalize(referents, dim=0).T / temperature
    return (_rows(logits) + _rows(logits.T)) / 2


def _times_the_temperature(centres, referents, temperature):
    return _right_contrast(centres, referents, 1 / temperature)


def _no_temperature(centres, referents, temperature):
    return _right_contrast(centres, referents, 1.0)


def _others_only(centres, referents, temperature):
    def rows(logits):
        others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), float("-inf"))
        return (others.logsumexp(1) - logits.diagonal()).mean()

    logits = _logits(centres, referents, temperature)
    return (rows(logits) + rows(logits.T)) / 2


def _log_of_the_mean(centres, referents, temperature):
    logits = _logits(centres, referents, temperature)
    return -sum(x.softmax(1).diagonal().mean().log() for x in (logits, logits.T)) / 2


def _pairs_only(centres, referents, temperature):
    return -_logits(centres, referents, temperature).diagonal().mean()


def _one_softmax_over_pairs(centres, referents, temperature):
    logits = _logits(centres, referents, temperature)
    return (logits.logsumexp((0, 1)) - logits.diagonal()).mean()


def _minus(centres, referents, temperature):
    return -_right_contrast(centres, referents, temperature)


contrast = Exercise(
    title="Whose centre, whose referent?",
    difficulty=3,
    importance=5,
    minutes=15,
    right=_right_contrast,
    cases=contrast_cases,
    mistakes=[
        (
            _centres_only,
            "Only the centres are asked for their referents. The referents are asked for their centres too.",
        ),
        (_referents_only, "Only the referents are asked for their centres. The centres are asked too."),
        (_summed, "It is twice as large as it should be: take the mean of both questions, not their sum."),
        (_summed_over_samples, "The samples' terms are summed. It should be their mean."),
        (_raw, "The products are not cosines: long vectors win. Normalise both sides to length one first."),
        (_wrong_dimension, "Lengths are taken over the samples, not over the channels. Which dimension is a vector?"),
        (
            _times_the_temperature,
            "The cosines are multiplied by the temperature. The colder it is, the larger they should get.",
        ),
        (_no_temperature, "The temperature plays no part."),
        (
            _others_only,
            "The right one is missing from the candidates. A softmax runs over all of them, the right one too.",
        ),
        (
            _log_of_the_mean,
            "The logarithm is taken of a mean of probabilities. It should be the mean of the logarithms.",
        ),
        (_pairs_only, "The pairs are pulled together, but nothing pushes the others away: there is no softmax."),
        (
            _one_softmax_over_pairs,
            "One softmax runs over all pairs. There should be two, along the rows and along the columns.",
        ),
        (_minus, "The sign is wrong: the loss is minus the logarithm."),
    ],
    verified="two and four samples, vectors of any length, and three temperatures",
)

# ------------------------------------------------------------------------------------------------ how pixels gather


def area_cases() -> list[tuple]:
    """values [N], positive [N] bool: with ties, in no order, more of one kind than of the other."""
    values = torch.tensor([0.9, 0.2, 0.5, 0.5, -0.3, 0.7, 0.5, 0.1, -0.8])
    positive = torch.tensor([True, False, True, False, True, False, False, True, False])
    return [(values, positive), (values[:5], positive[:5]), (10 * values - 20, positive)]


def _right_area(values: Tensor, positive: Tensor) -> float:
    """How often a positive has the higher value than a negative, ties counting half."""
    return area_under_curve(values, positive)


def _pairs(values, positive, tie):
    p, n = values[positive][:, None], values[~positive]
    return ((p > n).float() + tie * (p == n)).mean().item()


def _ties_lost(values, positive):
    return _pairs(values, positive, 0.0)


def _ties_won(values, positive):
    return _pairs(values, positive, 1.0)


def _other_way_round(values, positive):
    return 1 - _right_area(values, positive)


def _above_zero(values, positive):
    return ((values > 0) == positive).float().mean().item()


def _difference_of_means(values, positive):
    return (values[positive].mean() - values[~positive].mean()).item()


def _counted(values, positive):
    return _right_area(values, positive) * int(positive.sum()) * int((~positive).sum())


def _over_all_pairs(values, positive):
    return _counted(values, positive) / len(values) ** 2


def _in_order(values, positive):
    """Only neighbours in the list are compared."""
    p, n = values[positive], values[~positive]
    least = min(len(p), len(n))
    return (p[:least] > n[:least]).float().mean().item()


area = Exercise(
    title="How often is the right one nearer?",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_area,
    cases=area_cases,
    mistakes=[
        (
            _ties_lost,
            "A tie counts as nothing. It should count one half: then values that are all equal give chance level.",
        ),
        (_ties_won, "A tie counts as won. It should count one half: then values that are all equal give chance level."),
        (_other_way_round, "It says how often the negative has the higher value. The question is the reverse."),
        (
            _above_zero,
            "Values are compared with zero, one by one. Compare positives with negatives: then no threshold has to be "
            "chosen.",
        ),
        (
            _difference_of_means,
            "It is a difference of means. Stretched values give another number, though their order is the same.",
        ),
        (_counted, "Pairs are counted. It should be their share."),
        (
            _over_all_pairs,
            "The count is divided by too many pairs: two positives are not a pair, nor are two negatives.",
        ),
        (_in_order, "Each positive meets one negative only. Let every one meet every other."),
    ],
    verified="ties, values in any order, and stretched and shifted values",
)
