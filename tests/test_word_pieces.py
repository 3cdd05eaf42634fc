"""The tokenizer of a pretrained BERT, on a small vocabulary that these tests write."""

import json

import pytest

from refseg.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.models.magnet import MagNetConfig
from refseg.objectives.mask_grounding import hideable_ids
from refseg.tokenizer import WordPieces

pytest.importorskip("transformers")

PIECES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "red", "star", "##s", "le", "##ft", ","]


@pytest.fixture
def tokenizer():
    return WordPieces(PIECES)


def test_words_and_pieces_of_words(tokenizer):
    ids = tokenizer.encode("The RED stars, left")
    assert ids == [3, 6, 7, 8, 9, 12, 10, 11, 4]
    assert tokenizer.decode(ids) == ["[CLS]", "the", "red", "star", "##s", ",", "le", "##ft", "[SEP]"]
    assert tokenizer.split("the red star") == ["[CLS]", "the", "red", "star", "[SEP]"] and len(tokenizer) == 13


def test_a_long_expression_keeps_its_end(tokenizer):
    ids = tokenizer.encode("red star " * 15)
    assert len(ids) == 20 and ids[0] == 3 and ids[-1] == 4 and ids[1:-1] == [7, 8] * 9
    assert len(tokenizer.split("red star " * 15)) == 32


def test_unknown_words(tokenizer):
    assert tokenizer.encode("red dog") == [3, 7, 2, 4] and tokenizer.unknown("red dog, lefts") == ["dog"]


def test_an_expression_without_words_is_refused(tokenizer):
    for expression in ["", "  ", "\n"]:
        with pytest.raises(RefsegError, match="has no word in it"):
            tokenizer.encode(expression)


def test_what_may_be_hidden(tokenizer):
    assert tokenizer.hidden_id == 5 and tokenizer.special_ids == (0, 1, 2, 3, 4, 5)
    may = [piece for piece, yes in zip(PIECES, hideable_ids(tokenizer)) if yes]
    assert may == ["red", "star", "##s", "le", "##ft"]


def test_from_a_file_or_a_folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    assert WordPieces.from_pretrained(str(tmp_path / "vocab.txt"), max_words=7).words == PIECES
    with pytest.raises(RefsegError, match="'nothing/here' could not be loaded"):
        WordPieces.from_pretrained("nothing/here")
    (tmp_path / "words.txt").write_text("red\nstar\n")
    with pytest.raises(RefsegError, match=r"lacks \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\]"):
        WordPieces.from_pretrained(str(tmp_path / "words.txt"))
    with pytest.raises(RefsegError, match="lists a piece twice"):
        WordPieces([*PIECES, "red"])


def test_a_checkpoint_keeps_the_pieces(tokenizer, tmp_path):
    save_checkpoint(tmp_path / "net", Checkpoint(build_model(MagNetConfig.lesson(), len(tokenizer)), tokenizer, 96))
    loaded = load_checkpoint(tmp_path / "net").tokenizer
    assert json.loads((tmp_path / "net" / "config.json").read_text())["vocabulary"] == PIECES
    assert type(loaded) is WordPieces and loaded.encode("red stars") == tokenizer.encode("red stars")
