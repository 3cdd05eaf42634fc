"""Lesson 05, the same numbers faster: the joint softmax as a product, and what is left of it after the mean over words.

The last exercise is a whole CMSA of the student's own. Its check copies the weights of the package's block into it and
compares values and every gradient, also where exponentials underflow, and looks at the largest tensor it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from refseg.models.blocks.attention import masked_mean
from refseg.models.blocks.attention import masked_softmax as _right_softmax
from refseg.models.blocks.cmsa import CMSAConfig, CrossModalSelfAttention
from refseg.models.blocks.cross_modal import mean_multimodal_feature, multimodal_parts, project_parts
from refseg.models.blocks.word_average import word_averaged_weights, word_by_word_weights
from refseg_course.exercises import Exercise, numbers
from refseg_course.exercises.properties import copy_weights, gradients

B, L, DIM = 2, 3, 5
CV, CL, H, W = 4, 6, 2, 4  # edges at halves and quarters: coordinates made in float32 are exact in float64 too
R = H * W
TOKEN_VALID = torch.tensor([[True, True, True], [True, True, False]])

# ------------------------------------------------------------------------------------------ the product of softmaxes


def parts_cases() -> list[tuple]:
    """query_p [B,R,d], query_n [B,L,d], key_p [B,R,d], key_n [B,L,d], token_valid [B,L]."""
    return [(*(numbers(B, n, DIM, seed=seed) for seed, n in enumerate((R, L, R, L))), TOKEN_VALID)]


def _right_alpha_beta(
    query_p: Tensor, query_n: Tensor, key_p: Tensor, key_n: Tensor, token_valid: Tensor
) -> tuple[Tensor, Tensor]:
    """alpha [B,L,R,R] and beta [B,L,R,L]: query word, query region, key."""
    query = query_n[:, :, None] + query_p[:, None]
    alpha = (query @ key_p.mT[:, None]).softmax(-1)
    return alpha, _right_softmax(query @ key_n.mT[:, None], token_valid[:, None, None])


def _padding_in_beta(query_p, query_n, key_p, key_n, token_valid):
    return _right_alpha_beta(query_p, query_n, key_p, key_n, torch.ones_like(token_valid))


def _beta_hidden_afterwards(query_p, query_n, key_p, key_n, token_valid):
    alpha, beta = _padding_in_beta(query_p, query_n, key_p, key_n, token_valid)
    return alpha, beta * token_valid[:, None, None]


def _over_queries(query_p, query_n, key_p, key_n, token_valid):
    query = query_n[:, :, None] + query_p[:, None]
    beta = _right_softmax(query @ key_n.mT[:, None], token_valid[:, None, None])
    return (query @ key_p.mT[:, None]).softmax(-2), beta


def _both_over_queries(query_p, query_n, key_p, key_n, token_valid):
    query = query_n[:, :, None] + query_p[:, None]
    beta = (query @ key_n.mT[:, None]).softmax(-2) * token_valid[:, None, None]
    return (query @ key_p.mT[:, None]).softmax(-2), beta


def _without_query_word(query_p, query_n, key_p, key_n, token_valid):
    return _right_alpha_beta(query_p, torch.zeros_like(query_n), key_p, key_n, token_valid)


def _own_kind_only(query_p, query_n, key_p, key_n, token_valid):
    alpha, _ = _without_query_word(query_p, query_n, key_p, key_n, token_valid)
    _, beta = _right_alpha_beta(torch.zeros_like(query_p), query_n, key_p, key_n, token_valid)
    return alpha, beta


def _key_asks(query_p, query_n, key_p, key_n, token_valid):
    return _right_alpha_beta(key_p, key_n, query_p, query_n, token_valid)


def _region_before_word(query_p, query_n, key_p, key_n, token_valid):
    return tuple(x.transpose(1, 2) for x in _right_alpha_beta(query_p, query_n, key_p, key_n, token_valid))


alpha_beta = Exercise(
    title="Alpha and beta",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_alpha_beta,
    cases=parts_cases,
    mistakes=[
        (_padding_in_beta, "Padding is counted: beta gives weight to the padded word of the second sample."),
        (
            _beta_hidden_afterwards,
            "Beta does not sum to one where there is padding: the padding was removed after the softmax.",
        ),
        (_over_queries, "The rows of alpha do not sum to one: it looks as if the softmax runs over the query regions."),
        (
            _both_over_queries,
            "No row of alpha or beta sums to one: it looks as if the softmax runs over the query regions.",
        ),
        (_without_query_word, "All query words look at the same places: the word's part of the query is missing."),
        (
            _own_kind_only,
            "Regions ask only regions, and words ask only words. The query is a pair: both of its parts meet "
            "every key.",
        ),
        (_key_asks, "Query and key look exchanged: the rows belong to the queries."),
        (
            _region_before_word,
            "The query region comes before the query word. The shape should be [B,L,R,...], words first.",
        ),
    ],
    verified="every row sums to one, and padding has no weight",
)

# ------------------------------------------------------------------------------------ the mean over the query words


def scores_cases() -> list[tuple]:
    """scores [B,R,R], word_scores [B,L,R], token_valid; then rows and words each raised by a constant of its own.

    A constant per row changes no weight; exponentials of 1000 overflow, those of -1000 are zero.
    """
    scores, word_scores = numbers(B, R, R, seed=6), numbers(B, L, R, seed=7)
    raised = scores + torch.linspace(-1000, 1000, R)[:, None]
    return [(scores, word_scores, TOKEN_VALID), (raised, word_scores + 500, TOKEN_VALID)]


def _word_by_word(scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> Tensor:
    """One softmax per query word, then the mean over the real words: [B,R,K]."""
    weights = (scores[:, None] + word_scores[:, :, None]).softmax(-1)
    return masked_mean(weights, token_valid[:, :, None, None], dim=1)


def _mean_before_softmax(scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> Tensor:
    """A mistake: one softmax of the mean score."""
    return (scores + masked_mean(word_scores, token_valid[..., None], dim=1)[:, None]).softmax(-1)


def _mean_before_softmax_with_padding(scores, word_scores, token_valid):
    return (scores + word_scores.mean(1, keepdim=True)).softmax(-1)


def _mean_with_padding(scores, word_scores, token_valid):
    return _word_by_word(scores, word_scores, torch.ones_like(token_valid))


def _divided_by_all_words(scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> Tensor:
    """A mistake: the sum over the real words, divided by the number of all."""
    return _word_by_word(scores, word_scores, token_valid) * token_valid.float().mean(1)[:, None, None]


def _summed(scores, word_scores, token_valid):
    return _word_by_word(scores, word_scores, token_valid) * token_valid.sum(1)[:, None, None]


def _softmax_over_queries(scores, word_scores, token_valid):
    weights = (scores[:, None] + word_scores[:, :, None]).softmax(-2)
    return masked_mean(weights, token_valid[:, :, None, None], dim=1)


def _softmax_over_words(scores, word_scores, token_valid):
    weights = _right_softmax(scores[:, None] + word_scores[:, :, None], token_valid[:, :, None, None], dim=1)
    return masked_mean(weights, token_valid[:, :, None, None], dim=1)


def _softmaxes_multiplied(scores, word_scores, token_valid):
    return scores.softmax(-1) * masked_mean(word_scores.softmax(-1), token_valid[..., None], dim=1)[:, None]


def _softmaxes_added(scores, word_scores, token_valid):
    return (scores.softmax(-1) + masked_mean(word_scores.softmax(-1), token_valid[..., None], dim=1)[:, None]) / 2


_MEAN_FIRST = (
    "It looks as if the mean comes before the softmax. The softmax of a mean is not the mean of the softmaxes."
)
_PADDING = "Padding is counted: the padded word is one of the query words whose mean is taken."
_ALL_WORDS = "The rows of the sample with padding sum to less than one. What is the sum over the words divided by?"

word_averaged = Exercise(
    title="Weights averaged over the query words",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_word_by_word,
    cases=scores_cases,
    mistakes=[
        (_mean_before_softmax, _MEAN_FIRST),
        (_mean_before_softmax_with_padding, _MEAN_FIRST),
        (_mean_with_padding, _PADDING),
        (_divided_by_all_words, _ALL_WORDS),
        (_summed, "The weights of the words are summed: a row sums to the number of words."),
        (_softmax_over_queries, "It looks as if the softmax runs over the query regions, not over the keys."),
        (_softmax_over_words, "It looks as if the softmax runs over the query words, not over the keys."),
        (_softmaxes_multiplied, "Two softmaxes are multiplied. Their product is right only after one more division."),
        (
            _softmaxes_added,
            "Two softmaxes are averaged. It is the scores that are added, and there is one softmax per word.",
        ),
    ],
    verified="one softmax per word, the mean over the real words",
)

# ----------------------------------------------------------------------------------------------- the rank-N form


class CountExponentials(TorchDispatchMode):
    """How many numbers an exponential or a softmax made while this is on."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run ``function`` and count."""
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__.strip("_") in ("exp", "exp2", "expm1", "softmax", "log_softmax", "pow"):
            self.count += result.numel()
        return result


def weights_and_cost(student: Callable, scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> dict[str, Any]:
    """What ``student`` returns, and whether it made do with one exponential per number of its arguments."""
    with CountExponentials() as exponentials:
        weights = student(scores, word_scores, token_valid)
    return {"weights": weights, "few exponentials": exponentials.count <= scores.numel() + word_scores.numel()}


def _product_of(scores: Tensor, word_scores: Tensor, token_valid: Tensor) -> Tensor:
    """Step 6 without a guard: E * ((1 / (n Z)) F), Z = E F^T."""
    return _assembled(*_exponentials(scores, word_scores), token_valid)


def _exponentials(scores: Tensor, word_scores: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    return (scores - scores.amax(dim, keepdim=True)).exp(), (word_scores - word_scores.amax(-1, keepdim=True)).exp()


def _assembled(E: Tensor, F: Tensor, token_valid: Tensor) -> Tensor:
    shares = token_valid / token_valid.sum(1, keepdim=True)
    return E * ((shares[:, None] / (E @ F.mT)) @ F)


def _without_maximum(scores, word_scores, token_valid):
    return _assembled(scores.exp(), word_scores.exp(), token_valid)


def _one_maximum(scores, word_scores, token_valid):
    return _assembled((scores - scores.max()).exp(), (word_scores - word_scores.max()).exp(), token_valid)


def _maximum_of_columns(scores, word_scores, token_valid):
    return _assembled(*_exponentials(scores, word_scores, dim=-2), token_valid)


def _product_with_padding(scores, word_scores, token_valid):
    return _product_of(scores, word_scores, torch.ones_like(token_valid))


def _product_divided_by_all_words(scores, word_scores, token_valid):
    return _product_of(scores, word_scores, token_valid) * token_valid.float().mean(1)[:, None, None]


def _normalised_at_the_end(scores, word_scores, token_valid):
    E, F = _exponentials(scores, word_scores)
    A = E * masked_mean(F, token_valid[..., None], dim=1)[:, None]
    return A / A.sum(-1, keepdim=True)


def _never_normalised(scores, word_scores, token_valid):
    E, F = _exponentials(scores, word_scores)
    return E * masked_mean(F, token_valid[..., None], dim=1)[:, None]


product_weights = Exercise(
    title="The rank-N form",
    difficulty=4,
    importance=4,
    minutes=15,
    right=_product_of,
    cases=scores_cases,
    probe=weights_and_cost,
    mistakes=[
        (
            _without_maximum,
            "Large scores give NaN: it looks as if the exponential is taken of the scores as they are.",
        ),
        (
            _one_maximum,
            "Where the rows are far apart the weights are NaN: one maximum for all of them leaves some rows with "
            "zeros only.",
        ),
        (
            _maximum_of_columns,
            "It looks as if the maximum was taken along the wrong dimension. What is subtracted cancels only if it is "
            "the same for all keys of a query.",
        ),
        (_mean_before_softmax, _MEAN_FIRST),
        (_product_with_padding, _PADDING),
        (_product_divided_by_all_words, _ALL_WORDS),
        (
            _normalised_at_the_end,
            "The rows sum to one, but every word has to be divided by its own sum before the words are averaged.",
        ),
        (_never_normalised, "The rows do not sum to one: the division by the sum of exponentials is missing."),
        (
            _word_by_word,
            "The numbers are right, but the exponentials are computed again for every query word. How many are "
            "needed if the exponential of a sum is written as a product?",
        ),
    ],
    verified="the mean of the softmaxes, with one exponential per score",
)

# --------------------------------------------------------------------------------------------- a CMSA of one's own


class LargestTensor(TorchDispatchMode):
    """How many numbers the largest tensor holds that is made while this is on."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run ``function`` and look at its result."""
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numbers = max(self.numbers, result.numel())
        return result


def block_cases() -> list[tuple]:
    """Pixels, words and validity, and the spread of the weights: ordinary scores, then scores in the thousands."""
    pixels, words = numbers(B, CV, H, W, seed=8).double(), numbers(B, L, CL, seed=9).double()
    return [(pixels, words, TOKEN_VALID, 0.7), (pixels, words, TOKEN_VALID, 30.0)]


def trial(student: Callable[..., nn.Module], pixels: Tensor, words: Tensor, valid: Tensor, spread: float) -> dict:
    """Value, gradients and largest tensor of ``student(CV, CL, DIM)`` with the weights of the package's block.

    Returns:
        fused [B,Cv+Cl+8,h,w]; for the pixels, the words and every weight the gradient of one random projection of it;
        and whether no tensor was as large as all pairs of one sample by all pairs

    Raises:
        ValueError: the module's parameters have other names or shapes.
    """
    with torch.random.fork_rng(devices=[]):  # making modules draws numbers; the student's come out as before
        model, lender = student(CV, CL, DIM).double(), CrossModalSelfAttention(CV, CL, CMSAConfig(DIM)).double()
    with torch.no_grad():
        for seed, parameter in enumerate(lender.parameters()):
            parameter.copy_(spread * numbers(*parameter.shape, seed=20 + seed))
    copy_weights(lender, model)
    pixels, words = pixels.requires_grad_(), words.requires_grad_()
    with LargestTensor() as largest:
        fused = model(pixels, words, valid)
    if not isinstance(fused, Tensor) or fused.shape != (B, lender.channels, H, W):
        return {"fused": fused, "gradients": {}, "no matrix of all pairs": True}
    leaves = {"pixels": pixels, "words": words} | dict(model.named_parameters())
    return {
        "fused": fused,
        "gradients": gradients(fused, leaves),
        "no matrix of all pairs": largest.numbers < (L * R) ** 2,
    }


class _RightCMSA(CrossModalSelfAttention):
    """The package's block, made as a student's is."""

    def __init__(self, visual_channels: int, word_channels: int, dim: int):
        super().__init__(visual_channels, word_channels, CMSAConfig(dim))


class _Literal(_RightCMSA):
    """The equation as written: right, and too large."""

    def forward(self, pixels: Tensor, words: Tensor, token_valid: Tensor) -> Tensor:
        """Eq. 1-4 for all pairs."""
        return self.literal(pixels, words, token_valid)


class _Averaged(_RightCMSA):
    average = staticmethod(word_averaged_weights)

    def factorised(self, v, e, s, token_valid, region_valid=None, kept=None):
        value_p, value_n = project_parts(self.value, v, e, s)
        scores_pp, scores_np, scores_pn, scores_nn = self.scores(v, e, s, token_valid, None)
        alpha = self.average(scores_pp, scores_np, token_valid)
        return alpha @ value_p + self.average(scores_pn, scores_nn, token_valid) @ value_n


class _Unguarded(_Averaged):
    average = staticmethod(_product_of)


def _clamped_product(scores, word_scores, token_valid):
    E, F = _exponentials(scores, word_scores)
    shares = token_valid / token_valid.sum(1, keepdim=True)
    return E * ((shares[:, None] / (E @ F.mT).clamp(min=1e-15)) @ F)


class _Clamped(_Averaged):
    average = staticmethod(_clamped_product)


class _MeanFirst(_Averaged):
    average = staticmethod(_mean_before_softmax)


class _DividedByAllWords(_Averaged):
    average = staticmethod(_divided_by_all_words)


class _MeanWithPadding(_Averaged):
    average = staticmethod(_mean_with_padding)


class _NoPadding(_RightCMSA):
    def forward(self, pixels, words, token_valid):
        return super().forward(pixels, words, torch.ones_like(token_valid))


class _WithoutF(_RightCMSA):
    def forward(self, pixels, words, token_valid):
        return self.out(self.factorised(*multimodal_parts(pixels, words), token_valid, None)).mT.unflatten(
            2, pixels.shape[-2:]
        )


class _Reshaped(_RightCMSA):
    def forward(self, pixels, words, token_valid):
        attended = self.factorised(*multimodal_parts(pixels, words), token_valid, None)
        fused = self.out(attended) + mean_multimodal_feature(pixels, words, token_valid)
        return fused.reshape(len(fused), -1, *pixels.shape[-2:])


class _Scaled(_RightCMSA):
    def __init__(self, visual_channels, word_channels, dim):
        super().__init__(visual_channels, word_channels, dim)
        self.scale = dim**-0.5


class _Exchanged(_RightCMSA):
    def scores(self, *args):
        query, key = self.query, self.key
        self.query, self.key = key, query
        found = super().scores(*args)
        self.query, self.key = query, key
        return found


class _Detached(_Averaged):
    @staticmethod
    def average(scores, word_scores, token_valid):
        return word_by_word_weights(scores, word_scores, token_valid).detach()


cmsa = Exercise(
    title="A CMSA of your own",
    difficulty=4,
    importance=5,
    minutes=25,
    right=_RightCMSA,
    cases=block_cases,
    probe=trial,
    mistakes=[
        (_Literal, "The numbers are right, but a matrix of all pairs by all pairs was made on the way."),
        (
            _Unguarded,
            "With scores in the thousands it gives NaN: where words and regions peak at different keys, a sum of "
            "exponentials is zero. What is exact there?",
        ),
        (
            _Clamped,
            "With scores in the thousands the numbers are finite and wrong. A lower bound on the sum of "
            "exponentials hides the zero and keeps the error.",
        ),
        (_MeanFirst, _MEAN_FIRST),
        (_DividedByAllWords, _ALL_WORDS),
        (_MeanWithPadding, _PADDING),
        (_NoPadding, "Padding is counted everywhere, as if every word were real."),
        (_WithoutF, "The attended part is right, but the mean of f is not added."),
        (_Reshaped, "Channels and regions are mixed: it looks as if [B,R,C] was only reshaped to [B,C,h,w]."),
        (
            _Scaled,
            "The scores look divided by the square root of their width. Attention usually does that, Eq. 3 does not.",
        ),
        (_Exchanged, "Query and key look exchanged: a row of the scores belongs to one query."),
        (
            _Detached,
            "The values are right, but the gradients are not: it looks as if the weights were detached.",
        ),
    ],
    verified="values and every gradient of the equation as written, at scores in the thousands too, without its matrix",
    tolerance=1e-7,
)
