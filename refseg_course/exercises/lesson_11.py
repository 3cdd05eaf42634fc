"""Lesson 11, the attention explorer: which word moves the mask, shares among words, right maps with wrong masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from refseg_course.exercises import Exercise, numbers

H, W = 6, 9

# -------------------------------------------------------------------------------------- which word moves the mask most


def rectangle(top: int, left: int, height: int, width: int) -> Tensor:
    """[H,W] bool."""
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def mask_cases() -> list[tuple]:
    """A mask that jumps at one size, one that grows a lot, one that loses a corner, and empty ones."""
    whole, nothing = rectangle(1, 1, 3, 3), rectangle(0, 0, 0, 0)
    jumped, grown, smaller = rectangle(1, 6, 3, 3), rectangle(0, 0, 5, 8), rectangle(1, 1, 3, 2)
    return [
        (whole, [smaller, jumped, whole]),
        (whole, [grown, whole, jumped, smaller]),
        (whole, [whole, smaller]),
        (whole, [smaller, grown, nothing]),
        (rectangle(0, 0, 6, 9), [rectangle(0, 0, 5, 9), rectangle(0, 0, 2, 9), rectangle(0, 0, 4, 9)]),
        (nothing, [nothing, rectangle(0, 0, 1, 1)]),
        (rectangle(0, 0, 1, 2), [rectangle(0, 0, 1, 1), rectangle(0, 0, 1, 8)]),
    ]


def _overlap(a: Tensor, b: Tensor) -> float:
    """IoU of two masks; two empty ones are equal."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _right_move(mask: Tensor, without: Sequence[Tensor]) -> int:
    """The position of the word without which the mask is least like the whole one."""
    overlaps = [_overlap(mask, other) for other in without]
    return overlaps.index(min(overlaps))


def _most_alike(mask, without):
    overlaps = [_overlap(mask, other) for other in without]
    return overlaps.index(max(overlaps))


def _by_size(mask, without):
    changes = [abs(int(other.sum()) - int(mask.sum())) for other in without]
    return changes.index(max(changes))


def _by_pixels(mask, without):
    changes = [int((mask ^ other).sum()) for other in without]
    return changes.index(max(changes))


def _by_what_is_lost(mask, without):
    lost = [int((mask & ~other).sum()) for other in without]
    return lost.index(max(lost))


def _by_what_is_won(mask, without):
    won = [int((other & ~mask).sum()) for other in without]
    return won.index(max(won))


def _from_one(mask, without):
    return _right_move(mask, without) + 1


def _its_overlap(mask, without):
    return min(_overlap(mask, other) for other in without)


moves_most = Exercise(
    title="Which word moves the mask most",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_move,
    cases=mask_cases,
    mistakes=[
        (_most_alike, "The word that changes the mask least comes back: look for the smallest overlap."),
        (_from_one, "The position is one too large: words are counted from 0."),
        (_its_overlap, "The overlap itself comes back: the question is at which word it is smallest."),
        (_by_size, "Only the sizes of the masks are compared: a mask can jump elsewhere and keep its size."),
        (_by_pixels, "Changed pixels are counted: lost and gained ones weigh differently in the IoU."),
        (_by_what_is_lost, "Only the pixels that the mask loses are counted, not those that it gains."),
        (_by_what_is_won, "Only the pixels that the mask gains are counted, not those that it loses."),
    ],
    verified="masks that jump, grow, shrink and vanish, and empty ones",
)

# ----------------------------------------------------------------------------------------------- shares among the words


def map_cases() -> list[tuple]:
    """Word maps [L,h,w] that each sum to one; in one of them all words share a sink."""
    plain = numbers(3, 2, 4, seed=1).flatten(1).softmax(-1).view(3, 2, 4)
    scores = numbers(4, 3, 3, seed=2)
    scores[:, 0, 2] += 6
    return [(plain,), (scores.flatten(1).softmax(-1).view(4, 3, 3),), (torch.full((2, 2, 2), 0.25),)]


def _right_shares(maps: Tensor) -> Tensor:
    """At every position, each word's part of what all words put there."""
    return maps / maps.sum(0)


def _over_positions(maps):
    return maps / maps.sum((1, 2), keepdim=True)


def _by_the_mean(maps):
    return maps / maps.mean(0)


def _by_the_largest(maps):
    return maps / maps.amax(0)


def _softmax_over_words(maps):
    return maps.softmax(0)


def _over_rows(maps):
    return maps / maps.sum(1, keepdim=True)


def _over_everything(maps):
    return maps / maps.sum()


word_shares = Exercise(
    title="Shares among the words",
    difficulty=1,
    importance=4,
    minutes=5,
    right=_right_shares,
    cases=map_cases,
    mistakes=[
        (_over_positions, "Each word's weights are shared out over the positions: that is the other normalisation."),
        (_by_the_mean, "At a position the shares sum to the number of words: divide by the sum, not by the mean."),
        (_by_the_largest, "The largest word gets a one at every position: divide by the sum of all words."),
        (_softmax_over_words, "A softmax is taken of weights that are weights already: only divide."),
        (_over_rows, "The sum runs along the rows of the image: it should run over the words."),
        (_over_everything, "Everything together sums to one: each position should, by itself."),
    ],
    verified="shares that sum to one at every position, with and without a sink",
)

# --------------------------------------------------------------------------------------------- right maps, wrong masks


def finding_cases() -> list[tuple]:
    """(hits of the words, IoU): words that are true of nothing have None, and so has an unknown truth."""
    return [
        ([([True, None, True], 0.02), ([True, True], 0.91), ([None, False], 0.10)],),
        ([([None, None], 0.0), ([True, False], 0.49), ([True, False, False], 0.3), ([True], None)],),
        ([([True], 0.5), ([None, True, None, None], 0.499), ([False, False, True, True], 0.0)],),
        ([],),
    ]


def _right_findings(records: Sequence[tuple[list[bool | None], float | None]]) -> list[int]:
    """Where at least half of the scored words point right and the IoU is below one half."""
    found = []
    for n, (hits, iou) in enumerate(records):
        scored = [hit for hit in hits if hit is not None]
        if scored and iou is not None and sum(scored) >= len(scored) / 2 and iou < 0.5:
            found.append(n)
    return found


def _findings(records, points_right, wrong):
    return [n for n, (hits, iou) in enumerate(records) if points_right(hits) and wrong(iou)]


def _half(hits):
    scored = [hit for hit in hits if hit is not None]
    return bool(scored) and sum(scored) >= len(scored) / 2


def _wrong_mask(iou):
    return iou is not None and iou < 0.5


def _none_is_a_miss(records):
    return _findings(records, lambda hits: sum(bool(h) for h in hits) >= len(hits) / 2, _wrong_mask)


def _any_word(records):
    return _findings(records, lambda hits: True in hits, _wrong_mask)


def _more_than_half(records):
    def most(hits):
        scored = [hit for hit in hits if hit is not None]
        return bool(scored) and sum(scored) > len(scored) / 2

    return _findings(records, most, _wrong_mask)


def _right_masks(records):
    return _findings(records, _half, lambda iou: iou is not None and iou >= 0.5)


def _unknown_is_wrong(records):
    return _findings(records, _half, lambda iou: (iou or 0.0) < 0.5)


def _nothing_scored(records):
    def half(hits):
        scored = [hit for hit in hits if hit is not None]
        return sum(scored) >= len(scored) / 2

    return _findings(records, half, _wrong_mask)


def _up_to_half(records):
    return _findings(records, _half, lambda iou: iou is not None and iou <= 0.5)


right_map_wrong_mask = Exercise(
    title="Right maps, wrong masks",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_findings,
    cases=finding_cases,
    mistakes=[
        (_none_is_a_miss, "Words that are true of nothing count as misses: exclude them before you count."),
        (_any_word, "One word that points right is enough: at least half of the scored ones have to."),
        (_more_than_half, "Exactly half of the words is not enough: at least half means half as well."),
        (_right_masks, "These masks are right: look for an IoU below one half."),
        (_unknown_is_wrong, "An unknown truth counts as a wrong mask: None is not zero."),
        (_nothing_scored, "An expression without any scored word is among them: nothing in it points at all."),
        (_up_to_half, "An IoU of exactly one half counts as wrong: only below one half is wrong."),
    ],
    verified="words that are true of nothing, unknown truths, and exactly one half",
)
