"""Intersection over union and what is made of it: oIoU, mIoU and P@K, each with its convention named.

Papers print "IoU" for different things, so every choice has a name here:

* oIoU (overall, cumulative): the sum of all intersections over the sum of all unions; large referents weigh more.
* mIoU (mean): the mean of the samples' IoU; every expression weighs the same.
* P@K: the share of samples whose IoU reaches K; ``>=`` in image papers, ``>`` in the video papers.
* mAP (video papers): COCO's average precision over *all* predictions, ranked by score over the whole data set.

One expression is one sample, and masks are compared at the size of the picture on disk. Sources: the released
test loops of CMSA (main_cmsa.py), LAVT (test.py), CRIS (engine.py) and MTTR (metrics.py). They differ in what an
exact tie, an empty mask and an epsilon do, and :class:`Convention` holds those differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from refseg.errors import RefsegError

TENTHS = (5, 6, 7, 8, 9)  # the K of P@K as whole tenths: 0.7 has no exact float, 7 tenths of a union is a whole number
COLUMNS = ("N", "oIoU", "mIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9")  # as tables show them
AP_COLUMNS = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")  # in the order of COCOeval.stats


@dataclass(frozen=True)
class Convention:
    """How one sample's intersection I and union U become an IoU, and when that IoU reaches a threshold.

    Args:
        name: what the results are labelled with.
        at_threshold: ">=" counts a sample exactly at the threshold, ">" does not.
        empty_iou: IoU when both masks are empty; None refuses such a sample.
        eps_intersection, eps_union: added to I and to U, as some releases do.
        float32: the IoU is rounded to float32 first, which moves exact ties (float32(0.6) lies above 0.6).
    """

    name: str
    at_threshold: str = ">="
    empty_iou: float | None = 0.0
    eps_intersection: float = 0.0
    eps_union: float = 0.0
    float32: bool = False

    def __post_init__(self):
        if self.at_threshold not in (">=", ">"):
            raise RefsegError(f"Convention {self.name!r} has at_threshold={self.at_threshold!r}: use '>=' or '>'.")

    def iou(self, intersection: int, union: int) -> float:
        """The IoU of one sample.

        Raises:
            RefsegError: both masks are empty and the convention has no answer for that.
        """
        if union == 0:
            return self._both_empty()
        if self.float32:
            return float(np.float32(intersection + self.eps_intersection) / np.float32(union + self.eps_union))
        return (intersection + self.eps_intersection) / (union + self.eps_union)

    def reaches(self, intersection: int, union: int, tenths: int) -> bool:
        """Whether the sample's IoU is at the threshold of ``tenths`` / 10 or above it, in the convention's sense.

        Without epsilons this compares whole numbers, 10 I with tenths * U, so 7 pixels of 10 are exactly 0.7.
        With epsilons it compares floats, as the releases that add them do.
        """
        exact = union > 0 and not (self.eps_intersection or self.eps_union or self.float32)
        reached, needed = (10 * intersection, tenths * union) if exact else (self.iou(intersection, union), tenths / 10)
        return reached >= needed if self.at_threshold == ">=" else reached > needed

    def _both_empty(self) -> float:
        if self.empty_iou is None:
            raise RefsegError(
                f"A sample has an empty prediction and an empty mask, for which convention {self.name!r} has no IoU: "
                "leave the sample out or choose another convention."
            )
        return self.empty_iou


RES = Convention("RES")  # ours; agrees with LAVT and the image papers after it
LAVT = replace(RES, name="LAVT")
CMSA = Convention("CMSA", empty_iou=None)  # the release divides by zero there
MTTR = Convention("MTTR", ">", 1.0, eps_intersection=1e-6, eps_union=1e-6, float32=True)
VIDEO = MTTR  # A2D Sentences and J-HMDB Sentences are reported this way since MTTR
CRIS = Convention("CRIS", ">", 0.0, eps_union=1e-6)  # its "IoU" is mIoU
CONVENTIONS = {convention.name.lower(): convention for convention in (RES, LAVT, CMSA, MTTR, CRIS)}


def intersection_union(pred_mask: Tensor, mask: Tensor) -> tuple[int, int]:
    """Number of pixels in both masks and in either one.

    Args:
        pred_mask, mask: bool, the same shape, usually [height,width].

    Raises:
        RefsegError: a mask is not bool (a probability map may hold NaN, and its threshold is the caller's choice),
            or the sizes differ.
    """
    for name, tensor in (("pred_mask", pred_mask), ("mask", mask)):
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.bool:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise RefsegError(f"{name} is {kind}, not a bool tensor: apply the threshold first, e.g. mask_logits > 0.")
    if pred_mask.shape != mask.shape:
        raise RefsegError(
            f"pred_mask has size {tuple(pred_mask.shape)} and mask {tuple(mask.shape)}: "
            "bring the prediction to the size of the mask first."
        )
    mask = mask.to(pred_mask.device)
    return int((pred_mask & mask).count_nonzero()), int((pred_mask | mask).count_nonzero())


@dataclass
class SegmentationMeter:
    """Collects samples and computes oIoU, mIoU and P@K over them.

    It keeps every sample's whole numbers, so the result depends neither on the order of the samples nor on how
    they were shared out between processes: ``a.merge(b)`` equals one meter that saw both.
    """

    convention: Convention = RES
    samples: list[tuple[int, int, str | None]] = field(default_factory=list)  # (intersection, union, group)

    def update(self, pred_mask: Tensor, mask: Tensor, group: str | None = None) -> float:
        """Add one sample and return its IoU; ``group`` (for RefShapes the kind) is what :meth:`by_group` sorts by.

        Raises:
            RefsegError: see :func:`intersection_union` and :meth:`Convention.iou`.
        """
        intersection, union = intersection_union(pred_mask, mask)
        iou = self.convention.iou(intersection, union)
        self.samples.append((intersection, union, group))
        return iou

    def merge(self, other: SegmentationMeter) -> SegmentationMeter:
        """Add the samples of ``other`` (another process' share) behind ours; returns this meter.

        Raises:
            RefsegError: the two meters follow different conventions.
        """
        if other.convention != self.convention:
            raise RefsegError(
                f"Scores of conventions {self.convention.name!r} and {other.convention.name!r} cannot be merged: "
                "measure both with the same one."
            )
        self.samples.extend(other.samples)
        return self

    @property
    def ious(self) -> list[float]:
        """The IoU of every sample, in the order they came."""
        return [self.convention.iou(intersection, union) for intersection, union, _ in self.samples]

    def compute(self) -> dict[str, float]:
        """{"N", "oIoU", "mIoU", "P@0.5", ..., "P@0.9"}; all but N are shares between 0 and 1.

        Raises:
            RefsegError: no sample was added.
        """
        return _scores([(intersection, union) for intersection, union, _ in self.samples], self.convention)

    def by_group(self) -> dict[str, dict[str, float]]:
        """The same scores for every group by itself, groups in alphabetical order; samples without one are left out."""
        pairs: dict[str, list[tuple[int, int]]] = {}
        for intersection, union, group in self.samples:
            if group is not None:
                pairs.setdefault(group, []).append((intersection, union))
        return {group: _scores(pairs[group], self.convention) for group in sorted(pairs)}


def _scores(pairs: list[tuple[int, int]], convention: Convention) -> dict[str, float]:
    if not pairs:
        raise RefsegError("No sample was scored: the data set or the chosen group is empty.")
    count, total = len(pairs), sum(union for _, union in pairs)
    # fsum rounds once, so the mean is the same in every order
    scores = {
        "N": count,
        "oIoU": sum(intersection for intersection, _ in pairs) / total if total else convention._both_empty(),
        "mIoU": math.fsum(convention.iou(*pair) for pair in pairs) / count,
    }
    for tenths in TENTHS:
        scores[f"P@0.{tenths}"] = sum(convention.reaches(*pair, tenths) for pair in pairs) / count
    return scores


def average_precision(
    masks: Sequence[dict[str, Any]], predictions: Sequence[Sequence[tuple[float, dict[str, Any]]]]
) -> dict[str, float | None]:
    """COCO's average precision as the papers on A2D and J-HMDB Sentences report it since MTTR.

    All predictions of all samples are ranked by their score, and precision is averaged over 101 values of recall. The
    number of predictions matters: second guesses, with lower scores, usually raise it, so a paper must say how many
    predictions there were. As in MTTR's ``evaluate_a2d_sentences`` this is pycocotools' ``COCOeval(iouType="segm")``
    with ``useCats=0``: one category, and of every sample the 100 best-scored predictions.

    Args:
        masks: of every sample, as ``pycocotools.mask.encode`` gives them (``size`` [height, width] and ``counts``).
            Only such: pycocotools' C code hangs on damaged run lengths.
        predictions: of every sample any number of (score, mask of the same size). Equal scores are ranked by the order
            of the samples.

    Returns:
        "mAP" (mean over the IoUs 0.5, 0.55, ..., 0.95), "AP50", "AP75", and "AP_small", "AP_medium", "AP_large": mAP
        for referents of up to 32^2, 32^2 to 96^2, and from 96^2 pixels on; None where there is no such referent.
    """
    sizes = [mask["size"] for mask in masks]
    flat = [(image, score, mask) for image, guesses in enumerate(predictions) for score, mask in guesses]
    # Numbered from 1, for COCOeval takes the number 0 for "no match".
    truth = [_annotation(number, number - 1, mask) for number, mask in enumerate(masks, start=1)]
    found = [_annotation(number, image, mask) | {"score": score} for number, (image, score, mask) in enumerate(flat, 1)]
    with redirect_stdout(StringIO()):  # COCOeval prints what it does
        evaluation = COCOeval(_coco(sizes, truth), _coco(sizes, found), "segm")
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(value) for value in evaluation.stats[: len(AP_COLUMNS)]]
    return {name: None if value < 0 else value for name, value in zip(AP_COLUMNS, stats)}


def _annotation(number: int, image: int, mask: dict[str, Any]) -> dict[str, Any]:
    area = float(coco_mask.area(mask))
    return {"id": number, "image_id": image, "category_id": 1, "segmentation": mask, "area": area, "iscrowd": 0}


def _coco(sizes: Sequence[Sequence[int]], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image, "height": height, "width": width} for image, (height, width) in enumerate(sizes)],
        "categories": [{"id": 1, "name": "referent"}],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def area_under_curve(values: Tensor, positive: Tensor) -> float | None:
    """The probability that a positive has the higher value than a negative, ties counting half (AUC, Mann-Whitney).

    0.5 is chance. It depends on the order of the values only.

    Args:
        values: of any shape.
        positive: bool of the same shape.

    Returns:
        None if there is no positive or no negative
    """
    negatives = values[~positive].sort().values
    positives = values[positive].contiguous()
    if not len(negatives) or not len(positives):
        return None
    below, at_most = (torch.searchsorted(negatives, positives, right=right).double() for right in (False, True))
    return ((below + at_most) / 2).mean().item() / len(negatives)


def gathering(similarity: Tensor, mask: Tensor, compared: Tensor) -> list[float | None]:
    """Do the referent's pixels gather? The area under the curve of their similarity to a centre, step by step.

    Against the background even a network does well that finds every object and does not know which one is meant. The
    harder question is asked among the pixels of objects only.

    Args:
        similarity: [S,h,w], of one sample.
        mask: [1,H,W] bool; a place of the grid is the referent's where that covers most of it.
        compared: [1,H,W] bool, likewise: all real pixels, or those of objects.

    Returns:
        S values, None where there is no pixel of either kind
    """
    referent, taken = (F.adaptive_avg_pool2d(x.float(), similarity.shape[-2:])[0] > 0.5 for x in (mask, compared))
    return [area_under_curve(of_step[taken], referent[taken]) for of_step in similarity]
