"""Words as people type them: capitals, punctuation, apostrophes, accents, 200 words, none at all."""

import random
import unicodedata

import pytest

from refseg.errors import RefsegError
from refseg.tokenizer import MAX_WORDS, PAD, UNK, WordVocabulary, split_words


def test_split_words():
    for expression, words in [
        ("The Woman's RED car, left.", ["the", "woman's", "red", "car", ",", "left"]),
        ("guy on the left (blue/white)", ["guy", "on", "the", "left", "(", "blue", "/", "white", ")"]),
        ("t-shirt", ["t", "-", "shirt"]),
        ("2nd from left; no. 3!", ["2nd", "from", "left", ";", "no", ".", "3", "!"]),
        ("left...", ["left", ".", "."]),  # one full stop at the very end goes, not all
        ("  tabs\tand\nlines  ", ["tabs", "and", "lines"]),
        ("kids' toys, 'cup'", ["kids", "'", "toys", ",", "'", "cup", "'"]),
        ("rock'n'roll don't", ["rock'n'roll", "don't"]),
        ("the woman\N{RIGHT SINGLE QUOTATION MARK}s car", ["the", "woman's", "car"]),  # as phones type it
        ("Caf\N{LATIN SMALL LETTER E WITH ACUTE} STRASSE", ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "strasse"]),
        ("\N{GREEK CAPITAL LETTER OMEGA} sign", ["\N{GREEK SMALL LETTER OMEGA}", "sign"]),
        ("a\N{NO-BREAK SPACE}b", ["a", "b"]),
        ("\N{CAT FACE} left", ["\N{CAT FACE}", "left"]),
        ("<unk> <pad>", ["<", "unk", ">", "<", "pad", ">"]),  # nobody can type the special words
        (".", []),
        (" ", []),
        ("", []),
    ]:
        assert split_words(expression) == words


def test_two_ways_to_write_an_accent_are_one_word():
    composed = "a caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed and split_words(decomposed) == split_words(composed)


def test_ids_go_by_count_then_alphabet():
    vocabulary = WordVocabulary.build(["the red car", "the blue car", "the zebra"])
    assert vocabulary.words == [PAD, UNK, "the", "car", "blue", "red", "zebra"]
    assert vocabulary.encode("The zebra.") == [2, 6]
    assert vocabulary.decode([2, 6, 1, 0]) == ["the", "zebra", UNK, PAD]
    assert len(vocabulary) == 7


def test_ids_do_not_depend_on_the_order_of_the_expressions():
    expressions = [f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("cup", "car", "dog")]
    shuffled = random.Random(3).sample(expressions, len(expressions))
    assert shuffled != expressions
    assert WordVocabulary.build(shuffled).words == WordVocabulary.build(expressions).words


def test_ids_survive_being_stored():
    built = WordVocabulary.build(["the red car's door", "the door"])
    again = WordVocabulary(built.words[2:], built.max_words)
    assert again.ids == built.ids and again.encode("car's red door") == built.encode("car's red door")


def test_rare_words_are_left_out():
    vocabulary = WordVocabulary.build(["red car", "red cup"], min_count=2)
    assert vocabulary.words == [PAD, UNK, "red"]


def test_200_words_are_cut():
    vocabulary = WordVocabulary(["red", "left"])
    long = "red " * 199 + "left"
    assert MAX_WORDS == 20 and vocabulary.encode(long) == [2] * 20
    assert WordVocabulary(["red", "left"], max_words=7).encode(long) == [2] * 7
    assert vocabulary.encode("red " * 19 + "left") == [2] * 19 + [3]


def test_unknown_words_are_named_in_their_order():
    vocabulary = WordVocabulary(["the", "red"])
    assert vocabulary.unknown("Zebra, the red ONE") == ["zebra", ",", "one"]
    assert vocabulary.encode("Zebra, the red ONE") == [1, 1, 2, 3, 1]
    assert vocabulary.unknown("the red") == []
    assert vocabulary.unknown("the " * 20 + "zebra") == ["zebra"]  # though it is not read at all


def test_no_word_is_an_error_that_quotes_the_expression():
    for expression in ["", " \t\n", ".", " . "]:
        with pytest.raises(RefsegError, match="has no word in it") as caught:
            WordVocabulary(["red"]).encode(expression)
        assert repr(expression) in str(caught.value) and "\n" not in str(caught.value)


def test_duplicates_are_refused():
    for words, twice in [(["red", "car", "red"], "red"), (["car", UNK], UNK), ([PAD], PAD)]:
        with pytest.raises(RefsegError, match=f"lists '{twice}' twice"):
            WordVocabulary(words)
