"""Scores for masks from any model: two JSON files in COCO's layout in, the numbers that papers print out.

The truth is laid out as MTTR's ground-truth file of A2D Sentences (``create_gt_in_coco_format.py``): ``images`` with
``id``, ``height`` and ``width``, and ``annotations`` with ``image_id`` and ``segmentation``. An "image" is a sample,
one expression about one frame, and has exactly one annotation. ``iscrowd`` is ignored: a referent is one thing.

Predictions are a list of ``{"image_id", "category_id", "segmentation", "score"}``, any number for each sample;
``category_id`` is ignored. Masks are run lengths, compressed or not, at the size of the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as shortly  # values from outside may be long
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from refseg.datasets.images import MAX_PIXELS
from refseg.datasets.masks import checked_run_lengths, is_of_size
from refseg.errors import RefsegError
from refseg.evaluation.metrics import average_precision
from refseg.evaluation.protocols import Meter, choose_protocols
from refseg.files import read_json

SampleId = str | int
RunLengths = Any  # {"size": [height, width], "counts": bytes}, as pycocotools.mask.encode gives them
_NAMED = 3  # wrong ids are named, at most


def score_files(truth: str | Path, predictions: str | Path, protocols: str | Sequence[str] = "mttr") -> dict[str, Any]:
    """Scores of the masks in ``predictions`` against those in ``truth``.

    oIoU, mIoU and P@K look at the best-scored prediction of every sample, of several the last, as MTTR does. A sample
    without prediction counts there as if its mask were empty. mAP, with the protocols of video papers only, ranks all
    predictions; one that is absent cannot be ranked, and so a missing prediction gives a better mAP than an empty
    mask.

    Args:
        truth, predictions: JSON files, see the module.
        protocols: one or more names from ``refseg.evaluation.protocols``; they say at which size masks are compared and
            how IoUs are counted. Their thresholds do not matter here, because masks are finished.

    Returns:
        JSON-able: "N" samples, "predictions" in all, "missing" samples without one, "oIoU", "mIoU", "P@0.5".., with
        mAP those of ``metrics.average_precision``, and "protocol", "at_threshold", "says", "truth" (the file's name).
        Of several protocols these are the first one's, and "protocols" has the scores of each by its name.

    Raises:
        RefsegError: an unknown protocol, a file that is missing or damaged, or two files that do not belong together.
    """
    meters = [Meter(p) for p in choose_protocols([protocols] if isinstance(protocols, str) else protocols)]
    masks = read_truth(Path(truth))
    found = read_predictions(Path(predictions), masks, Path(truth))
    for sample, mask in masks.items():
        # max takes the first of equals, so the list is reversed
        best = max(reversed(found[sample]), key=lambda guess: guess[0])[1] if found[sample] else _empty(mask["size"])
        pred_mask, true_mask = _decode(best), _decode(mask)
        for meter in meters:
            meter.update_mask(pred_mask, true_mask)
    scores = {meter.protocol.name: meter.report() for meter in meters}
    if any(meter.protocol.ranked for meter in meters):
        ranked = average_precision(list(masks.values()), list(found.values()))
        scores = {m.protocol.name: scores[m.protocol.name] | (ranked if m.protocol.ranked else {}) for m in meters}
    results = {
        **next(iter(scores.values())),
        "predictions": sum(map(len, found.values())),
        "missing": sum(not guesses for guesses in found.values()),
        "truth": Path(truth).name,
    }
    return results | ({"protocols": scores} if len(scores) > 1 else {})


# ---- files -----------------------------------------------------------------------------------------------------


def read_truth(path: Path) -> dict[SampleId, RunLengths]:
    """The true mask of every sample, sorted by id, as pycocotools sorts them (equal scores are ranked in this order).

    Raises:
        RefsegError: no such file, not of this layout, an id that occurs twice, a damaged mask.
    """
    data = read_json(path)
    images, annotations = (_list_of_dicts(data, key, path) for key in ("images", "annotations"))
    sizes: dict[SampleId, tuple[int, int]] = {}
    for image in images:
        sample = _sample_id(image, "id", path)
        if sample in sizes:
            raise RefsegError(f"{path} has two images with the id {sample!r}: every sample needs an id of its own.")
        sizes[sample] = _size(image, sample, path)
    masks: dict[SampleId, RunLengths] = {}
    for annotation in annotations:
        sample = _sample_id(annotation, "image_id", path)
        if sample not in sizes:
            raise RefsegError(f"{path} has an annotation of {sample!r}, but no image with that id: add the image.")
        if sample in masks:
            raise RefsegError(
                f"{path} has two annotations of {sample!r}: a sample is one expression and has one mask, so make the "
                "second a sample of its own."
            )
        masks[sample] = _checked(annotation, sizes[sample], f"The mask of {sample!r} in {path}")
    bare = [sample for sample in sizes if sample not in masks]
    if bare:
        raise RefsegError(f"{path} has no annotation of {_some(bare)}: give every image its mask, an empty one too.")
    return {sample: masks[sample] for sample in sorted(masks, key=lambda sample: (isinstance(sample, str), sample))}


def read_predictions(
    path: Path, masks: dict[SampleId, RunLengths], truth: Path
) -> dict[SampleId, list[tuple[float, RunLengths]]]:
    """(score, mask) of all predictions by sample, samples in the order of ``masks``, a sample's own as in the file.

    Args:
        path: a JSON list.
        masks: what ``read_truth`` found in ``truth``.

    Raises:
        RefsegError: no such file, not of this layout, an id that is not in the truth, no score, a mask that is damaged
            or of another size.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RefsegError(
            f"{path} is not a list of predictions: write [{{image_id, category_id, segmentation, score}}, ...]."
        )
    samples = [_sample_id(entry, "image_id", path) for entry in entries]
    unknown = [sample for sample in dict.fromkeys(samples) if sample not in masks]
    if unknown:
        raise RefsegError(
            f"{path} has predictions for {_some(unknown)}, which {truth} does not hold: take both of one data set."
        )
    found: dict[SampleId, list[tuple[float, RunLengths]]] = {sample: [] for sample in masks}
    for number, (sample, entry) in enumerate(zip(samples, entries), start=1):
        owner = f"Prediction {number} in {path} (for {sample!r})"
        score = entry.get("score")
        # the comparison is False for NaN and for whole numbers that no float can hold
        if not isinstance(score, (int, float)) or isinstance(score, bool) or not -1e300 < score < 1e300:
            raise RefsegError(
                f"{owner} has {'no score' if score is None else f'the score {shortly(score)}'}: give it a number, "
                "1.0 if the model has none."
            )
        found[sample].append((float(score), _checked(entry, tuple(masks[sample]["size"]), owner)))
    return found


def _list_of_dicts(data: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = data.get(key) if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RefsegError(f"{path} has no list {key!r}: lay it out as COCO does, with images and annotations.")
    return entries


def _sample_id(entry: dict[str, Any], key: str, path: Path) -> SampleId:
    if type(entry.get(key)) not in (int, str):
        raise RefsegError(
            f"{path} has an entry whose {key!r} is {shortly(entry.get(key))}: it must be text or a whole number."
        )
    return entry[key]


def _size(image: dict[str, Any], sample: SampleId, path: Path) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1 or height * width > MAX_PIXELS:
        raise RefsegError(
            f"{path} gives {sample!r} the height {shortly(height)} and the width {shortly(width)}: they must "
            f"be whole numbers of pixels, and not more than {MAX_PIXELS // 1_000_000} million together."
        )
    return height, width


def _some(samples: Sequence[SampleId]) -> str:
    """The first few ids, and how many there are."""
    named = ", ".join(map(repr, samples[:_NAMED]))
    return named if len(samples) <= _NAMED else f"{named}, ... ({len(samples)} ids)"


# ---- masks -----------------------------------------------------------------------------------------------------


def _checked(entry: dict[str, Any], size: tuple[int, int], owner: str) -> RunLengths:
    """The mask of ``entry``, read by our own code and encoded again: pycocotools sees nothing from outside."""
    piece = entry.get("segmentation")
    if not isinstance(piece, dict):
        raise RefsegError(f"{owner} is not a dict of size and counts: write masks as run lengths, not as polygons.")
    if not is_of_size(piece, size):
        raise RefsegError(
            f"{owner} is of size {shortly(piece.get('size'))} (height, width), but the image of {list(size)}: "
            "scale masks to the size of the truth first."
        )
    lengths = checked_run_lengths(piece.get("counts"), size)
    if lengths is None:
        raise RefsegError(f"{owner} has run lengths that do not add up to its size: write the file again.")
    return coco_mask.frPyObjects({"size": list(size), "counts": lengths.tolist()}, *size)


def _empty(size: Sequence[int]) -> RunLengths:
    return coco_mask.encode(np.zeros(size, dtype=np.uint8, order="F"))


def _decode(mask: RunLengths) -> Tensor:
    return torch.from_numpy(coco_mask.decode(mask)).bool()
