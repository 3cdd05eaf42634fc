"""The terms of every objective: the predicted mask against the referent's, and help for a young backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.base import ReferringModel
from refseg.objectives.base import ObjectiveContext, Term, TermConfig
from refseg.objectives.losses import binary_cross_entropy, dice_loss, mean_of
from refseg.types import Prediction, RefBatch

IGNORED = -100  # what cross-entropy passes over


@dataclass(frozen=True)
class MaskLossConfig(TermConfig):
    """Weights of binary cross-entropy and Dice; CMSA was trained with the first alone."""

    bce: float = 1.0
    dice: float = 0.5
    deep_supervision: bool = False  # means over the masks of all steps of a decoder, not the last mask alone

    def build(self, context: ObjectiveContext) -> MaskLoss:
        return MaskLoss(self)


class MaskLoss(Term):
    """The losses "bce" and "dice" of the mask, compared at the size of the network's input.

    So two models are trained on the same pixels, whatever the strides of their heads. With deep supervision the masks
    of earlier steps, trace["masks/0"], ..., count as much as the last one.
    """

    def __init__(self, config: MaskLossConfig):
        super().__init__({"bce": config.bce, "dice": config.dice})
        self.deep_supervision = config.deep_supervision

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        masks = [prediction.mask_logits]
        if self.deep_supervision:
            earlier = [logits for name, logits in prediction.trace.items() if name.startswith("masks/")]
            masks = earlier + masks
        truth = batch.mask, batch.pixel_valid
        bce, dice = [], []
        for mask_logits in masks:
            logits = F.interpolate(mask_logits.float(), truth[0].shape[-2:], mode="bilinear", align_corners=False)
            bce.append(binary_cross_entropy(logits, *truth))
            dice.append(dice_loss(logits, *truth))
        return {"bce": mean_of(bce), "dice": mean_of(dice)}


@dataclass(frozen=True)
class SemanticsConfig(TermConfig):
    """Weight of the loss "semantics"."""

    weight: float = 1.0
    needs_objects: ClassVar[bool] = True

    def build(self, context: ObjectiveContext) -> Semantics:
        return Semantics(self, context)


class Semantics(Term):
    """The loss "semantics": a 1x1 convolution per level says for every region which category, colour, ... is there.

    An auxiliary loss of ours for networks without a pretrained backbone. The papers' backbones know such things from
    their own training on labelled images; without it a network must find out what "star" looks like from masks alone,
    which took several times as long in our trials. The levels of a temporal part are asked as well, where "motion" may
    be an attribute.

    Raises:
        RefsegError: no classes are known.
    """

    def __init__(self, config: SemanticsConfig, context: ObjectiveContext):
        super().__init__({"semantics": config.weight})
        if not context.classes:
            raise RefsegError(
                "SemanticsConfig needs a data set that knows its objects: remove this term from the objective."
            )
        self.outputs = [count + 1 for count in context.classes]
        self.classifiers = nn.ModuleDict(
            {name: nn.Conv2d(channels, sum(self.outputs), 1) for name, channels in context.visual_channels.items()}
        )

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        """Cross-entropy, mean over levels, attributes and regions."""
        features = {name: prediction.trace[name] for name in self.classifiers}
        truths = {grid: region_classes(batch, grid) for grid in {x.shape[-2:] for x in features.values()}}
        losses = []
        for name, x in features.items():
            answers = self.classifiers[name](x).split(self.outputs, dim=1)
            for logits, wanted in zip(answers, truths[x.shape[-2:]].unbind(1), strict=True):
                losses.append(F.cross_entropy(logits.float(), wanted, ignore_index=IGNORED))
        return {"semantics": mean_of(losses)}


def region_classes(batch: RefBatch, grid: tuple[int, ...]) -> Tensor:
    """Class of the object at the centre of every region, by attribute: [B,A,h,w] int64.

    0 where there is no object, ``IGNORED`` where the batch is padded.

    Raises:
        RefsegError: the batch does not know its objects.
    """
    if batch.objects is None or batch.object_classes is None:
        raise RefsegError("The batch does not say what its pixels show: build its data set with objects=True.")
    objects = F.interpolate(batch.objects.float(), grid, mode="nearest-exact").long()
    valid = F.interpolate(batch.pixel_valid.float(), grid, mode="nearest-exact") > 0
    classes = batch.object_classes.mT  # [B,A,K+1]
    at_regions = classes.gather(2, objects.flatten(2).expand(-1, classes.shape[1], -1)).unflatten(2, grid)
    return at_regions.masked_fill(~valid, IGNORED)
