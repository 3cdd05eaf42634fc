"""Lesson 10, cross-frame attention: one softmax over a clip, motion from where a head looks, and mirrored words."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from refseg.datasets.transforms import swap_left_right
from refseg_course.exercises import Exercise, numbers

B, T, R, DIM = 2, 3, 4, 5

# ------------------------------------------------------------------------------------- the target frame asks the clip


def clip_cases() -> list[tuple]:
    """Query [B,R,DIM], key [B,T,R,DIM], frame_valid [B,T]: all frames real; one padded here, two there."""
    query, key = 2 * numbers(B, R, DIM, seed=1), numbers(B, T, R, DIM, seed=2)
    every = torch.ones(B, T, dtype=torch.bool)
    some = torch.tensor([[True, True, False], [True, False, False]])
    return [(query, key, every), (query, key, some), (30 * query, 30 * key, some)]


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    """[B,R,T,R]: the query's region, then frame and region of the key."""
    return torch.einsum("brd,btsd->brts", query, key) / math.sqrt(query.shape[-1])


def _right_attention(query: Tensor, key: Tensor, frame_valid: Tensor) -> Tensor:
    """Weights [B,R,T,R], each query's sum to one over the real frames and all their regions."""
    return _softmax(_hidden(scores_of(query, key), frame_valid))


def _hidden(scores, frame_valid):
    return scores.masked_fill(~frame_valid[:, None, :, None], -math.inf)


def _softmax(scores):
    return scores.flatten(2).softmax(-1).view_as(scores)


def _in_every_frame(query, key, frame_valid):
    return scores_of(query, key).softmax(-1) * frame_valid[:, None, :, None]


def _in_every_frame_with_padding(query, key, frame_valid):
    return scores_of(query, key).softmax(-1)


def _over_frames_only(query, key, frame_valid):
    return _hidden(scores_of(query, key), frame_valid).softmax(2)


def _over_queries(query, key, frame_valid):
    return scores_of(query, key).softmax(1) * frame_valid[:, None, :, None]


def _padding_counted(query, key, frame_valid):
    return _softmax(scores_of(query, key))


def _hidden_afterwards(query, key, frame_valid):
    return _softmax(scores_of(query, key)) * frame_valid[:, None, :, None]


def _zero_scores(query, key, frame_valid):
    return _softmax(scores_of(query, key) * frame_valid[:, None, :, None])


def _inverted(query, key, frame_valid):
    return _softmax(_hidden(scores_of(query, key), ~frame_valid))


def _not_divided(query, key, frame_valid):
    return _softmax(_hidden(scores_of(query, key) * math.sqrt(query.shape[-1]), frame_valid))


def _divided_by_the_width(query, key, frame_valid):
    return _softmax(_hidden(scores_of(query, key) / math.sqrt(query.shape[-1]), frame_valid))


def _other_keys_hidden(query, key, frame_valid):
    scores = scores_of(query, key).flatten(2)
    keep = frame_valid.repeat(1, key.shape[2])  # frame by frame for the first region, where regions come first
    return scores.masked_fill(~keep[:, None], -math.inf).softmax(-1).unflatten(2, key.shape[1:3])


def _regions_before_frames(query, key, frame_valid):
    weights = _right_attention(query, key, frame_valid)
    return weights.flatten(2).unflatten(2, (key.shape[2], key.shape[1])).mT


def _frames_first(query, key, frame_valid):
    return _right_attention(query, key, frame_valid).transpose(1, 2)


def _flat(query, key, frame_valid):
    return _right_attention(query, key, frame_valid).flatten(2)


target_attention = Exercise(
    title="The target frame asks the clip",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_right_attention,
    cases=clip_cases,
    mistakes=[
        (
            _in_every_frame,
            "The weights of every frame sum to one by themselves. Then no frame can win: one softmax, over all frames.",
        ),
        (
            _in_every_frame_with_padding,
            "The weights of every frame sum to one by themselves, those of padded frames too: one softmax, over all "
            "real frames.",
        ),
        (_over_frames_only, "The softmax runs over the frames only: regions of one frame do not compete."),
        (_over_queries, "The softmax runs over the regions that ask, not over what they look at."),
        (_padding_counted, "Padded frames get weight: frame_valid plays no part."),
        (
            _hidden_afterwards,
            "Padded frames have no weight, but they had some in the softmax: what is left does not sum to one.",
        ),
        (_zero_scores, "The scores of padded frames are set to zero, and the exponential of zero is one."),
        (_inverted, "Real frames are hidden and padded ones kept: True means real."),
        (_not_divided, "The scores are not divided by the square root of their width d."),
        (_divided_by_the_width, "The scores are divided by the width d, not by its square root."),
        (
            _other_keys_hidden,
            "As many keys are hidden as should be, but not those of the padded frames: all regions of the first frame "
            "come first.",
        ),
        (
            _regions_before_frames,
            "The weights are right, but frames and regions of the keys are mixed: all regions of the first frame come "
            "first.",
        ),
        (
            _frames_first,
            "The frame comes before the region that asks. The shape should be [B,R,T,R]: the query comes first.",
        ),
        (_flat, "The weights are right, but frames and regions share one dimension. The shape should be [B,R,T,R]."),
    ],
    verified="each region's weights sum to one over the real frames, at large scores too",
)

# ------------------------------------------------------------------------------------------ motion from mean offsets

H, W = 5, 7


def looks(*places: tuple[int, int, int, float], noise: float = 0.0) -> Tensor:
    """Weights [3,H,W] that sum to one: (frame, row, column, weight), and noise everywhere."""
    weights = torch.full((3, H, W), noise)
    for frame, row, column, weight in places:
        weights[frame, row, column] += weight
    return weights / weights.sum()


def look_cases() -> list[tuple]:
    """(weights [T,h,w], row, column, target): heads that look back and ahead, sharp and broad; all clear."""
    return [
        (looks((0, 2, 5, 1.0)), 2, 3, 1),  # lay to the right before
        (looks((0, 2, 1, 1.0)), 2, 3, 1),
        (looks((2, 2, 5, 1.0)), 2, 3, 1),  # will lie to the right
        (looks((2, 2, 0, 0.7), (1, 2, 3, 0.3)), 2, 3, 1),
        (looks((0, 4, 3, 1.0)), 2, 3, 1),  # lay below
        (looks((0, 0, 3, 0.8), (1, 2, 3, 0.2)), 2, 3, 1),
        (looks((2, 4, 2, 1.0)), 2, 2, 1),  # will lie below
        (looks((2, 1, 4, 1.0)), 3, 4, 1),
        (looks((0, 4, 5, 0.5), (0, 3, 6, 0.5)), 4, 1, 1),
        (looks((2, 0, 1, 0.9), (1, 1, 1, 0.1)), 4, 1, 0),
        (looks((0, 1, 3, 0.4), (0, 2, 5, 0.3), (0, 2, 6, 0.3)), 2, 3, 1),  # most at one place, but more to the right
        (looks((2, 3, 3, 0.4), (2, 2, 1, 0.3), (2, 2, 0, 0.3)), 2, 3, 1),
        (looks((0, 1, 1, 0.2), (1, 1, 2, 0.3), (2, 1, 4, 0.5)), 1, 2, 1),
        (looks((0, 3, 6, 1.0), noise=0.005), 3, 4, 2),
        (looks((1, 1, 5, 1.0), noise=0.005), 3, 5, 2),
    ]


def _mean_offset(weights: Tensor, row: int, column: int, target: int) -> tuple[float, float, float]:
    """Rows, columns and frames from the region that asks to what it looks at, on average."""
    places = torch.meshgrid(*(torch.arange(side).float() for side in weights.shape), indexing="ij")
    time, y, x = (float((weights * place).sum()) for place in places)
    return y - row, x - column, time - target


def called(y: float, x: float) -> str:
    """The direction in which something moves that goes y rows and x columns; rows count downwards."""
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"


def _right_direction(weights: Tensor, row: int, column: int, target: int) -> str:
    """Where the thing moves, seen from where the head found it, and when."""
    y, x, time = _mean_offset(weights, row, column, target)
    return called(y / time, x / time)


def _no_time(weights, row, column, target):
    y, x, _ = _mean_offset(weights, row, column, target)
    return called(y, x)


def _always_back(weights, row, column, target):
    y, x, _ = _mean_offset(weights, row, column, target)
    return called(-y, -x)


def _time_reversed(weights, row, column, target):
    y, x, time = _mean_offset(weights, row, column, target)
    return called(-y / time, -x / time)


def _exchanged(weights, row, column, target):
    y, x, time = _mean_offset(weights, row, column, target)
    return called(x / time, y / time)


def _rows_upwards(weights, row, column, target):
    y, x, time = _mean_offset(weights, row, column, target)
    return called(-y / time, x / time)


def _absolute_place(weights, row, column, target):
    y, x, time = _mean_offset(weights, 0, 0, target)
    return called(y / time, x / time)


def _peak(weights, row, column, target):
    sharp = torch.zeros_like(weights)
    sharp.view(-1)[weights.argmax()] = 1.0
    y, x, time = _mean_offset(sharp, row, column, target)
    return called(y * time, x * time)


def _columns_only(weights, row, column, target):
    _, x, time = _mean_offset(weights, row, column, target)
    return called(0.0, x / time)


direction = Exercise(
    title="Motion from where a head looks",
    difficulty=3,
    importance=4,
    minutes=15,
    right=_right_direction,
    cases=look_cases,
    mistakes=[
        (
            _no_time,
            "Looking back and looking ahead count the same, as if frames were numbered from the first one. An "
            "object that was to the right before and one that will be to the right move in opposite directions.",
        ),
        (_always_back, "Every head is treated as one that looks back. Some look ahead: the mean time shows which."),
        (_time_reversed, "Every answer is the opposite of the right one: before and after look exchanged."),
        (_exchanged, "Rows and columns look exchanged."),
        (_rows_upwards, "Up and down look exchanged: rows are counted from the top."),
        (
            _absolute_place,
            "The place looked at is measured from the corner of the image, not from the region that asks.",
        ),
        (
            _peak,
            "Only the largest weight seems to count. The block passes on the mean over all that the head looked at.",
        ),
        (_columns_only, "Only columns seem to count: objects move up and down as well."),
    ],
    verified="heads that look back and ahead, sharp and broad weights, the target frame first, in the middle and last",
)

# ---------------------------------------------------------------------------------------------------- mirrored words


def expression_cases() -> list[tuple]:
    """All in small letters, words separated by single blanks."""
    texts = (
        "the blue star moving left",
        "red circle that moves right",
        "the leftmost square",
        "the bright cross going right",
        "the square left of the star on the right",
        "the rightmost circle moving left",
        "the leftover box that moves up",
        "triangle that passes behind a square",
    )
    return [(text,) for text in texts]


def _by_words(table):
    return lambda expression: " ".join(table.get(word, word) for word in expression.split())


_BOTH = {"left": "right", "right": "left"}
_MOST = {"leftmost": "rightmost", "rightmost": "leftmost"}


def _one_after_the_other(expression):
    return expression.replace("left", "right").replace("right", "left")


def _one_after_the_other_words(expression):
    words = re.sub(r"\bleft(?=most\b|\b)", "right", expression)
    return re.sub(r"\bright(?=most\b|\b)", "left", words)


def _parts_of_words(expression):
    return re.sub("left|right", lambda found: _BOTH[found[0]], expression)


def _beginnings_of_words(expression):
    return re.sub(r"\b(left|right)", lambda found: _BOTH[found[0]], expression)


def _order_reversed(expression):
    return " ".join(reversed(expression.split()))


def _first_only(expression):
    return re.sub(r"\b(left|right)(?=most\b|\b)", lambda found: _BOTH[found[0]], expression, count=1)


def _unchanged(expression):
    return expression


mirrored_words = Exercise(
    title="The sentence of the mirror image",
    difficulty=1,
    importance=4,
    minutes=5,
    right=swap_left_right,
    cases=expression_cases,
    mistakes=[
        (_unchanged, "The words stay as they are: what moved left moves right in the mirror."),
        (
            _one_after_the_other,
            "Both words end up as the same one: what the first replacement wrote, the second takes back. And parts of "
            "other words are replaced.",
        ),
        (
            _one_after_the_other_words,
            "Both words end up as the same one: what the first replacement wrote, the second takes back.",
        ),
        (_parts_of_words, "Parts of other words are exchanged too: there is a right in bright."),
        (_beginnings_of_words, "Words that only begin the same are changed: leftover has nothing to do with a side."),
        (_by_words({"left": "right", **_MOST}), "Left becomes right, but right does not become left."),
        (_by_words(_BOTH), "Leftmost and rightmost stay as they are, and both depend on the side."),
        (
            _by_words({**_BOTH, **_MOST, "up": "down", "down": "up"}),
            "Up and down change too: this mirror hangs upright.",
        ),
        (_first_only, "Only the first of two words is exchanged."),
        (_order_reversed, "The words are in reverse order: the image is mirrored, not the line of text."),
    ],
    verified="left and right, once and twice in an expression, leftmost, and words that only contain them",
)
