"""Hidden words and what is guessed in their place: Mask Grounding, asked after training.

Training hides words and has them named again (``objectives.mask_grounding``, our reconstruction). The layers that name
them belong to the objective: no mask needs them, and ``model.safetensors`` holds none of them. A checkpoint may have
them beside it, in ``heads.safetensors``, for anyone who wants to see what the network learned from it.

A word is guessed in three ways: from the other words, the image and the mask; without the mask; and from the other
words alone. The network cannot be asked for the last, because its words have seen the image: a small text encoder does
it, trained on the same expressions and on nothing else. Its guess is the prior.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from refseg.checkpoint import Checkpoint, load_checkpoint, load_training
from refseg.datasets import Collate
from refseg.datasets.wrappers import Samples
from refseg.errors import RefsegError
from refseg.models.text import TransformerWords, TransformerWordsConfig
from refseg.objectives import MaskGroundingConfig, ObjectiveContext, objective_from_dict
from refseg.objectives.mask_grounding import MaskGrounding
from refseg.types import RefBatch

HEADS = "heads.safetensors"
WAYS = {  # what a guess is made from besides the other words: whether the predictor sees the mask; None: ``WordsAlone``
    "picture and mask": True,
    "picture": False,
    "words alone": None,
}
Meanings = dict[str, dict[str, str]]  # by kind of word, what each word of it means: "disc" means "circle"


class WordsAlone(nn.Module):
    """A text encoder that names hidden words from their neighbours: what a guess is worth without the image."""

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
        """The guesser of a checkpoint; None if it has no heads.

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
        """Which words can be asked for, bool like ``token_ids``: those that training hid, and unknown ones.

        A word that is not in the vocabulary is already hidden.
        """
        return self.grounding.hideable[token_ids] | (token_ids == self.tokenizer.hidden_id)

    @torch.no_grad()
    def guess(self, batch: RefBatch, hidden: Tensor) -> dict[str, Tensor]:
        """Probabilities of every word of the vocabulary where ``hidden`` [B,L] is True, by way: [N,V] each."""
        read = self.grounding.hide(batch, hidden)
        prediction = self.model(read)
        found = {}
        for way, see_mask in WAYS.items():
            if see_mask is None:
                logits = self.alone(read.token_ids, read.token_valid)[hidden]
            else:
                logits = self.grounding.logits(prediction, read, self.model, hidden, see_mask)
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
    """How often a hidden word came back, by group: first of all words, and first among the words of its kind."""

    asked: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    right_of_kind: Counter = field(default_factory=Counter)

    def shares(self, of_kind: bool = False) -> dict[str, float]:
        """By group."""
        right = self.right_of_kind if of_kind else self.right
        return {group: right[group] / count for group, count in sorted(self.asked.items())}


class Hole(NamedTuple):
    """A word that can be hidden."""

    position: int
    word: str
    kind: str
    group: str  # such as "shape of the referent"


def recover(guesser: WordGuesser, dataset: Samples, meanings: Meanings, samples: int | None = None) -> dict[str, Tally]:
    """Hide every word of some kinds, one at a time, and let it be guessed; synonyms count as right.

    Args:
        dataset: that knows what its words are true of (RefShapes), prepared for the network.
        meanings: the kinds.
        samples: use about this many expressions, spread over the data set; None uses all.

    Returns:
        one tally for each way
    """
    step = max(1, len(dataset) // samples) if samples else 1
    chosen = Subset(dataset, range(0, len(dataset), step))
    words, tallies = guesser.tokenizer.words, {way: Tally() for way in WAYS}
    ids = {kind: torch.tensor([i for i, word in enumerate(words) if word in of]) for kind, of in meanings.items()}
    for batch in DataLoader(chosen, batch_size=32, collate_fn=Collate(guesser.tokenizer)):
        for rows, hidden, holes in hidden_words(batch, meanings):
            for way, probabilities in guesser.guess(rows, hidden).items():
                for hole, row in zip(holes, probabilities, strict=True):
                    means, of_kind = meanings[hole.kind], ids[hole.kind]
                    best, best_of_kind = words[int(row.argmax())], words[int(of_kind[row[of_kind].argmax()])]
                    tallies[way].asked[hole.group] += 1
                    tallies[way].right[hole.group] += means.get(best) == means[hole.word]
                    tallies[way].right_of_kind[hole.group] += means[best_of_kind] == means[hole.word]
    return tallies


def hidden_words(batch: RefBatch, meanings: Meanings) -> Iterator[tuple[RefBatch, Tensor, list[Hole]]]:
    """The batch as often as its richest expression has words to hide, each time with those that have one left.

    Yields:
        the samples, hidden [B,L] with one True per row, and what is hidden
    """
    holes = [list(_holes(batch, row, meanings)) for row in range(len(batch))]
    for turn in range(max(map(len, holes))):
        rows = [row for row, found in enumerate(holes) if turn < len(found)]
        chosen = [holes[row][turn] for row in rows]
        hidden = torch.zeros(len(rows), batch.token_ids.shape[1], dtype=torch.bool)
        hidden[range(len(rows)), [hole.position for hole in chosen]] = True
        yield batch.rows(rows), hidden, chosen


def _holes(batch: RefBatch, row: int, meanings: Meanings) -> Iterator[Hole]:
    known = batch.annotations[row]
    for position, (word, true_of) in enumerate(zip(batch.expressions[row].split(), known.word_objects or ())):
        for kind in meanings:
            if word in meanings[kind] and true_of:
                of = "the referent" if known.ann_id in true_of else "another"
                yield Hole(position, word, kind, f"{kind} of {of}")
