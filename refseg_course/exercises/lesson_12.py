"""Lesson 12, MagNet: hiding words, what the mask encoder is given, and the loss over hidden words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.objectives.losses import hidden_word_loss as loss_of_rows
from refseg.objectives.word_predictor import mask_centre
from refseg_course.exercises import Exercise, numbers

# ------------------------------------------------------------------------------------------------------ hiding words


def hiding_cases() -> list[tuple]:
    """may_hide [B,L] bool, draws [B,L] from 0 to 1, share."""
    may_hide = torch.tensor(
        [
            [False, True, True, False, True, False],  # function words at 0 and 3, padding at 5
            [False, True, True, False, False, False],
            [False, False, False, False, False, False],  # "the one on the": nothing to hide
            [True, True, True, True, True, True],
        ]
    )
    draws = torch.tensor(
        [
            [0.02, 0.40, 0.10, 0.01, 0.12, 0.05],  # two are drawn
            [0.01, 0.90, 0.60, 0.30, 0.05, 0.20],  # none is: the lowest draw of those that may
            [0.01, 0.02, 0.90, 0.10, 0.20, 0.30],
            [0.50, 0.31, 0.95, 0.29, 0.70, 0.30],  # none at 0.15, two below 0.305
        ]
    )
    return [(may_hide, draws, 0.15), (may_hide, draws, 0.305), (may_hide[:2], draws[:2], 0.0)]


def _right_hiding(may_hide: Tensor, draws: Tensor, share: float) -> Tensor:
    """Which words are hidden, [B,L] bool: the drawn ones, and one where none was drawn and some may."""
    draws = draws.masked_fill(~may_hide, 2.0)
    lowest = F.one_hot(draws.argmin(1), draws.shape[1]).bool()
    return may_hide & ((draws < share) | lowest)


def _drawn_only(may_hide, draws, share):
    return may_hide & (draws < share)


def _everything_may(may_hide, draws, share):
    return _right_hiding(torch.ones_like(may_hide), draws, share)


def _lowest_of_all(may_hide, draws, share):
    drawn = may_hide & (draws < share)
    lowest = F.one_hot(draws.argmin(1), draws.shape[1]).bool()
    return drawn | (lowest & ~drawn.any(1, keepdim=True))


def _always_one_more(may_hide, draws, share):
    """A second lowest one is hidden besides those that were drawn."""
    rest = draws.masked_fill(~may_hide | (draws < share), 2.0)
    return may_hide & ((draws < share) | F.one_hot(rest.argmin(1), draws.shape[1]).bool())


def _one_only(may_hide, draws, share):
    return may_hide & F.one_hot(draws.masked_fill(~may_hide, 2.0).argmin(1), draws.shape[1]).bool()


def _highest(may_hide, draws, share):
    drawn = may_hide & (draws < share)
    highest = F.one_hot(draws.masked_fill(~may_hide, -1.0).argmax(1), draws.shape[1]).bool()
    return drawn | (may_hide & highest & ~drawn.any(1, keepdim=True))


def _all_where_none(may_hide, draws, share):
    drawn = may_hide & (draws < share)
    return drawn | (may_hide & ~drawn.any(1, keepdim=True))


def _nothing_to_hide(may_hide, draws, share):
    """A sentence without any candidate loses its first word: argmin of a row of equal numbers is 0."""
    masked = draws.masked_fill(~may_hide, 2.0)
    return (masked < share) | F.one_hot(masked.argmin(1), draws.shape[1]).bool()


def _above(may_hide, draws, share):
    draws = draws.masked_fill(~may_hide, -1.0)
    return may_hide & (draws >= share)


hide = Exercise(
    title="Hide some words, and at least one",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_hiding,
    cases=hiding_cases,
    mistakes=[
        (
            _drawn_only,
            "In an expression in which no word was drawn, nothing is hidden. With four words and a share of 0.15 "
            "that is every second expression.",
        ),
        (_everything_may, "Padding and words like 'the' are hidden too: may_hide plays no part."),
        (
            _lowest_of_all,
            "Where nothing was drawn, the word of the lowest draw is hidden even if it may not be: may_hide first.",
        ),
        (_always_one_more, "One word more is hidden even where some were drawn."),
        (_one_only, "Exactly one word is hidden in every expression: the share plays no part."),
        (_highest, "Where nothing was drawn, the word with the highest draw is hidden. It should be the lowest."),
        (_all_where_none, "Where nothing was drawn, all words that may be hidden are hidden. One is enough."),
        (
            _nothing_to_hide,
            "An expression in which nothing may be hidden loses a word all the same. Which index does the minimum"
            " of a row of equal numbers have?",
        ),
        (_above, "Words with a draw of share or more are hidden. Those below it should be: a share of 0 draws none."),
    ],
    verified="drawn words, the lowest draw where none was drawn, no padding, and expressions with nothing to hide",
)

# ------------------------------------------------------------------------------------------------ the mask's centre


def centre_cases() -> list[tuple]:
    """mask [B,H,W] bool, H and W differ; a lopsided one, a single pixel, a full and an empty one."""
    mask = torch.zeros(5, 4, 10, dtype=torch.bool)
    mask[0, 1, 2:5] = True
    mask[1, 3, 9] = True
    mask[2] = True
    mask[4, 0, 0:2], mask[4, 1:4, 0] = True, True
    return [(mask,), (mask[:2],)]


def _right_centre(mask: Tensor) -> Tensor:
    """Mean place of the pixels' middles, [B,2], x and y from 0 to 1; an empty mask gives zeros."""
    return mask_centre(mask[:, None])[0]


def _centre(mask, half=0.5, sides=None, order=(1, 0)):
    H, W = sides or mask.shape[-2:]
    area = mask.sum((1, 2)).clamp(min=1)
    rows, columns = torch.arange(mask.shape[1]) + half, torch.arange(mask.shape[2]) + half
    y, x = (mask.sum(2) * rows).sum(1) / area / H, (mask.sum(1) * columns).sum(1) / area / W
    centre = torch.stack([y, x], 1)[:, list(order)]
    return centre * mask.any(2).any(1)[:, None]


def _exchanged(mask):
    return _centre(mask, order=(0, 1))


def _edges(mask):
    return _centre(mask, half=0.0)


def _far_edges(mask):
    return _centre(mask, half=1.0)


def _in_pixels(mask):
    return _centre(mask, sides=(1, 1))


def _one_side_for_both(mask):
    return _centre(mask, sides=(mask.shape[2], mask.shape[2]))


def _other_side_for_both(mask):
    return _centre(mask, sides=(mask.shape[1], mask.shape[1]))


def _box(mask):
    H, W = mask.shape[-2:]
    centres = []
    for one in mask:
        rows, columns = one.any(1).nonzero(), one.any(0).nonzero()
        if not len(rows):
            centres.append(torch.zeros(2))
            continue
        x, y = (columns.min() + columns.max() + 1) / 2 / W, (rows.min() + rows.max() + 1) / 2 / H
        centres.append(torch.stack([x, y]))
    return torch.stack(centres)


def _not_a_number(mask):
    centre = _right_centre(mask)
    return centre / mask.any(2).any(1).float()[:, None]


def _over_the_image(mask):
    H, W = mask.shape[-2:]
    return _right_centre(mask) * (mask.sum((1, 2)) / (H * W))[:, None]


def _empty_in_the_middle(mask):
    return torch.where(mask.any(2).any(1)[:, None], _right_centre(mask), 0.5)


centre = Exercise(
    title="What the mask encoder is given",
    difficulty=2,
    importance=3,
    minutes=10,
    right=_right_centre,
    cases=centre_cases,
    mistakes=[
        (_exchanged, "Rows and columns look exchanged: x first, which counts columns."),
        (_edges, "The places are those of the pixels' left and upper edges. A pixel lies where its middle is."),
        (_far_edges, "The places are those of the pixels' right and lower edges. A pixel lies where its middle is."),
        (_in_pixels, "The centre is counted in pixels. It should be a fraction of the image, from 0 to 1."),
        (_one_side_for_both, "Both coordinates are divided by the width, but y runs over the height."),
        (_other_side_for_both, "Both coordinates are divided by the height, but x runs over the width."),
        (_box, "It looks like the middle of the bounding box. It should be the mean over the mask's pixels."),
        (_not_a_number, "An empty mask gives NaN: its sum is divided by its area, which is zero."),
        (_over_the_image, "The sums are divided by the number of all pixels, not by those of the mask."),
        (_empty_in_the_middle, "An empty mask is put into the middle of the image. It should give zeros."),
    ],
    verified="lopsided, full and empty masks in images that are wider than high",
)

# ------------------------------------------------------------------------------------------ the loss of hidden words

B, L, V = 3, 5, 7


def loss_cases() -> list[tuple]:
    """logits [B,L,V], ids [B,L], hidden [B,L] bool: several in one sentence, none at all, padding of id 0."""
    logits, ids = 2 * numbers(B, L, V, seed=4), torch.tensor([[3, 5, 2, 6, 1], [4, 2, 0, 0, 0], [6, 1, 3, 0, 0]])
    hidden = torch.zeros(B, L, dtype=torch.bool)
    hidden[0, 1], hidden[0, 3], hidden[0, 4], hidden[2, 0] = True, True, True, True
    return [(logits, ids, hidden), (logits[1:2], ids[1:2], hidden[1:2]), (30 * logits, ids, hidden)]


def _right_loss(logits: Tensor, ids: Tensor, hidden: Tensor) -> Tensor:
    """Mean cross-entropy over the hidden words of all sentences; zero for none."""
    return loss_of_rows(logits[hidden], ids[hidden])


def _terms(logits, ids):
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)


def _all_words(logits, ids, hidden):
    return _terms(logits, ids).mean()


def _real_words(logits, ids, hidden):
    return _terms(logits, ids)[ids > 0].mean()


def _visible_words(logits, ids, hidden):
    return _terms(logits, ids)[~hidden & (ids > 0)].mean()


def _spread_over_all(logits, ids, hidden):
    return (_terms(logits, ids) * hidden).mean()


def _summed(logits, ids, hidden):
    return (_terms(logits, ids) * hidden).sum()


def _by_sentence(logits, ids, hidden):
    return ((_terms(logits, ids) * hidden).sum(1) / hidden.sum(1).clamp(min=1)).mean()


def _undefined(logits, ids, hidden):
    return F.cross_entropy(logits[hidden], ids[hidden])


def _softmax_twice(logits, ids, hidden):
    return loss_of_rows(logits.softmax(-1)[hidden], ids[hidden])


def _log_of_softmax(logits, ids, hidden):
    shares = logits.softmax(-1)[hidden].gather(1, ids[hidden][:, None])
    return -shares.log().sum() / max(1, len(shares))


def _sign(logits, ids, hidden):
    return -_right_loss(logits, ids, hidden)


loss = Exercise(
    title="The loss of hidden words",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_right_loss,
    cases=loss_cases,
    mistakes=[
        (_all_words, "Every word is asked for, padding too. A word that can be read needs no guess."),
        (_real_words, "Every word is asked for, hidden or not. A word that can be read needs no guess."),
        (_visible_words, "The words that can be read are asked for, and the hidden ones are not."),
        (_spread_over_all, "The sum is divided by the number of all words, not by that of the hidden ones."),
        (_summed, "The terms are summed: a batch with more hidden words would count more. It should be their mean."),
        (
            _by_sentence,
            "Each expression counts the same, however many words it hides, and one that hides none counts as "
            "zero. It should be the mean over all hidden words of the batch.",
        ),
        (_undefined, "With no hidden word at all it gives NaN, the mean over nothing. It should give zero."),
        (_softmax_twice, "It looks as if a softmax goes into the cross-entropy, which applies one itself."),
        (
            _log_of_softmax,
            "With large logits it gives infinity: the probability of a word becomes zero before its logarithm is "
            "taken. Take both in one step.",
        ),
        (_sign, "The sign is wrong: the loss is minus the logarithm."),
    ],
    verified="several hidden words in an expression, none in a batch, and large logits",
)
