"""Lesson 02, words: ids, padding, and why every mean needs to know which words are real."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.models.blocks.attention import masked_mean
from refseg.tokenizer import split_words
from refseg_course.exercises import Exercise, numbers

IDS = {word: number for number, word in enumerate(["<pad>", "<unk>", "the", "star", "red", "left", "of", "circle"])}
UNK = IDS["<unk>"]

# ---------------------------------------------------------------------------------------------------- words to ids


def encode_cases() -> list[tuple]:
    """expression, ids, max_words: capitals and a full stop, unknown words, and one that is cut."""
    return [
        ("The red Star.", IDS, 20),
        ("the crimson star left of the grey circle", IDS, 20),
        ("circle left of the red star", IDS, 4),
    ]


def _right_encode(expression: str, ids: dict[str, int], max_words: int) -> list[int]:
    """One id per word, at most ``max_words``."""
    return [ids.get(word, ids["<unk>"]) for word in split_words(expression)][:max_words]


def _unknown_dropped(expression, ids, max_words):
    return [ids[word] for word in split_words(expression) if word in ids][:max_words]


def _unknown_as_padding(expression, ids, max_words):
    return [ids.get(word, 0) for word in split_words(expression)][:max_words]


def _unknown_raises(expression, ids, max_words):
    return [ids[word] for word in split_words(expression)][:max_words]


def _unknown_gets_a_new_id(expression, ids, max_words):
    return [ids.get(word, len(ids)) for word in split_words(expression)][:max_words]


def _only_split(expression, ids, max_words):
    return [ids.get(word, ids["<unk>"]) for word in expression.split()][:max_words]


def _only_lower(expression, ids, max_words):
    return _only_split(expression.lower(), ids, max_words)


def _not_cut(expression, ids, max_words):
    return _right_encode(expression, ids, 99)


def _head_cut(expression, ids, max_words):
    return _right_encode(expression, ids, 99)[-max_words:]


def _characters_cut(expression, ids, max_words):
    return _right_encode(expression[:max_words], ids, 99)


def _padded_here(expression, ids, max_words):
    found = _right_encode(expression, ids, max_words)
    return found + [0] * (max_words - len(found))


encode = Exercise(
    title="Words to ids",
    difficulty=1,
    importance=4,
    minutes=8,
    right=_right_encode,
    cases=encode_cases,
    mistakes=[
        (_unknown_dropped, "Unknown words vanish. Then no one can see that the expression said more."),
        (_unknown_as_padding, "Unknown words get the id of padding. Padding is not a word, an unknown word is."),
        (_unknown_raises, "A word that is not in the vocabulary raises KeyError. People will write such words."),
        (_unknown_gets_a_new_id, "Unknown words get an id after the last one. The table of vectors has no such row."),
        (_only_split, "Capitals and full stops make words unknown: it looks like a plain split at the spaces."),
        (_only_lower, "The full stop sticks to its word: it looks like a plain split at the spaces."),
        (_not_cut, "A long expression is not cut after max_words words."),
        (_head_cut, "The wrong end is cut off: the first words are gone."),
        (_characters_cut, "It looks as if the expression is cut after max_words characters, not words."),
        (_padded_here, "The ids are padded already. How far to pad is known only when the batch is made."),
    ],
    verified="capitals, full stops, unknown words, long expressions",
)


# --------------------------------------------------------------------------------------------- padding at the end


def ids_cases() -> list[tuple]:
    """Expressions of 3, 5 and 1 words, and a batch that needs no padding."""
    return [([[2, 4, 3], [7, 5, 6, 2, 3], [3]],), ([[2, 3], [4, 7]],)]


def _right_pad(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """token_ids [B,L] and token_valid [B,L]."""
    length = max(map(len, ids))
    token_ids = torch.tensor([row + [0] * (length - len(row)) for row in ids])
    return token_ids, torch.tensor([[place < len(row) for place in range(length)] for row in ids])


def _in_front(ids):
    token_ids, token_valid = _right_pad([row[::-1] for row in ids])
    return token_ids.flip(1), token_valid.flip(1)


def _in_front_valid_at_the_end(ids):
    return _in_front(ids)[0], _right_pad(ids)[1]


def _cut_to_the_shortest(ids):
    return _right_pad([row[: min(map(len, ids))] for row in ids])


def _padded_with_unknown(ids):
    token_ids, token_valid = _right_pad(ids)
    return token_ids.masked_fill(~token_valid, UNK), token_valid


def _to_twenty(ids):
    token_ids, token_valid = _right_pad(ids)
    missing = 20 - token_ids.shape[1]
    return F.pad(token_ids, (0, missing)), F.pad(token_valid, (0, missing))


def _all_valid(ids):
    token_ids, token_valid = _right_pad(ids)
    return token_ids, torch.ones_like(token_valid)


def _inverted(ids):
    token_ids, token_valid = _right_pad(ids)
    return token_ids, ~token_valid


def _one_too_many(ids):
    token_ids, _ = _right_pad(ids)
    return token_ids, torch.tensor([[place <= len(row) for place in range(token_ids.shape[1])] for row in ids])


def _one_too_few(ids):
    token_ids, _ = _right_pad(ids)
    return token_ids, torch.tensor([[place < len(row) - 1 for place in range(token_ids.shape[1])] for row in ids])


def _valid_as_numbers(ids):
    token_ids, token_valid = _right_pad(ids)
    return token_ids, token_valid.float()


def _ids_as_float(ids):
    token_ids, token_valid = _right_pad(ids)
    return token_ids.float(), token_valid


pad_batch = Exercise(
    title="A batch, padded at the end",
    difficulty=2,
    importance=5,
    minutes=10,
    right=_right_pad,
    cases=ids_cases,
    mistakes=[
        (_in_front, "The padding comes before the words. Here it belongs after them."),
        (_in_front_valid_at_the_end, "The padding comes first, and token_valid says that it comes last."),
        (_cut_to_the_shortest, "Words are lost: every expression is as long as the shortest."),
        (_padded_with_unknown, "Padding has the id of unknown words. Padding has its own id, 0."),
        (_to_twenty, "Every row has 20 places. The longest expression of the batch is enough."),
        (_all_valid, "Padding is marked as real: token_valid is True everywhere."),
        (_inverted, "True means real: token_valid looks inverted."),
        (_one_too_many, "One padded place after each shorter expression is marked as real: off by one."),
        (_one_too_few, "The last word of each expression is marked as padding: off by one."),
        (_valid_as_numbers, "The validity holds 0 and 1. It should be bool, so that ~ and indexing work."),
        (_ids_as_float, "The ids are floats. An embedding takes whole numbers."),
    ],
    verified="lengths of 3, 5 and 1, and a batch without padding",
)


# ---------------------------------------------------------------------------------------- a mean over the real words


def words_cases() -> list[tuple]:
    """words [B,L,C], not zero where padded, and token_valid [B,L]: 3, 2 and 5 words, then one without any."""
    token_valid = torch.arange(5) < torch.tensor([3, 2, 5])[:, None]
    none = token_valid & torch.tensor([[True], [False], [True]])
    return [(numbers(3, 5, 7, seed=1), token_valid), (numbers(3, 5, 7, seed=2), none)]


def _right_mean(words: Tensor, token_valid: Tensor) -> Tensor:
    """[B,C]; zero where no word is real."""
    return masked_mean(words, token_valid[..., None], dim=1)


def _padding_counted(words, token_valid):
    return words.mean(1)


def _divided_by_all(words, token_valid):
    return (words * token_valid[..., None]).mean(1)


def _padding_summed(words, token_valid):
    return words.sum(1) / token_valid.sum(1, keepdim=True).clamp(min=1)


def _one_count_for_all(words, token_valid):
    return (words * token_valid[..., None]).sum(1) / token_valid.sum()


def _sum_of_the_real(words, token_valid):
    return (words * token_valid[..., None]).sum(1)


def _of_nothing(words, token_valid):
    return (words * token_valid[..., None]).sum(1) / token_valid.sum(1, keepdim=True)


def _all_in_one(words, token_valid):
    return words[token_valid].mean(0)


def _of_the_padding(words, token_valid):
    return _right_mean(words, ~token_valid)


def _over_the_batch(words, token_valid):
    return masked_mean(words, token_valid[..., None], dim=0)


sentence_mean = Exercise(
    title="The mean of the real words",
    difficulty=2,
    importance=5,
    minutes=8,
    right=_right_mean,
    cases=words_cases,
    mistakes=[
        (_padding_counted, "Padding is counted: the features of padded places are in the mean."),
        (_divided_by_all, "The sum omits padding, but short sentences come out too small. What is it divided by?"),
        (_padding_summed, "The number of words is right, but the sum runs over the padding too."),
        (_one_count_for_all, "Every sentence is divided by the words of the whole batch."),
        (_sum_of_the_real, "The real words are summed, not averaged: a long sentence gets a long vector."),
        (_of_nothing, "A sentence without any real word gives NaN: zero was divided by zero. It should give zeros."),
        (_all_in_one, "There is one vector for the whole batch: indexing with token_valid loses whose word it was."),
        (_of_the_padding, "It looks like the mean of the padding: token_valid is inverted somewhere."),
        (_over_the_batch, "The mean runs over the batch: sentences are mixed."),
    ],
    verified="padding that is not zero, and a sentence without words",
)


# ------------------------------------------------------------------------------------------------ the last real word


def last_cases() -> list[tuple]:
    """The first of ``words_cases``, and a batch without padding."""
    words, token_valid = words_cases()[0]
    return [(words, token_valid), (words[:, :2], torch.ones(3, 2, dtype=torch.bool))]


def _right_last(words: Tensor, token_valid: Tensor) -> Tensor:
    """[B,C]."""
    return words[torch.arange(len(words)), token_valid.sum(1) - 1]


def _last_place(words, token_valid):
    return words[:, -1]


def _first_word(words, token_valid):
    return words[:, 0]


def _one_after(words, token_valid):
    return words[torch.arange(len(words)), token_valid.sum(1)]


def _one_after_or_last(words, token_valid):
    return words[torch.arange(len(words)), token_valid.sum(1).clamp(max=words.shape[1] - 1)]


def _every_pair(words, token_valid):
    return words[:, token_valid.sum(1) - 1]


def _shortest_for_all(words, token_valid):
    return words[:, token_valid.sum(1).min() - 1]


last_word = Exercise(
    title="The last real word",
    difficulty=2,
    importance=3,
    minutes=8,
    right=_right_last,
    cases=last_cases,
    mistakes=[
        (_last_place, "The last place is taken. In a shorter sentence that is padding."),
        (_first_word, "The first word is taken."),
        (_one_after, "The index runs past the end: off by one. The first word has index 0."),
        (_one_after_or_last, "What is taken comes one place after the last word: off by one."),
        (
            _every_pair,
            "Every sentence is indexed with the places of all sentences: the result has one dimension too many.",
        ),
        (_shortest_for_all, "All sentences are indexed at the same place, the last of the shortest."),
    ],
    verified="lengths of 3, 2 and 5, and a batch without padding",
)
