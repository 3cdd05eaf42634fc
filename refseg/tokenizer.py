"""From an expression to token ids and back: a word vocabulary made from training expressions.

Every tokenizer offers ``encode(expression) -> list[int]`` and ``decode(ids) -> list[str]``. Padding is never part
of what they return: ``datasets.collate`` pads and carries ``token_valid`` beside the ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from refseg.errors import RefsegError

PAD, UNK = "<pad>", "<unk>"
MAX_WORDS = 20  # the length used by the authors' release of CMSA; longer expressions lose their tail

# A word is a run of letters and digits, an apostrophe inside included ("woman's"); any other visible sign is a token.
_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")


def split_words(expression: str) -> list[str]:
    """Lower-case words and punctuation signs; a full stop at the very end is dropped.

    An accent may be written as one sign with its letter or as a sign of its own, an apostrophe straight or curled (as
    phones do): both ways give the same word.

    >>> split_words("The woman's red car, left.")
    ['the', "woman's", 'red', 'car', ',', 'left']
    """
    text = unicodedata.normalize("NFC", expression.lower()).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    words = _WORD.findall(text)
    return words[:-1] if words and words[-1] == "." else words


class WordVocabulary:
    """A closed list of words; id 0 is padding and id 1 stands for every unknown word.

    Args:
        words: the words without the two special ones, in the order of their ids.
        max_words: longer expressions are cut behind this word.
    """

    def __init__(self, words: Sequence[str], max_words: int = MAX_WORDS):
        self.words = [PAD, UNK, *words]
        self.ids = {word: index for index, word in enumerate(self.words)}
        self.max_words = max_words
        if len(self.ids) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise RefsegError(f"The vocabulary lists {twice[0]!r} twice: every word must stand in it once.")

    @classmethod
    def build(cls, expressions: Iterable[str], min_count: int = 1, max_words: int = MAX_WORDS) -> WordVocabulary:
        """The words of ``expressions`` seen at least ``min_count`` times, most frequent first, ties by alphabet."""
        counts = Counter(word for expression in expressions for word in split_words(expression))
        kept = sorted((w for w, n in counts.items() if n >= min_count), key=lambda word: (-counts[word], word))
        return cls(kept, max_words)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, expression: str) -> list[int]:
        """Token ids of the words, at most ``max_words``.

        Raises:
            RefsegError: the expression has no word in it.
        """
        words = split_words(expression)
        if not words:
            raise RefsegError(f"The expression {expression!r} has no word in it: say what to find, e.g. 'the red car'.")
        return [self.ids.get(word, self.ids[UNK]) for word in words[: self.max_words]]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of ``ids``, ``<unk>`` and ``<pad>`` spelt out."""
        return [self.words[index] for index in ids]

    def unknown(self, expression: str) -> list[str]:
        """The words of ``expression`` that the vocabulary does not hold, in their order, behind the cut too."""
        return [word for word in split_words(expression) if word not in self.ids]
