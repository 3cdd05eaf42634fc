"""Mask Grounding: hidden words are named from the other words, the image and the mask (MagNet, Chng et al., CVPR 2024).

The authors released no training code, and the text of the paper was not at hand. **This term is our reconstruction.**
Known is: words are hidden at random among all that are not special; the language encoder's words O, the image features
P and an encoding C of the mask go, one after the other, into a predictor that names the hidden words,
L = CE(y, Predictor([O; P; C])); none of it is used for prediction. That C encodes the centre of the mask is recalled,
not read. Rates, widths, depths and weights are ours where no source is named.

It trains any model whose trace has a feature per word and a map of pixels, and adds nothing to the model's weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.errors import RefsegError
from refseg.models.base import ReferringModel
from refseg.objectives.base import ObjectiveContext, Term, TermConfig
from refseg.objectives.losses import hidden_word_loss
from refseg.objectives.word_predictor import WordPredictor
from refseg.tokenizer import WordVocabulary
from refseg.types import Prediction, RefBatch

# Words that say nothing about the referent: they are never hidden.
UNINFORMATIVE = frozenset("a an the of to in on at with from is are that which who it its and or , . ; : ! ?".split())
NOT_HIDDEN = -1  # in ``RefBatch.hidden_words``


@dataclass(frozen=True)
class MaskGroundingConfig(TermConfig):
    """Weight of the loss "ground", how words are hidden, and the sizes of the predictor."""

    weight: float = 1.0
    hidden: float = 0.15  # share of the words that are hidden; at least one in a sample
    unreplaced: float = 0.1  # share of these that are asked for although they stay in the expression (ovr-cnn's rate)
    samples: float = 1.0  # share of the samples in which words are hidden; the others train the mask alone
    mask_dropout: float = 0.1  # share of the samples whose mask the predictor does not see (ours), so that one can ask
    # for a guess without it afterwards
    pixels: str = "pixels"  # entry of the trace that the predictor looks at
    grid: int = 15
    dim: int = 768
    layers: int = 2
    heads: int = 12

    def build(self, context: ObjectiveContext) -> MaskGrounding:
        return MaskGrounding(self, context)


class MaskGrounding(Term):
    """The loss "ground": the cross-entropy of the hidden words.

    The model reads the expression with its hidden words, for the mask as well: one forward pass serves both. The words
    are those of the trace; a model whose ``trace_channels`` has "pooled_words" (CMSA) gives in their place what each
    word makes of the referent's regions.

    Raises:
        RefsegError: no tokenizer, or a model without words or the named pixels in its trace.
    """

    hideable: Tensor  # [V] bool, whether a token may be hidden

    def __init__(self, config: MaskGroundingConfig, context: ObjectiveContext):
        super().__init__({"ground": config.weight})
        context.require(config, "words", config.pixels)
        if context.tokenizer is None:
            raise RefsegError("MaskGroundingConfig needs the tokenizer of the expressions: pass it to build_objective.")
        self.config, widths = config, context.trace_channels
        self.words = "pooled_words" if "pooled_words" in widths else "words"
        self.hidden_id = context.tokenizer.hidden_id
        self.register_buffer("hideable", hideable_ids(context.tokenizer), persistent=False)
        sizes = len(context.tokenizer), config.dim, config.layers, config.heads, config.grid
        self.predictor = WordPredictor((widths[self.words], widths[config.pixels]), *sizes)

    def prepare(self, batch: RefBatch) -> RefBatch:
        """The batch with some words hidden; ``hidden_words`` says which they were."""
        candidates = batch.token_valid & self.hideable[batch.token_ids]
        asked = torch.rand(len(batch), device=candidates.device) < self.config.samples
        hidden = hide_some(candidates & asked[:, None], self.config.hidden)
        replaced = hidden & (torch.rand(hidden.shape, device=hidden.device) >= self.config.unreplaced)
        return replace(self.hide(batch, replaced), hidden_words=torch.where(hidden, batch.token_ids, NOT_HIDDEN))

    def hide(self, batch: RefBatch, hidden: Tensor) -> RefBatch:
        """The batch without the words where ``hidden`` [B,L] is True."""
        return replace(batch, token_ids=batch.token_ids.masked_fill(hidden, self.hidden_id))

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        assert batch.hidden_words is not None, "prepare was not called"
        hidden = batch.hidden_words != NOT_HIDDEN
        shown = torch.rand(len(batch), 1, 1, 1, device=hidden.device) >= self.config.mask_dropout
        logits = self.logits(prediction, replace(batch, mask=batch.mask & shown), model, hidden)
        return {"ground": hidden_word_loss(logits.float(), batch.hidden_words[hidden])}

    def logits(
        self, prediction: Prediction, batch: RefBatch, model: ReferringModel, hidden: Tensor, see_mask: bool = True
    ) -> Tensor:
        """Logits of every word of the vocabulary where ``hidden`` [B,L] is True: [N,V], in reading order.

        Args:
            prediction: of ``model`` for ``batch``, in which the words are hidden already.
            see_mask: whether the predictor may.

        Raises:
            RefsegError: the model gives no feature per word.
        """
        words, pixels = prediction.trace["words"], prediction.trace[self.config.pixels]
        if self.words == "pooled_words":
            where = batch.mask if see_mask else torch.zeros_like(batch.mask)
            words = model.pooled_words(batch, prediction.trace, where)
        if words.shape[1] < batch.token_ids.shape[1]:
            raise RefsegError("The model gives one feature per expression, Mask Grounding needs one per word.")
        rows = hidden.any(1).nonzero()[:, 0]  # the other samples would cost and not count
        if len(rows) == 0:
            rows = torch.arange(len(batch), device=hidden.device)  # so that every weight has a gradient, of zero
        mask = batch.mask[rows] if see_mask else None
        features = self.predictor(words[rows], prediction.trace["words_valid"][rows], pixels[rows], mask)
        return self.predictor.head(features[:, : hidden.shape[1]][hidden[rows]])


def hideable_ids(tokenizer: WordVocabulary) -> Tensor:
    """Which words of the vocabulary may be hidden, [V] bool: no special ones and none that say nothing."""
    special = set(tokenizer.special_ids)
    return torch.tensor(
        [index not in special and word not in UNINFORMATIVE for index, word in enumerate(tokenizer.words)]
    )


def hide_some(candidates: Tensor, share: float) -> Tensor:
    """Each candidate with probability ``share``, and one at random where none was drawn: [B,L] bool -> [B,L] bool."""
    draws = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2.0)
    lowest = F.one_hot(draws.argmin(1), draws.shape[1]).bool()
    return candidates & ((draws < share) | lowest)
