"""Mask Grounding after training: what a network guesses in place of hidden words.

Training hides words and has them named again (``objectives.mask_grounding``, our reconstruction). The layers that name
them belong to the objective: no mask needs them, and ``model.safetensors`` holds none of them. A checkpoint may have
them beside it, in ``heads.safetensors``, for anyone who wants to see what the network learned from it.

A word is guessed in three ways: from the other words, the image and the mask; without the mask; and from the other
words alone. The network cannot be asked for the last, because its words have seen the image: a small text encoder does
it, trained on the same expressions and on nothing else. Its guess is the prior.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from refseg.checkpoint import Checkpoint, load_checkpoint
from refseg.errors import RefsegError
from refseg.models.text import TransformerWords, TransformerWordsConfig
from refseg.objectives import MaskGroundingConfig, ObjectiveContext, objective_from_dict
from refseg.objectives.mask_grounding import MaskGrounding
from refseg.types import RefBatch

HEADS = "heads.safetensors"
# What a guess is made from besides the other words: whether the predictor sees the mask; None: ``WordsAlone``. Stored
# readings and findings have these keys.
WAYS = {
    "picture and mask": True,
    "picture": False,
    "words alone": None,
}


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
    stored = loaded.experiment.get("objective")
    for config in objective_from_dict(stored).terms if stored else ():
        if isinstance(config, MaskGroundingConfig):
            model = loaded.model
            return config.build(ObjectiveContext(model.visual_channels, model.trace_channels, (), loaded.tokenizer))
    raise RefsegError("The checkpoint was not trained with Mask Grounding: it has no heads that guess words.")


def _below(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): x for name, x in tensors.items() if name.startswith(f"{part}.")}
