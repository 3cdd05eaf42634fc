"""Intersection over union, average precision and the area under a curve: what scores are made of.

Papers print "IoU" for different things, so every choice has a name:

* oIoU (overall, cumulative): the sum of all intersections over the sum of all unions; large referents weigh more.
* mIoU (mean): the mean of the samples' IoU; every expression weighs the same.
* P@K: the share of samples whose IoU reaches K; ``>=`` in image papers, ``>`` in the video papers.
* mAP (video papers): COCO's average precision over *all* predictions, ranked by score over the whole data set.

How these are counted differs between releases: see ``refseg.evaluation.protocols``. One expression is one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from refseg.errors import RefsegError
from refseg.types import size_of

TENTHS = (5, 6, 7, 8, 9)  # the K of P@K as whole tenths: 0.7 has no exact float, 7 tenths of a union is a whole number
COLUMNS = ("N", "oIoU", "mIoU", "P@0.5", "P@0.6", "P@0.7", "P@0.8", "P@0.9")  # as tables show them
AP_COLUMNS = ("mAP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")  # in the order of COCOeval.stats


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


def mask_iou(pred_mask: Tensor, mask: Tensor) -> float:
    """Intersection over union of two bool masks of one shape; 0 if both are empty.

    >>> mask_iou(torch.tensor([True, True, False]), torch.tensor([False, True, True]))
    0.3333333333333333

    Raises:
        RefsegError: see :func:`intersection_union`.
    """
    intersection, union = intersection_union(pred_mask, mask)
    return intersection / union if union else 0.0


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
            Only such: pycocotools' C code never returns from damaged run lengths.
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


def _annotation(number: int, image: int, mask: Any) -> dict[str, Any]:
    area = float(coco_mask.area(mask))
    return {"id": number, "image_id": image, "category_id": 1, "segmentation": mask, "area": area, "iscrowd": 0}


def _coco(sizes: Sequence[Sequence[int]], annotations: list[dict[str, Any]]) -> COCO:
    coco: Any = COCO()  # its stubs leave out ``dataset``
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
        None if there is no positive or no negative.
    """
    negatives = values[~positive].sort().values
    positives = values[positive].contiguous()
    if not len(negatives) or not len(positives):
        return None
    below, at_most = (torch.searchsorted(negatives, positives, right=right).double() for right in (False, True))
    return ((below + at_most) / 2).mean().item() / len(negatives)


def centre_auc(similarity: Tensor, mask: Tensor, compared: Tensor) -> list[float | None]:
    """Are the referent's pixels the nearest to a centre? The area under the curve of their similarity, step by step.

    Against the background, even a network that finds every object without knowing which one is meant scores well. The
    harder question is asked among the pixels of objects only.

    Args:
        similarity: [S,h,w], of one sample.
        mask: [1,H,W] bool; a grid cell is the referent's if it covers most of the cell.
        compared: [1,H,W] bool, likewise: all real pixels, or those of objects.

    Returns:
        S values, None where either kind has no pixel.
    """
    referent, taken = (F.adaptive_avg_pool2d(x.float(), size_of(similarity))[0] > 0.5 for x in (mask, compared))
    return [area_under_curve(of_step[taken], referent[taken]) for of_step in similarity]
