"""A contrastive loss that pulls the referent to its expression and other things away from it (AlignFormer).

AlignFormer (Wei et al., 2023, arXiv 2301.06429 v1) is trained with a "cross-modal instance contrastive loss". Its
formula was not at hand and the code of its later version has none, so **this loss is our reconstruction** from one
sentence of the abstract: it is "to alleviate the influence of pixel samples in ambiguous regions". A pixel on an
outline belongs to two things, so single pixels make poor examples. Here every object is one example, the mean of its
pixels without the ring along its outline.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.models.base import ReferringModel
from refseg.models.blocks.attention import l2_normalize
from refseg.objectives.base import ObjectiveContext, Term, TermConfig
from refseg.objectives.losses import binary_cross_entropy, contrastive_loss
from refseg.types import Prediction, RefBatch

LEFT_OUT, REFERENT, BACKGROUND = -1, 0, 1  # what a pixel shows; other objects from 2 on
CLEAR, MOST = 0.9, 0.5  # share of a region that one object must cover to be clearly its own, or mostly
COLDEST = 0.01  # lower bound of the temperature, CLIP's


# ---- the forms of the loss ---------------------------------------------------------------------------------------


def pixel_contrast(centres: Tensor, pixels: Tensor, batch: RefBatch, temperature: Tensor) -> Tensor:
    """Is a pixel the referent's? Binary cross-entropy on its similarity to the centre (after CRIS, CVPR 2022).

    Args:
        centres: [B,D], of length one.
        pixels: [B,D,h,w], of length one.
        batch: where the referents are.
        temperature: scalar.
    """
    similarity = torch.einsum("bd,bdhw->bhw", centres, pixels)[:, None] / temperature
    size = batch.mask.shape[-2:]
    logits = F.interpolate(similarity, size, mode="bilinear", align_corners=False)
    return binary_cross_entropy(logits, batch.mask, batch.pixel_valid)


def instance_contrast(centres: Tensor, pixels: Tensor, batch: RefBatch, temperature: Tensor) -> Tensor:
    """Which instance does a centre mean, and which centre an instance? The mean of both questions (our reconstruction).

    Args: as for ``pixel_contrast``. A sample whose mask is empty takes no part.
    """
    instances, present = instance_means(pixels, instance_labels(batch))  # [B,K,D], [B,K]
    referents, has_referent = instances[:, REFERENT], present[:, REFERENT]
    every_centre, every_referent = gathered(centres), gathered(referents)  # [G,D], G samples of all processes
    own = torch.arange(len(batch), device=centres.device)  # positions of this process's samples among the gathered
    own = own + (dist.get_rank() * len(batch) if _processes() > 1 else 0)
    keys = torch.tensor(sample_keys(batch), device=centres.device)  # [B,2]
    same_thing = (keys[:, None] == gathered(keys)).any(2)  # [B,G]
    comparable = (~same_thing & gathered(has_referent)).scatter(1, own[:, None], True)

    among_instances = torch.cat(
        [centres @ every_referent.T, torch.einsum("bd,bkd->bk", centres, instances[:, BACKGROUND:])], dim=1
    )
    allowed = torch.cat([comparable, present[:, BACKGROUND:]], dim=1)
    find_instance = contrastive_loss(among_instances / temperature, own, allowed, has_referent)
    among_centres = referents @ every_centre.T
    find_centre = contrastive_loss(among_centres / temperature, own, comparable, has_referent)
    return (find_instance + find_centre) / 2


def contrast_in_image(centres: Tensor, pixels: Tensor, batch: RefBatch, temperature: Tensor) -> Tensor:
    """Which instance of its own image does a centre mean? No other sample is asked (ours, as a control).

    Args: as for ``pixel_contrast``. A sample whose mask is empty takes no part.
    """
    instances, present = instance_means(pixels, instance_labels(batch))  # [B,K,D], [B,K]
    similarity = torch.einsum("bd,bkd->bk", centres, instances)
    right = torch.full((len(batch),), REFERENT, device=centres.device)
    return contrastive_loss(similarity / temperature, right, present, present[:, REFERENT])


# ---- instances ---------------------------------------------------------------------------------------------------


def instance_labels(batch: RefBatch) -> Tensor:
    """What every pixel shows: [B,1,H,W] int64, REFERENT, BACKGROUND, the other objects from 2 on, or LEFT_OUT.

    Left out are padding and the rest of an object that lies mostly in the mask: outlines of masks and objects are not
    resized alike, and the rim that remains is not an object of its own.
    """
    labels = torch.full_like(batch.mask, BACKGROUND, dtype=torch.int64)
    if batch.objects is not None:
        objects = batch.objects.long()
        meant = _mostly_in_mask(objects.flatten(1), batch.mask.flatten(1))
        rest = meant.gather(1, objects.flatten(1)).view_as(objects)
        labels = (labels + objects).masked_fill(rest, LEFT_OUT)
    return labels.masked_fill(~batch.pixel_valid, LEFT_OUT).masked_fill(batch.mask, REFERENT)


def _mostly_in_mask(objects: Tensor, mask: Tensor) -> Tensor:
    """Objects more than half of which the mask covers: [B,H*W] and [B,H*W] -> [B,K+1] bool, False for 0."""
    counts = torch.zeros(len(objects), int(objects.max()) + 1, device=objects.device)
    in_mask = counts.scatter_add(1, objects, mask.to(counts.dtype))
    covered = 2 * in_mask > counts.scatter_add(1, objects, torch.ones_like(objects, dtype=counts.dtype))
    covered[:, 0] = False
    return covered


def instance_means(pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The direction of each instance, the mean over its unambiguous regions: [B,K,D] of length one, present [B,K].

    Args:
        pixels: [B,D,h,w], of length one.
        labels: [B,1,H,W], see ``instance_labels``; K is the highest label plus one, at least 2.
    """
    (h, w), count = pixels.shape[-2:], max(int(labels.max()), BACKGROUND) + 1
    # One label after the other: a one-hot map of a crowded street would take gigabytes.
    shares = torch.cat([F.adaptive_avg_pool2d((labels == k).float(), (h, w)) for k in range(count)], dim=1)
    weights = core_weights(shares)
    sums = torch.einsum("bkhw,bdhw->bkd", weights, pixels)
    means = sums / weights.sum((2, 3)).clamp(min=1e-6)[..., None]
    return l2_normalize(means), shares.sum((2, 3)) > 0


def core_weights(shares: Tensor) -> Tensor:
    """Which regions stand for an instance: [B,K,h,w] from the share of every region that each instance covers.

    Those that are clearly its own and have only such neighbours: the ring along the outline is ambiguous. For an
    instance too small to have any, the regions that are mostly its own; if there are none, all that it touches, each by
    its share.
    """
    clear = (shares > CLEAR).to(shares.dtype)
    inner = 1 - F.max_pool2d(1 - clear, 3, stride=1, padding=1)
    weights = shares
    for part in ((shares > MOST).to(shares.dtype), inner):
        weights = torch.where(part.sum((2, 3), keepdim=True) > 0, part, weights)
    return weights


# ---- samples of all processes ------------------------------------------------------------------------------------


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, [B,...] -> [G,...], B the same in all; gradients flow back to each."""
    return torch.cat(dist_nn.all_gather(x.contiguous())) if _processes() > 1 else x


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sample_keys(batch: RefBatch) -> list[tuple[int, int]]:
    """Two numbers per sample, equal where the object is the same (image and mask), and where the expression is."""
    keys = []
    for image, mask, expression in zip(batch.image_ids, batch.original_masks, batch.expressions, strict=True):
        referent = zlib.crc32(mask.numpy().tobytes(), zlib.crc32(image.encode()))
        keys.append((referent, zlib.crc32(" ".join(expression.lower().split()).encode())))
    return keys


# ---- the term ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ContrastConfig(TermConfig):
    """Weight of the loss "contrast", whose form the class of the config decides."""

    weight: float = 0.5
    temperature: float = 0.07  # at the start; it is learned

    needs_objects: ClassVar[bool] = True
    compare: ClassVar[Callable[[Tensor, Tensor, RefBatch, Tensor], Tensor]]  # as ``pixel_contrast``

    def build(self, context: ObjectiveContext) -> Contrast:
        return Contrast(self, context)


@dataclass(frozen=True)
class InstanceContrastConfig(ContrastConfig):
    """Instances of the same image and the referents of other samples are candidates (our reconstruction)."""

    compare = staticmethod(instance_contrast)


@dataclass(frozen=True)
class ImageContrastConfig(ContrastConfig):
    """Only the instances of the same image are candidates (ours, as a control)."""

    compare = staticmethod(contrast_in_image)


@dataclass(frozen=True)
class PixelContrastConfig(ContrastConfig):
    """Every pixel is an example, those on outlines too: what the paper argues against."""

    needs_objects: ClassVar[bool] = False
    compare = staticmethod(pixel_contrast)


class Contrast(Term):
    """The loss "contrast": the centre of each expression, trace["centre"], against what the pixels show.

    With instances a centre should be nearer to its referent than to the other objects and the background of the same
    image, and to the referents of other samples, those of all processes; and a referent nearer to its own centre than
    to those of others. Samples of the same object, or with the same expression, are not negatives. The data set must
    know its objects (``objects=True``); where it does not, the background is one instance with everything in it.

    A model without such a centre has its sentence vector mapped to the width of its pixels by a layer of this term.

    Raises:
        RefsegError: a model without pixels or a sentence vector in its trace.
    """

    def __init__(self, config: ContrastConfig, context: ObjectiveContext):
        super().__init__({"contrast": config.weight})
        context.require(config, "sentence", "pixels")
        self.compare = config.compare
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        widths = context.trace_channels
        self.key, self.project = "centre", nn.Identity()
        if self.key not in widths:
            self.key, self.project = "sentence", nn.Linear(widths["sentence"], widths["pixels"])

    def forward(self, prediction: Prediction, batch: RefBatch, model: ReferringModel) -> dict[str, Tensor]:
        """In float32: the loss depends on differences of similarities."""
        trace = prediction.trace
        with torch.autocast(trace["pixels"].device.type, enabled=False):
            centres = l2_normalize(self.project(trace[self.key].float()))
            pixels = l2_normalize(trace["pixels"].float(), dim=1)
            temperature = self.log_temperature.exp().clamp(min=COLDEST)
            return {"contrast": self.compare(centres, pixels, batch, temperature)}
