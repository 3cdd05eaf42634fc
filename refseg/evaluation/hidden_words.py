"""Hidden words and what is guessed in their place: Mask Grounding, asked after training.

Training hides words and has them named again (``objectives.mask_grounding``, our reconstruction). The layers that name
them belong to the objective: no mask needs them, and ``model.safetensors`` holds nothing of them. A checkpoint may have
them beside it, in ``heads.safetensors``, for who wants to see what the network learned by it.

A word is guessed in three ways: from the other words, the picture and the mask; without the mask; and from the other
words alone. The last cannot be asked of the network, whose words have seen the picture: a small text encoder does it,
trained on the same sentences and on nothing else. Its guess is the prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from refseg.checkpoint import Checkpoint, load_checkpoint, load_training
from refseg.datasets import Collate
from refseg.datasets.refshapes.scene import ATTRIBUTES
from refseg.datasets.refshapes.wording import SYNONYMS, content_words
from refseg.datasets.wrappers import Samples
from refseg.errors import RefsegError
from refseg.models.text import TransformerWords, TransformerWordsConfig
from refseg.objectives import MaskGroundingConfig, ObjectiveContext, objective_from_dict
from refseg.objectives.mask_grounding import MaskGrounding
from refseg.types import Annotations, RefBatch

HEADS = "heads.safetensors"
WAYS = {  # what a guess is made from besides the other words, and what ``MaskGrounding.logits`` is asked for
    "picture and mask": {},
    "picture": {"see_mask": False},
    "words alone": None,
}
ASKED = ("colour", "shape")  # kinds of words that are hidden when recovery is measured
# Every word for a colour or a shape, and what it means: "disc" is right for "circle".
MEANING = {text: value for kind in ASKED for value in ATTRIBUTES[kind] for text in SYNONYMS.get(value, (value,))}


class WordsAlone(nn.Module):
    """A text encoder that names hidden words from their neighbours: what a guess is worth without the picture."""

    def __init__(self, vocabulary_size: int):
        super().__init__()
        self.text = TransformerWords(TransformerWordsConfig(dim=32), vocabulary_size)
        self.head = nn.Linear(self.text.channels, vocabulary_size)

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> Tensor:
        """[B,L] -> logits [B,L,V]."""
        return self.head(self.text(token_ids, token_valid)[0])


class WordGuesser:
    """A network with the heads that it was trained with.

    Args:
        loaded: the network.
        heads: "predictor.*" of the objective, and "alone.*" of ``WordsAlone``.

    Raises:
        RefsegError: the heads are not those of this network.
    """

    def __init__(self, loaded: Checkpoint, heads: dict[str, Tensor]):
        self.model, self.tokenizer, self.image_size = loaded.model, loaded.tokenizer, loaded.image_size
        self.grounding = grounding_of(loaded)
        self.alone = WordsAlone(len(self.tokenizer))
        try:
            self.grounding.predictor.load_state_dict(_below(heads, "predictor"))
            self.alone.load_state_dict(_below(heads, "alone"))
        except RuntimeError as error:
            raise RefsegError(
                f"The heads do not fit the network ({str(error).splitlines()[1].strip()}): copy the checkpoint again."
            ) from error
        for part in (self.grounding, self.alone):
            part.to(next(self.model.parameters()).device).eval()

    @classmethod
    def of(cls, folder: Path, loaded: Checkpoint | None = None) -> WordGuesser | None:
        """That of a checkpoint; None if it has no heads.

        Raises:
            RefsegError: see ``load_checkpoint``; or the heads are damaged.
        """
        path = Path(folder) / HEADS
        if not path.is_file():
            return None
        try:
            heads = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RefsegError(f"{path} is damaged ({error}): copy the checkpoint again.") from error
        return cls(loaded or load_checkpoint(folder), heads)

    def may_be_hidden(self, token_ids: Tensor) -> Tensor:
        """Which words can be asked for, bool like ``token_ids``: those that training hid, and those it does not know.

        A word that is not in the vocabulary is a hidden one already.
        """
        return self.grounding.hideable[token_ids] | (token_ids == self.tokenizer.hidden_id)

    @torch.no_grad()
    def guess(self, batch: RefBatch, hidden: Tensor) -> dict[str, Tensor]:
        """By way, the probabilities of every word of the vocabulary where ``hidden`` [B,L] is True: [N,V] each."""
        read = self.grounding.hide(batch, hidden)
        prediction = self.model(read)
        found = {}
        for way, seen in WAYS.items():
            if seen is None:
                logits = self.alone(read.token_ids, read.token_valid)[hidden]
            else:
                logits = self.grounding.logits(prediction, read, self.model, hidden, **seen)
            found[way] = logits.softmax(-1)
        return found

    def best(self, probabilities: Tensor, count: int = 5) -> list[tuple[str, float]]:
        """The most probable words of one guess [V], the first one first."""
        values, ids = probabilities.topk(count)
        return list(zip(self.tokenizer.decode(ids.tolist()), values.tolist(), strict=True))


def grounding_of(loaded: Checkpoint) -> MaskGrounding:
    """The term Mask Grounding of the objective that a checkpoint was trained with, its heads not yet loaded.

    Raises:
        RefsegError: it was trained without.
    """
    experiment = loaded.config["record"].get("experiment") or {}
    stored = experiment.get("objective")
    for config in objective_from_dict(stored).terms if stored else ():
        if isinstance(config, MaskGroundingConfig):
            model = loaded.model
            return config.build(ObjectiveContext(model.visual_channels, model.trace_channels, (), loaded.tokenizer))
    raise RefsegError("The checkpoint was not trained with Mask Grounding: it has no heads that guess words.")


def trained_heads(last: Path, alone: WordsAlone) -> dict[str, Tensor]:
    """The heads of a training's ``last/`` checkpoint, and ``alone`` with them, named as ``WordGuesser`` takes them.

    Raises:
        RefsegError: the checkpoint has no state of the objective: it is not the last one of a training.
    """
    heads = (load_training(last) or {}).get("objective", {})
    predictor = {name.partition("predictor.")[2]: x for name, x in heads.items() if "predictor." in name}
    if not predictor:
        raise RefsegError("The checkpoint has no heads: take the folder last/ of a training with Mask Grounding.")
    parts = {"predictor": predictor, "alone": alone.state_dict()}
    return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def write_heads(folder: Path, heads: dict[str, Tensor]) -> None:
    """Put heads beside the weights of a checkpoint."""
    save_file({name: tensor.contiguous().clone() for name, tensor in heads.items()}, Path(folder) / HEADS)


def _below(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): x for name, x in tensors.items() if name.startswith(f"{part}.")}


# ---- how often hidden words come back --------------------------------------------------------------------------------


@dataclass
class Tally:
    """How often a hidden word came back: first of all words, and first among the words of its kind."""

    asked: dict[str, int] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)
    right_of_kind: dict[str, int] = field(default_factory=dict)

    def count(self, group: str, guess: str, guess_of_kind: str, hidden: str) -> None:
        """One word that was hidden; synonyms count as right."""
        for table, given in ((self.right, guess), (self.right_of_kind, guess_of_kind)):
            table[group] = table.get(group, 0) + (MEANING.get(given) == MEANING[hidden])
        self.asked[group] = self.asked.get(group, 0) + 1

    def shares(self, of_kind: bool = False) -> dict[str, float]:
        """By group."""
        right = self.right_of_kind if of_kind else self.right
        return {group: right[group] / count for group, count in sorted(self.asked.items())}


def recover(guesser: WordGuesser, dataset: Samples, samples: int | None = None) -> dict[str, Tally]:
    """Hide every colour and shape word of RefShapes, one at a time, and let it be guessed; one tally for each way.

    Args:
        dataset: of RefShapes, prepared for the network.
        samples: look at about so many expressions, spread over the data set; None looks at all.
    """
    step = max(1, len(dataset) // samples) if samples else 1
    chosen = Subset(dataset, range(0, len(dataset), step))
    tallies = {way: Tally() for way in WAYS}
    kinds = {kind: _ids_of(guesser, kind) for kind in ASKED}
    for batch in DataLoader(chosen, batch_size=32, collate_fn=Collate(guesser.tokenizer)):
        for rows, hidden, words, groups in hidden_words(batch):
            for way, probabilities in guesser.guess(rows, hidden).items():
                for word, group, row in zip(words, groups, probabilities, strict=True):
                    ids = kinds[group.split()[0]]
                    best, best_of_kind = guesser.tokenizer.decode([int(row.argmax()), int(ids[row[ids].argmax()])])
                    tallies[way].count(group, best, best_of_kind, word)
    return tallies


def hidden_words(batch: RefBatch) -> Iterator[tuple[RefBatch, Tensor, list[str], list[str]]]:
    """The batch as often as its richest sentence has words to hide, each time with those that have one left.

    Yields:
        the samples, hidden [B,L] with one True per row, the hidden words, and groups like "shape of the referent"
    """
    places = [list(_places(*sample)) for sample in zip(batch.expressions, batch.annotations, strict=True)]
    for turn in range(max(map(len, places))):
        rows = [row for row, found in enumerate(places) if turn < len(found)]
        hidden = torch.zeros(len(rows), batch.token_ids.shape[1], dtype=torch.bool)
        for n, row in enumerate(rows):
            hidden[n, places[row][turn][0]] = True
        asked = [places[row][turn] for row in rows]
        yield batch.rows(rows), hidden, [word for _, word, _ in asked], [group for _, _, group in asked]


def _places(expression: str, annotations: Annotations) -> Iterator[tuple[int, str, str]]:
    for position, word, kind, true_of in content_words(expression.split(), annotations.word_objects or ()):
        if kind in ASKED:
            of = "the referent" if annotations.ann_id in true_of else "another"
            yield position, word, f"{kind} of {of}"


def _ids_of(guesser: WordGuesser, kind: str) -> Tensor:
    """The words of the vocabulary for a colour, or a shape."""
    meant = set(ATTRIBUTES[kind])
    ids = [index for index, word in enumerate(guesser.tokenizer.words) if MEANING.get(word) in meant]
    return torch.tensor(ids)
