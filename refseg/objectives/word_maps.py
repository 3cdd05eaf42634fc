"""A lesson for the attention: a word's map should lie on what the word is true of. Ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from refseg.errors import RefsegError
from refseg.models.base import ReferringModel
from refseg.objectives.base import ObjectiveContext, Term, TermConfig
from refseg.objectives.losses import map_loss, mean_of
from refseg.types import Prediction, RefBatch


@dataclass(frozen=True)
class SupervisedWordMapsConfig(TermConfig):
    """Weight of the loss "maps"."""

    weight: float = 0.5
    needs_objects: ClassVar[bool] = True

    def build(self, context: ObjectiveContext) -> SupervisedWordMaps:
        return SupervisedWordMaps({"maps": self.weight})


class SupervisedWordMaps(Term):
    """The loss "maps": minus the log of the share of a word's map that lies on what the word is true of, by level.

    Trained on masks alone, our networks send the attention of all words to one place and read them all the same
    (lesson 09). Masks do not ask for more. This term does, with a truth that only a drawn benchmark has: the objects
    that "red" or "left" is true of, each word by itself. It is not part of any paper.
    """

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        """Mean over levels. Raises: RefsegError: the batch does not know what its words are true of."""
        maps = model.explain(batch, prediction).word_maps
        losses = [map_loss(x, true_regions(batch, x.shape[-2:])) for x in maps.values()]
        return {"maps": mean_of(losses)}


def true_regions(batch: RefBatch, grid: tuple[int, ...]) -> Tensor:
    """Regions whose centre shows something that the word is true of: [B,L,h,w] bool, False for function words.

    Raises:
        RefsegError: the batch does not know that.
    """
    if batch.objects is None or any(known.word_objects is None for known in batch.annotations):
        raise RefsegError("The batch does not say what its words are true of: use RefShapes with objects=True.")
    objects = F.interpolate(batch.objects.float(), grid, mode="nearest-exact").long()[:, 0]
    true = torch.zeros(*batch.token_ids.shape, *grid, dtype=torch.bool, device=objects.device)
    for b, known in enumerate(batch.annotations):
        ids = known.object_ids or []
        for position, true_of in enumerate((known.word_objects or [])[: true.shape[1]]):
            numbers = [ids.index(annotation) + 1 for annotation in true_of or ()]
            true[b, position] = torch.isin(objects[b], objects.new_tensor(numbers))
    return true
