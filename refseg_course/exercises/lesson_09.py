"""Lesson 09, what attention shows: the pointing game, its chance level, and striking out words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from refseg_course.exercises import Exercise, numbers

H, W = 12, 20

# --------------------------------------------------------------------------------------------------- the pointing game


def rectangle(top: int, left: int, height: int, width: int) -> Tensor:
    """[H,W] bool."""
    mask = torch.zeros(H, W, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def map_cases() -> list[tuple]:
    """Maps of 3 x 5 regions over 12 x 20 pixels: a peak on the object, beside it, and broad weight against one peak."""
    sharp, broad = torch.zeros(3, 5), torch.full((3, 5), 0.02)
    sharp[0, 3] = 1.0  # about row 1.5, column 13.5
    broad[:, :3] = 0.1
    broad[2, 4] = 0.3
    slope = torch.arange(15.0).view(3, 5) + 1
    return [
        (sharp, rectangle(0, 12, 4, 4)),
        (sharp, rectangle(8, 4, 4, 4)),
        (sharp, rectangle(0, 2, 3, 3)),
        (broad, rectangle(8, 16, 4, 4)),
        (broad, rectangle(0, 0, 12, 12)),
        (slope, rectangle(10, 18, 2, 2)),
        (slope, rectangle(0, 0, 4, 4)),
        (numbers(3, 5, seed=4).exp(), rectangle(3, 5, 5, 7)),
        (numbers(3, 5, seed=5).exp(), rectangle(0, 13, 7, 7)),
    ]


def _right_hit(word_map: Tensor, true_pixels: Tensor) -> bool:
    """Whether the maximum of the enlarged map lies on the object."""
    return bool(true_pixels.flatten()[_enlarged(word_map, true_pixels).argmax()])


def _enlarged(word_map: Tensor, true_pixels: Tensor) -> Tensor:
    """[h,w] at the size of the mask."""
    return interpolate(word_map[None, None], true_pixels.shape, mode="bilinear")[0, 0]


def _small_index(word_map, true_pixels):
    return bool(true_pixels.flatten()[word_map.argmax()])


def _small_place(word_map, true_pixels):
    row, column = divmod(int(word_map.argmax()), word_map.shape[1])
    return bool(true_pixels[row, column])


def _transposed(word_map, true_pixels):
    return bool(true_pixels.flatten()[_enlarged(word_map, true_pixels).mT.reshape(-1).argmax()])


def _smallest(word_map, true_pixels):
    return bool(true_pixels.flatten()[_enlarged(word_map, true_pixels).argmin()])


def _most_of_the_mass(word_map, true_pixels):
    large = _enlarged(word_map, true_pixels)
    return bool(large[true_pixels].sum() > large.sum() / 2)


def _mean_inside(word_map, true_pixels):
    large = _enlarged(word_map, true_pixels)
    return bool(large[true_pixels].mean() > large[~true_pixels].mean())


def _best_inside(word_map, true_pixels):
    large = _enlarged(word_map, true_pixels)
    return bool(large[true_pixels].max() > large.mean())


pointing_hit = Exercise(
    title="The pointing game",
    difficulty=2,
    importance=4,
    minutes=10,
    right=_right_hit,
    cases=map_cases,
    mistakes=[
        (
            _small_index,
            "The index of the largest weight counts regions, and it is used to count pixels: enlarge the map first.",
        ),
        (_small_place, "Row and column of a region are used as row and column of a pixel: enlarge the map first."),
        (_transposed, "Rows and columns look exchanged between the map and the mask."),
        (_smallest, "It looks where the map is smallest."),
        (_most_of_the_mass, "It asks whether most of the weight lies on the object. The game looks at one point only."),
        (
            _mean_inside,
            "It asks whether the map is larger on the object than beside it, on average. The game has one point only.",
        ),
        (
            _best_inside,
            "It asks whether the object has a weight above the mean. There may be a larger one elsewhere.",
        ),
    ],
    verified="hits, misses, a small object, and broad weight against one peak",
)

# ---------------------------------------------------------------------------------------------------- the chance level


def chance_cases() -> list[tuple]:
    """With and without padding, and with objects partly in it."""
    things = rectangle(1, 2, 4, 5) | rectangle(7, 11, 4, 6)
    return [
        (rectangle(1, 2, 4, 5), things, rectangle(0, 0, H, W)),
        (rectangle(7, 11, 4, 6), things, rectangle(0, 0, H, 17)),
        (things, things, rectangle(0, 0, 9, 14)),
    ]


def _right_chance(true_pixels: Tensor, object_pixels: Tensor, pixel_valid: Tensor) -> tuple[float, float]:
    """Of all real pixels and of those of objects, the share that is right."""
    true, things = true_pixels & pixel_valid, object_pixels & pixel_valid
    return float(true.sum() / pixel_valid.sum()), float(true.sum() / things.sum())


def _padding_in_the_count(true_pixels, object_pixels, pixel_valid):
    true, things = true_pixels & pixel_valid, object_pixels & pixel_valid
    return float(true.float().mean()), float(true.sum() / things.sum())


def _padding_everywhere(true_pixels, object_pixels, pixel_valid):
    return float(true_pixels.float().mean()), float(true_pixels.sum() / object_pixels.sum())


def _padded_objects(true_pixels, object_pixels, pixel_valid):
    return float(true_pixels.sum() / pixel_valid.sum()), float(true_pixels.sum() / object_pixels.sum())


def _exchanged(true_pixels, object_pixels, pixel_valid):
    return _right_chance(true_pixels, object_pixels, pixel_valid)[::-1]


def _upside_down(true_pixels, object_pixels, pixel_valid):
    of_image, of_objects = _right_chance(true_pixels, object_pixels, pixel_valid)
    return 1 / of_image, 1 / of_objects


def _any_object(true_pixels, object_pixels, pixel_valid):
    things = object_pixels & pixel_valid
    of_image, of_objects = _right_chance(true_pixels, object_pixels, pixel_valid)
    return float(things.sum() / pixel_valid.sum()), of_objects


def _percent(true_pixels, object_pixels, pixel_valid):
    of_image, of_objects = _right_chance(true_pixels, object_pixels, pixel_valid)
    return 100 * of_image, 100 * of_objects


chance_levels = Exercise(
    title="Two chance levels",
    difficulty=1,
    importance=5,
    minutes=5,
    right=_right_chance,
    cases=chance_cases,
    mistakes=[
        (_exchanged, "The two numbers are exchanged: first the blind guess, then the one that sees objects."),
        (_upside_down, "Both numbers are above one: a share is a part divided by the whole."),
        (_percent, "Both numbers look like percentages: give shares between 0 and 1."),
        (
            _any_object,
            "The first number is the chance of hitting any object: it should be that of hitting a right one.",
        ),
        (_padding_everywhere, "Where the image is padded the numbers are off: padding is not part of the image."),
        (_padding_in_the_count, "The first number divides by all pixels: padded ones could never be chosen."),
        (_padded_objects, "Pixels of objects that lie in the padding are counted."),
    ],
    verified="images with and without padding, and objects partly in it",
)

# ---------------------------------------------------------------------------------------------------- word ablation


def sentence_cases() -> list[tuple]:
    """No word twice, a word twice, two words, and a word that is part of another."""
    texts = ("the red star", "the star left of the red star", "blue box", "the plain plus left of the leftmost one")
    return [(text.split(),) for text in texts]


def _right_strikes(words: Sequence[str]) -> list[str]:
    """One expression per word, without that word."""
    return [" ".join([*words[:n], *words[n + 1 :]]) for n in range(len(words))]


def _every_equal_word(words):
    return [" ".join(other for other in words if other != word) for word in words]


def _the_first_equal_word(words):
    result = []
    for word in words:
        rest = list(words)
        rest.remove(word)
        result.append(" ".join(rest))
    return result


def _hole(words):
    return [" ".join("" if i == n else word for i, word in enumerate(words)) for n in range(len(words))]


def _as_text(words):
    return [" ".join(" ".join(words).replace(word, "").split()) for word in words]


def _only_the_rest(words):
    return [" ".join(words[n + 1 :]) for n in range(len(words))]


def _only_before(words):
    return [" ".join(words[:n]) for n in range(len(words))]


def _only_the_word(words):
    return list(words)


strike_out = Exercise(
    title="Strike out one word",
    difficulty=1,
    importance=4,
    minutes=5,
    right=_right_strikes,
    cases=sentence_cases,
    mistakes=[
        (_every_equal_word, "A word that occurs twice is struck out twice. Strike out a place, not a word."),
        (
            _the_first_equal_word,
            "Of a word that occurs twice, it is always the first that goes. Strike out a place, not a word.",
        ),
        (_as_text, "Parts of other words go too: left is part of leftmost. Work on the list, not on the text."),
        (_hole, "Where the word was, there are two spaces: nothing should be left of it."),
        (_only_the_rest, "All words before the struck one are lost too: each expression should lack one word only."),
        (_only_before, "All words after the struck one are lost too."),
        (_only_the_word, "The words themselves come back: return what is left of the expression without each of them."),
    ],
    verified="expressions with a word twice and with a word inside another",
)
