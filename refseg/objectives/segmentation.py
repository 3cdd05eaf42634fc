"""The plain objective: the predicted mask against the referent's mask, BCE plus Dice, and help for a young backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.objectives.losses import binary_cross_entropy, dice_loss
from refseg.types import Prediction, RefBatch

IGNORED = -100  # what cross-entropy passes over


@dataclass
class SegmentationConfig:
    """Weights of the terms; CMSA trained with BCE alone."""

    bce: float = 1.0
    dice: float = 0.5
    semantics: float = 0.0  # more than 0 where the backbone starts from scratch; the data set must know its objects


class Segmentation(nn.Module):
    """(model, batch) -> prediction, {name: loss}. ``weights`` says how the losses add up.

    The logits are compared at the size of the network's input: whatever the stride of its head, two models are
    trained on the same pixels.

    "semantics" is an auxiliary loss of ours for networks without a pretrained backbone: one 1x1 convolution per level
    tells for every region which category (shape), colour, ... its centre shows. The papers' backbones know such things
    from their own training on labelled pictures; without it a network must find out what "star" looks like from masks
    alone, which took several times as long in our trials. With a temporal part its levels are asked as well, where
    "motion" may be an attribute. The convolutions belong to the objective and are not part of a trained model.

    Args:
        config: the weights.
        model: whose backbone the auxiliary classifiers read; needed for ``semantics`` only.
        classes: number of classes of each attribute, "no object" not counted; needed for ``semantics`` only.

    Raises:
        RefsegError: ``semantics`` without a model or classes.
    """

    reads_words = False  # whether the tokenizer is wanted too, see ``build_objective``

    def __init__(self, config: SegmentationConfig, model: nn.Module | None = None, classes: Sequence[int] = ()):
        super().__init__()
        self.weights = {"bce": config.bce, "dice": config.dice}
        self.outputs = [count + 1 for count in classes]
        self.classifiers = nn.ModuleDict()
        if config.semantics:
            if model is None or not classes:
                raise RefsegError("The loss semantics needs a model and a data set with objects: set it to 0 here.")
            self.weights["semantics"] = config.semantics
            for name, channels in model.visual_channels.items():
                self.classifiers[name] = nn.Conv2d(channels, sum(self.outputs), 1)

    def forward(self, model: nn.Module, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """The model's prediction as it is, and "bce", "dice" and perhaps "semantics", scalars and not yet weighted."""
        prediction = model(batch)
        losses = self.mask_terms(prediction, batch)
        if self.classifiers:
            losses["semantics"] = self._semantics(prediction.trace, batch)
        return prediction, losses

    def mask_terms(self, prediction: Prediction, batch: RefBatch) -> dict[str, Tensor]:
        """The terms "bce" and "dice": of the last mask here, ``mean_over_steps`` where earlier ones are trained too."""
        return mask_losses(prediction.mask_logits, batch)

    def _semantics(self, trace: dict[str, Tensor], batch: RefBatch) -> Tensor:
        """Cross-entropy, mean over levels, attributes and regions."""
        features = {name: trace[name] for name in self.classifiers}
        truths = {grid: region_classes(batch, grid) for grid in {x.shape[-2:] for x in features.values()}}
        terms = []
        for name, x in features.items():
            answers = self.classifiers[name](x).split(self.outputs, dim=1)
            for logits, wanted in zip(answers, truths[x.shape[-2:]].unbind(1), strict=True):
                terms.append(F.cross_entropy(logits.float(), wanted, ignore_index=IGNORED))
        return sum(terms) / len(terms)


def mask_losses(mask_logits: Tensor, batch: RefBatch) -> dict[str, Tensor]:
    """The terms "bce" and "dice" of [B,1,h,w] at the size of the network's input."""
    size = batch.mask.shape[-2:]
    logits = F.interpolate(mask_logits.float(), size, mode="bilinear", align_corners=False)
    truth = batch.mask, batch.pixel_valid
    return {"bce": binary_cross_entropy(logits, *truth), "dice": dice_loss(logits, *truth)}


def mean_over_steps(prediction: Prediction, batch: RefBatch) -> dict[str, Tensor]:
    """Both terms as means over the masks of all steps: trace["masks/0"], ... and the last (deep supervision)."""
    steps = [logits for name, logits in prediction.trace.items() if name.startswith("masks/")]
    losses = [mask_losses(logits, batch) for logits in [*steps, prediction.mask_logits]]
    return {name: sum(step[name] for step in losses) / len(losses) for name in losses[0]}


def region_classes(batch: RefBatch, grid: tuple[int, int]) -> Tensor:
    """Class of the object at the centre of every region, by attribute: [B,A,h,w] int64.

    0 where there is no object, ``IGNORED`` where the batch is padded.

    Raises:
        RefsegError: the batch does not know its objects.
    """
    if batch.objects is None:
        raise RefsegError("The batch does not say what its pixels show: build its data set with objects=True.")
    objects = F.interpolate(batch.objects.float(), grid, mode="nearest-exact").long()
    valid = F.interpolate(batch.pixel_valid.float(), grid, mode="nearest-exact") > 0
    classes = batch.object_classes.mT  # [B,A,K+1]
    at_regions = classes.gather(2, objects.flatten(2).expand(-1, classes.shape[1], -1)).unflatten(2, grid)
    return at_regions.masked_fill(~valid, IGNORED)
