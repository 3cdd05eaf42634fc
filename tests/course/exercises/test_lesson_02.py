"""Answers as students write them."""

import torch
from torch.nn.utils.rnn import pad_sequence

from refseg.tokenizer import WordVocabulary
from refseg_course.exercises import lesson_02 as check


def encode(expression, ids, max_words):
    words = expression.lower().rstrip(".").split()
    return [ids[word] if word in ids else 1 for word in words[:max_words]]


def pad_batch(ids):
    rows = pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
    return rows, rows != 0


def sentence_mean(words, token_valid):
    return torch.stack([rows[real].sum(0) / max(1, int(real.sum())) for rows, real in zip(words, token_valid)])


def last_word(words, token_valid):
    return torch.stack([rows[real][-1] for rows, real in zip(words, token_valid)])


def test_answers_of_students_pass(capsys):
    check.encode(encode)
    check.pad_batch(pad_batch)
    check.sentence_mean(sentence_mean)
    check.last_word(last_word)
    assert capsys.readouterr().out.count("OK") == 4


def test_the_check_agrees_with_the_vocabulary():
    words = list(check.IDS)[2:]
    for expression, _, max_words in check.encode_cases():
        vocabulary = WordVocabulary(words, max_words)
        assert vocabulary.encode(expression) == check._right_encode(expression, vocabulary.ids, max_words)
