"""The plain objective, and a lesson for the attention: a word's map should lie on what the word is true of. Ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.datasets.refshapes.language import content_words
from refseg.errors import RefsegError
from refseg.objectives.losses import map_loss
from refseg.objectives.segmentation import Segmentation, SegmentationConfig
from refseg.tokenizer import split_words
from refseg.types import Prediction, RefBatch


@dataclass
class SupervisedWordMapsConfig(SegmentationConfig):
    """The weights of ``SegmentationConfig``, and that of the maps."""

    maps: float = 0.5


class SupervisedWordMaps(Segmentation):
    """``Segmentation`` and "maps": minus the log of the share of a word's map that lies on what the word is true of.

    Trained on masks alone, our networks send the attention of all words to one place and read them all the same
    (lesson 09). Masks do not ask for more. This objective does, on all levels, with a truth that only a drawn benchmark
    has: the objects that "red" or "left" is true of, each word for itself. It is no part of any paper.

    Args:
        config, model, classes: as for ``Segmentation``; the model has ``word_maps(batch, trace)``.

    Raises:
        RefsegError: on a batch that does not know what its words are true of.
    """

    def __init__(self, config: SupervisedWordMapsConfig, model: nn.Module | None = None, classes: Sequence[int] = ()):
        super().__init__(config, model, classes)
        self.weights["maps"] = config.maps

    def forward(self, model: nn.Module, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """As ``Segmentation.forward``, and "maps", mean over levels."""
        prediction, losses = super().forward(model, batch)
        maps = getattr(model, "module", model).word_maps(batch, prediction.trace)
        terms = [map_loss(x, true_regions(batch, x.shape[-2:])) for x in maps.values()]
        return prediction, {**losses, "maps": sum(terms) / len(terms)}


def true_regions(batch: RefBatch, grid: tuple[int, int]) -> Tensor:
    """Regions at whose centre lies something that the word is true of: [B,L,h,w] bool, nothing for function words.

    Raises:
        RefsegError: the batch does not know that.
    """
    if batch.objects is None or any(known.word_objects is None for known in batch.annotations):
        raise RefsegError("The batch does not say what its words are true of: use RefShapes with objects=True.")
    objects = F.interpolate(batch.objects.float(), grid, mode="nearest-exact").long()[:, 0]
    true = torch.zeros(*batch.token_ids.shape, *grid, dtype=torch.bool, device=objects.device)
    for b, (expression, known) in enumerate(zip(batch.expressions, batch.annotations, strict=True)):
        words = split_words(expression)[: batch.token_ids.shape[1]]
        for position, _, _, true_of in content_words(words, known.word_objects):
            numbers = [known.object_ids.index(annotation) + 1 for annotation in true_of]
            true[b, position] = torch.isin(objects[b], objects.new_tensor(numbers))
    return true
