"""From an expression to token ids and back: a word vocabulary made from training expressions.

Every tokenizer offers ``encode(expression) -> list[int]`` and ``decode(ids) -> list[str]``. Padding is never part
of what they return: ``datasets.collate`` pads and carries ``token_valid`` beside the ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from refseg.errors import RefsegError, first_line, require

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
        max_words: longer expressions are cut after this word.
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

    @property
    def vocabulary(self) -> list[str]:
        """What the class is built from, for a checkpoint."""
        return self.words[2:]

    @property
    def hidden_id(self) -> int:
        """Stands for a word that is hidden: some word, but which is not known."""
        return self.ids[UNK]

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that are not words."""
        return self.ids[PAD], self.ids[UNK]

    def split(self, expression: str) -> list[str]:
        """The words of ``expression``, before any cut: see ``split_words``."""
        return split_words(expression)

    def encode(self, expression: str) -> list[int]:
        """Token ids of the words, at most ``max_words``.

        Raises:
            RefsegError: the expression has no word in it.
        """
        words = self.split(expression)
        if not words:
            raise RefsegError(f"The expression {expression!r} has no word in it: say what to find, e.g. 'the red car'.")
        return [self.ids.get(word, self.ids[UNK]) for word in words[: self.max_words]]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The words of ``ids``, ``<unk>`` and ``<pad>`` spelt out."""
        return [self.words[index] for index in ids]

    def unknown(self, expression: str) -> list[str]:
        """The words of ``expression`` that the vocabulary does not hold, in their order, after the cut too."""
        return [word for word in self.split(expression) if word not in self.ids]


# Whatever is not an ASCII letter, digit or underscore separates two words and is a token itself, spaces included.
_RELEASE_GAP = re.compile(r"(\W+)", re.ASCII)
_RELEASE_PAD, _RELEASE_UNK = 0, 3  # lines of its vocabulary files


class ReleaseVocabulary(WordVocabulary):
    """Words as the authors' release of CMSA reads them (lwye/CMSA-Net, 2019), for checkpoints converted from it.

    It differs from ``WordVocabulary`` where people punctuate: the release keeps the space in ", ", which no vocabulary
    lists, so that the comma of "man, left" is unknown and that of "man,left" is not; "woman's" are three tokens; and
    an accented letter separates two words. The release pads in front and then drops the padding, we pad after: the
    network sees the same words.
    """

    def split(self, expression: str) -> list[str]:
        """Lower-case words and what is between them; a last "." without space is dropped."""
        words = [word.lower() for word in _RELEASE_GAP.split(expression.strip()) if word.strip()]
        return words[:-1] if words[-1:] == ["."] else words

    @classmethod
    def from_file(cls, path: Path, max_words: int = MAX_WORDS) -> tuple[ReleaseVocabulary, list[int]]:
        """The vocabulary in one of the release's files (data/vocabulary_Gref.txt), one word a line.

        Returns:
            the vocabulary, and for each of its ids the line, counted from 0, that holds the word. Of a word that stands
            there twice the last line counts, as in the release.

        Raises:
            RefsegError: no such file, or not one of the release: its lines 0 and 3 are <pad> and <unk>.
        """
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise RefsegError(f"The vocabulary {path} cannot be read ({error}): name a text file.") from error
        listed = [line.strip() for line in text.removesuffix("\n").split("\n")]
        if len(listed) <= _RELEASE_UNK or (listed[_RELEASE_PAD], listed[_RELEASE_UNK]) != (PAD, UNK):
            raise RefsegError(
                f"{path} is not a vocabulary of the CMSA release: its first line should be {PAD} and its fourth {UNK}."
            )
        lines = {word: line for line, word in enumerate(listed) if word not in (PAD, UNK)}
        return cls(list(lines), max_words), [_RELEASE_PAD, _RELEASE_UNK, *lines.values()]


class WordPieces(WordVocabulary):
    """The tokenizer of a pretrained BERT: words, and rarer ones in pieces, between [CLS] and [SEP]; lower case.

    It is the one of transformers, which must be installed (``pip install "refseg[paper]"``).

    Args:
        words: all pieces in the order of their ids, those in brackets among them.
        max_words: positions, [CLS] and [SEP] among them; longer expressions lose pieces before [SEP].

    Raises:
        RefsegError: transformers is missing, or the list is not a vocabulary of BERT.
    """

    def __init__(self, words: Sequence[str], max_words: int = MAX_WORDS):
        transformers = require("transformers", 'Word pieces need transformers: pip install "refseg[paper]".')
        self.words, self.max_words = list(words), max_words
        self.ids = {word: index for index, word in enumerate(self.words)}
        missing = [word for word in _PIECES_IN_BRACKETS if word not in self.ids]
        if missing or len(self.ids) != len(self.words):
            what = f"lacks {', '.join(missing)}" if missing else "lists a piece twice"
            raise RefsegError(f"The vocabulary of word pieces {what}: give the vocab.txt of a BERT.")
        self._tokenizer = transformers.BertTokenizer(vocab=dict(self.ids), do_lower_case=True)

    @classmethod
    def from_pretrained(cls, name: str, max_words: int = MAX_WORDS) -> WordPieces:
        """That of a model of the Hugging Face hub ("bert-base-uncased", fetched once), of a folder, or of a vocab.txt.

        Raises:
            RefsegError: it could not be loaded.
        """
        if Path(name).is_file():
            return cls(Path(name).read_text(encoding="utf-8").splitlines(), max_words)
        try:
            from transformers import BertTokenizer

            ids = BertTokenizer.from_pretrained(name).get_vocab()
            if ids.keys() <= set(_PIECES_IN_BRACKETS):  # what transformers makes of a folder without a vocabulary
                raise FileNotFoundError("no vocabulary there")
        except Exception as error:  # whatever transformers, the hub or the network have to say
            raise RefsegError(
                f"The tokenizer {name!r} could not be loaded ({first_line(error)}): name a model of the hub, a folder "
                "or a vocab.txt."
            ) from error
        return cls(sorted(ids, key=ids.get), max_words)

    @property
    def vocabulary(self) -> list[str]:
        """All pieces."""
        return self.words

    @property
    def hidden_id(self) -> int:
        """BERT's own [MASK]."""
        return self.ids["[MASK]"]

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of what is in brackets."""
        return tuple(index for word, index in self.ids.items() if word.startswith("[") and word.endswith("]"))

    def split(self, expression: str) -> list[str]:
        """All pieces, before any cut, [CLS] and [SEP] among them."""
        return ["[CLS]", *self._tokenizer.tokenize(expression), "[SEP]"]

    def encode(self, expression: str) -> list[int]:
        """Token ids of the pieces, at most ``max_words``, [SEP] the last.

        Raises:
            RefsegError: the expression has no word in it.
        """
        pieces = self.split(expression)[1:-1][: self.max_words - 2]
        if not pieces:
            raise RefsegError(f"The expression {expression!r} has no word in it: say what to find, e.g. 'the red car'.")
        return [self.ids[piece] for piece in ["[CLS]", *pieces, "[SEP]"]]

    def unknown(self, expression: str) -> list[str]:
        """The words of ``expression`` that cannot be put together from pieces."""
        return [word for word in split_words(expression) if "[UNK]" in self._tokenizer.tokenize(word)]


_PIECES_IN_BRACKETS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZERS = {kind.__name__: kind for kind in (WordVocabulary, ReleaseVocabulary, WordPieces)}  # for checkpoints
