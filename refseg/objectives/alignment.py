"""Alignment: masks at every step, and a contrastive loss that pulls the referent to its sentence and others away.

AlignFormer (Wei et al., 2023, arXiv 2301.06429 v1) is trained with a "cross-modal instance contrastive loss". Its
formula was not at hand and the code of its later version has none, so **this loss is our reconstruction** after one
sentence of the abstract: it is "to alleviate the influence of pixel samples in ambiguous regions". A pixel on an
outline belongs to two things, so single pixels make poor examples. Here every object is one example, the mean of its
pixels with the ring around its outline left out.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
import torch.nn.functional as F
from torch import Tensor, nn

from refseg.errors import RefsegError
from refseg.models.blocks.attention import l2_normalize
from refseg.objectives.losses import binary_cross_entropy, contrastive_loss
from refseg.objectives.segmentation import Segmentation, SegmentationConfig, mean_over_steps
from refseg.types import Prediction, RefBatch

LEFT_OUT, REFERENT, BACKGROUND = -1, 0, 1  # what a pixel shows; other objects from 2 on
CLEAR, MOST = 0.9, 0.5  # share of a region that one object must cover to be clearly its own, or mostly
COLDEST = 0.01  # lower bound of the temperature, CLIP's


@dataclass
class AlignmentConfig(SegmentationConfig):
    """The weights of ``SegmentationConfig``, that of the contrastive loss, and its form."""

    contrast: float = 0.5  # 0 leaves it away
    other_samples: bool = True  # their referents are candidates too, not only the instances of the same picture
    pixel_wise: bool = False  # every pixel an example, outlines too: what the paper argues against
    temperature: float = 0.07  # to begin with; it is learned


class Alignment(Segmentation):
    """(model, batch) -> prediction, {name: loss}: "bce", "dice", "contrast" and perhaps "semantics".

    The mask terms are means over all masks of the prediction, those of earlier steps (trace["masks/0"], ...) and the
    last, all with the same weight, as in the released code of the later version.

    "contrast" compares the centre embedding of each sentence, trace["centre"], with instances of pixels. A centre
    should be nearer to its referent than to the other objects and the background of the same picture, and to the
    referents of other samples, those of all processes; and a referent nearer to its own centre than to those of others.
    Samples of the same object, or with the same expression, are no negatives of each other. Without ``other_samples``
    only the instances of its own picture are put before a centre, and it is not asked which centre is theirs. Which
    objects there are the data set must know (``objects=True``); where it does not, the background is one instance with
    all that is in it.

    A model without a centre of the pixels' width has its sentence mapped to it, by a layer that the objective owns.

    Args:
        config: the weights.
        model: with ``trace_channels``, the widths of the entries of its trace; needed for ``contrast``.
        classes: as for ``Segmentation``.

    Raises:
        RefsegError: ``contrast`` without a model that has ``trace_channels``.
    """

    def __init__(self, config: AlignmentConfig, model: nn.Module | None = None, classes: Sequence[int] = ()):
        super().__init__(config, model, classes)
        if config.contrast:
            widths = getattr(model, "trace_channels", None)
            if widths is None:
                raise RefsegError("The loss contrast needs a model that gives its pixels' width: set it to 0 here.")
            self.weights["contrast"] = config.contrast
            instances = instance_contrast if config.other_samples else contrast_in_picture
            self.compare = pixel_contrast if config.pixel_wise else instances
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
            self.key = "centre" if "centre" in widths else "sentence"
            same = self.key == "centre"
            self.project = nn.Identity() if same else nn.Linear(widths["sentence"], widths["pixels"])

    def forward(self, model: nn.Module, batch: RefBatch) -> tuple[Prediction, dict[str, Tensor]]:
        """The model's prediction as it is, and the losses, scalars and not yet weighted."""
        prediction, losses = super().forward(model, batch)
        if "contrast" in self.weights:
            losses["contrast"] = self._contrast(prediction.trace, batch)
        return prediction, losses

    def mask_terms(self, prediction: Prediction, batch: RefBatch) -> dict[str, Tensor]:
        """Those of all steps."""
        return mean_over_steps(prediction, batch)

    def _contrast(self, trace: dict[str, Tensor], batch: RefBatch) -> Tensor:
        pixels = trace["pixels"]
        with torch.autocast(pixels.device.type, enabled=False):  # differences of similarities need float32
            centres = l2_normalize(self.project(trace[self.key].float()))
            pixels = l2_normalize(pixels.float(), dim=1)
            temperature = self.log_temperature.exp().clamp(min=COLDEST)
            return self.compare(centres, pixels, batch, temperature)


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
    own = own_places(len(batch), centres.device)
    comparable = ~_same_thing(batch, centres.device) & gathered(has_referent)
    comparable = comparable.scatter(1, own[:, None], True)

    among_instances = torch.cat(
        [centres @ every_referent.T, torch.einsum("bd,bkd->bk", centres, instances[:, BACKGROUND:])], dim=1
    )
    allowed = torch.cat([comparable, present[:, BACKGROUND:]], dim=1)
    find_instance = contrastive_loss(among_instances / temperature, own, allowed, has_referent)
    among_centres = referents @ every_centre.T
    find_centre = contrastive_loss(among_centres / temperature, own, comparable, has_referent)
    return (find_instance + find_centre) / 2


def contrast_in_picture(centres: Tensor, pixels: Tensor, batch: RefBatch, temperature: Tensor) -> Tensor:
    """Which instance of its own picture does a centre mean? No other sample is asked (ours, as a control).

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
    resized alike, and the rim that remains is no object of its own.
    """
    labels = torch.full_like(batch.mask, BACKGROUND, dtype=torch.int64)
    if batch.objects is not None:
        objects = batch.objects.long()
        meant = _mostly_in_mask(objects.flatten(1), batch.mask.flatten(1))
        rest = meant.gather(1, objects.flatten(1)).view_as(objects)
        labels = (labels + objects).masked_fill(rest, LEFT_OUT)
    return labels.masked_fill(~batch.pixel_valid, LEFT_OUT).masked_fill(batch.mask, REFERENT)


def _mostly_in_mask(objects: Tensor, mask: Tensor) -> Tensor:
    """Objects more than half of which the mask covers: [B,H*W] and [B,H*W] -> [B,K+1] bool; nothing is no object."""
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
    grid, count = pixels.shape[-2:], max(int(labels.max()), BACKGROUND) + 1
    # One label after the other: a one-hot picture of a crowded street would take gigabytes.
    shares = torch.cat([F.adaptive_avg_pool2d((labels == k).float(), grid) for k in range(count)], dim=1)
    weights = core_weights(shares)
    sums = torch.einsum("bkhw,bdhw->bkd", weights, pixels)
    means = sums / weights.sum((2, 3)).clamp(min=1e-6)[..., None]
    return l2_normalize(means), shares.sum((2, 3)) > 0


def core_weights(shares: Tensor) -> Tensor:
    """Which regions stand for an instance: [B,K,h,w] from the share of every region that each instance covers.

    Those that are clearly its own and have only such neighbours: the ring along the outline is ambiguous. A thing too
    small to have any is stood for by the regions that are mostly its own, and if there are none, by all that it
    touches, each by its share.
    """
    clear = (shares > CLEAR).to(shares.dtype)
    inner = 1 - F.max_pool2d(1 - clear, 3, stride=1, padding=1)
    weights = shares
    for part in ((shares > MOST).to(shares.dtype), inner):
        weights = torch.where(part.sum((2, 3), keepdim=True) > 0, part, weights)
    return weights


# ---- samples of all processes ------------------------------------------------------------------------------------


def gathered(x: Tensor) -> Tensor:
    """The rows of all processes, [G,...] from [B,...], B alike in all; gradients find their way back."""
    return torch.cat(dist_nn.all_gather(x.contiguous())) if _processes() > 1 else x


def own_places(count: int, device: torch.device) -> Tensor:
    """Where the ``count`` rows of this process stand among the gathered ones, [B]."""
    first = dist.get_rank() * count if _processes() > 1 else 0
    return torch.arange(first, first + count, device=device)


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _same_thing(batch: RefBatch, device: torch.device) -> Tensor:
    """Samples with the same referent or the same expression: [B,G] bool."""
    keys = torch.tensor(sample_keys(batch), device=device)  # [B,2]
    return (keys[:, None] == gathered(keys)).any(2)


def sample_keys(batch: RefBatch) -> list[tuple[int, int]]:
    """Two numbers per sample, equal where the object is the same (picture and mask), and where the expression is."""
    keys = []
    for picture, mask, expression in zip(batch.image_ids, batch.original_masks, batch.expressions, strict=True):
        referent = zlib.crc32(mask.numpy().tobytes(), zlib.crc32(picture.encode()))
        keys.append((referent, zlib.crc32(" ".join(expression.lower().split()).encode())))
    return keys
