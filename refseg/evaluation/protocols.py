"""How released test loops get from a network's logits to a score, by name: size, threshold, resizing and counting.

A paper's "IoU" depends on all four. Each protocol here does to our networks' logits what the release of that name does
to its own, so that one network can be reported by all of them:

| name | compared at | found where | truth | IoU if both are empty | P@K |
|---|---|---|---|---|---|
| original | size on disk | logit > 0 there, scaled bilinear | as it is | 0 | >= |
| original-video | size on disk | logit > 0 there, scaled bilinear | as it is | 1 | > in float32 |
| cmsa-release | size on disk | logit >= 1e-9 at 320 px, mask scaled bilinear, all > 0 | as it is | refused | >= |
| lavt480 | 480 x 480, squashed | logit > 0 there | nearest | 0 | >= |
| cris | size on disk | probability > 0.35 there, scaled bicubic | as it is | 0 | > |
| mttr | size on disk | probability > 0.5 at the network's size, mask scaled nearest | as it is | 1 | > in float32 |

All count every expression as one sample. ``original`` is ours for images, ``original-video`` for clips; the latter and
``mttr`` also give mAP. What a release calls "IoU": CMSA's and LAVT's is oIoU, CRIS' is mIoU, MTTR prints both.

What is not imitated: the sizes at which the releases feed their networks (ours get what they were trained with), CMSA's
optional DenseCRF, and in CRIS that a coarse map is enlarged bicubically by its corners and warped by OpenCV without
half-pixel centres. Sources: main_cmsa.py of CMSA-Net, test.py of LAVT-RIS, engine.py of CRIS.pytorch,
postprocessing.py and metrics.py of MTTR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import interpolate

from refseg.datasets.transforms import at_input_size, scale, undo_letterbox, without_padding
from refseg.errors import RefsegError
from refseg.evaluation.metrics import TENTHS, average_precision, intersection_union
from refseg.evaluation.release_resize import release_resize_and_crop, release_resize_and_pad
from refseg.types import MASK_THRESHOLD, Annotations, size_of

Size = tuple[int, int]  # (height, width)
NOTHING_KNOWN = Annotations()


# ---- from logits to the mask that is compared ------------------------------------------------------------------


def _original(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    return undo_letterbox(logits, valid, size) > MASK_THRESHOLD


def _cmsa(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    """The release cuts at 320 pixels, padding included, and enlarges what is left: masks grow by up to a pixel."""
    return _enlarged(scale(at_input_size(logits, valid), (320, 320)) >= 1e-9, size)


def _cmsa_of_mask(mask: Tensor) -> Tensor:
    """The finished mask as a network of 320 pixels would have to give it."""
    return _enlarged(release_resize_and_pad(mask, 320) >= 0.5, size_of(mask))


def _enlarged(mask: Tensor, size: Size) -> Tensor:
    return release_resize_and_crop(mask.cpu(), size) > 0  # float64, which not every device has


def _lavt(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    """480 x 480 whatever the image's proportions; of two equal logits argmax takes the background's."""
    return undo_letterbox(logits, valid, (480, 480)) > 0


def _squashed(mask: Tensor) -> Tensor:
    return interpolate(mask[None, None].float(), size=(480, 480), mode="nearest-exact")[0, 0] > 0.5


def _cris(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    prob = without_padding(at_input_size(logits, valid).sigmoid(), valid)
    return interpolate(prob[None, None], size=size, mode="bicubic", align_corners=False)[0, 0] > 0.35


def _mttr(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    found = without_padding(at_input_size(logits, valid).sigmoid() > 0.5, valid)
    return interpolate(found[None, None].float(), size=size, mode="nearest")[0, 0] > 0.5


def _same(mask: Tensor) -> Tensor:
    return mask


@dataclass(frozen=True)
class Protocol:
    """One way to a score.

    Args:
        name: what results are labelled with.
        says: size, threshold and resizing in a few words.
        convention: whose way of counting it is: that of I and U below.
        of_logits: (mask logits [h,w] or [1,h,w], pixel_valid, original size) -> the mask that is compared, bool.
        of_mask: the same for a finished mask, bool at the original size: thresholds do not matter there.
        truth: the true mask [height,width] as it is compared.
        ranked: whether average precision belongs to it.
        tie_counts: whether a sample whose IoU is exactly K counts for P@K.
        empty_iou: IoU when both masks are empty; None refuses such a sample.
        eps_intersection, eps_union: added to intersection I and union U, as some releases do.
        float32: the IoU is rounded to float32 first, which moves exact ties (float32(0.6) is above 0.6).
    """

    name: str
    says: str
    convention: str
    of_logits: Callable[[Tensor, Tensor, Size], Tensor] = _original
    of_mask: Callable[[Tensor], Tensor] = _same
    truth: Callable[[Tensor], Tensor] = _same
    ranked: bool = False
    tie_counts: bool = True
    empty_iou: float | None = 0.0
    eps_intersection: float = 0.0
    eps_union: float = 0.0
    float32: bool = False

    @property
    def at_threshold(self) -> str:
        """How P@K compares an IoU with K, as results say it."""
        return ">=" if self.tie_counts else ">"

    def iou(self, intersection: int, union: int) -> float:
        """The IoU of one sample, or of a whole data set.

        Raises:
            RefsegError: both masks are empty and the protocol has no IoU for that.
        """
        if union == 0:
            if self.empty_iou is None:
                raise RefsegError(
                    "A sample has an empty prediction and an empty mask, for which protocol "
                    f"{self.name!r} has no IoU: leave the sample out or choose another protocol."
                )
            return self.empty_iou
        if self.float32:
            return float(np.float32(intersection + self.eps_intersection) / np.float32(union + self.eps_union))
        return (intersection + self.eps_intersection) / (union + self.eps_union)

    def reaches(self, intersection: int, union: int, tenths: int) -> bool:
        """Whether the sample's IoU is at the threshold of ``tenths`` / 10 or above it, as the protocol counts.

        Without epsilons this compares whole numbers, 10 I with tenths * U, so 7 pixels of 10 are exactly 0.7.
        With epsilons it compares floats, as the releases that add them do.
        """
        exact = union > 0 and not (self.eps_intersection or self.eps_union or self.float32)
        reached, needed = (10 * intersection, tenths * union) if exact else (self.iou(intersection, union), tenths / 10)
        return reached >= needed if self.tie_counts else reached > needed


ORIGINAL = Protocol("original", "original size, logit > 0, bilinear", "RES")
# A2D Sentences and J-HMDB Sentences are reported this way since MTTR.
ORIGINAL_VIDEO = replace(
    ORIGINAL, name="original-video", convention="MTTR", ranked=True,
    tie_counts=False, empty_iou=1.0, eps_intersection=1e-6, eps_union=1e-6, float32=True,
)  # fmt: skip
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        ORIGINAL,
        ORIGINAL_VIDEO,
        # the release divides by zero if both masks are empty
        Protocol("cmsa-release", "320 px, enlarged, every value > 0", "CMSA", _cmsa, _cmsa_of_mask, empty_iou=None),
        Protocol("lavt480", "squashed to 480 x 480", "LAVT", _lavt, _squashed, _squashed),
        Protocol("cris", "original size, probability > 0.35, bicubic", "CRIS", _cris, tie_counts=False, eps_union=1e-6),
        replace(ORIGINAL_VIDEO, name="mttr", says="original size, cut before a nearest resize", of_logits=_mttr),
    )
}


def choose_protocols(names: Sequence[str]) -> list[Protocol]:
    """The protocols of these names, each once.

    Raises:
        RefsegError: there is no such protocol; the message lists all.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise RefsegError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return [PROTOCOLS[name] for name in dict.fromkeys(names)]


@dataclass
class Meter:
    """Collects samples and computes the scores of one protocol over them.

    It keeps every sample's whole numbers, so the result depends neither on the order of the samples nor on how
    processes shared them: ``a.merge(b)`` equals one meter that saw both.

    Where average precision belongs to the protocol, predictions are ranked by the mean probability inside the mask:
    a mask of which the model is sure comes first, an empty one last.
    """

    protocol: Protocol = ORIGINAL
    samples: list[tuple[int, int, Annotations]] = field(default_factory=list)  # intersection, union
    ranked: list[tuple[dict[str, Any], list[tuple[float, dict[str, Any]]]]] = field(default_factory=list)  # run lengths

    def update(
        self, mask_logits: Tensor, pixel_valid: Tensor, mask: Tensor, annotations: Annotations = NOTHING_KNOWN
    ) -> None:
        """Add one sample of a network: its logits [1,h,w], what of its input is real [1,H,W], the true mask on disk.

        Raises:
            RefsegError: see ``metrics.intersection_union`` and :meth:`Protocol.iou`.
        """
        size = size_of(mask)
        pred_mask = self.protocol.of_logits(mask_logits, pixel_valid, size).cpu()
        self._add(pred_mask, mask, annotations)
        if self.protocol.ranked:
            certainty = _certainty(undo_letterbox(mask_logits, pixel_valid, size))
            self.ranked.append((_run_lengths(mask), [(certainty, _run_lengths(pred_mask))]))

    def update_mask(self, pred_mask: Tensor, mask: Tensor, annotations: Annotations = NOTHING_KNOWN) -> float:
        """Add one sample whose prediction is a finished mask, bool at the original size; it is not ranked.

        Returns:
            Its IoU.
        """
        return self._add(self.protocol.of_mask(pred_mask), mask, annotations)

    def _add(self, pred_mask: Tensor, mask: Tensor, annotations: Annotations) -> float:
        intersection, union = intersection_union(pred_mask, self.protocol.truth(mask))
        self.samples.append((intersection, union, annotations))
        return self.protocol.iou(intersection, union)

    def merge(self, other: Meter) -> Meter:
        """Add the samples of ``other`` (another process's share) after ours; returns this meter.

        Raises:
            RefsegError: the two meters follow different protocols.
        """
        if other.protocol != self.protocol:
            raise RefsegError(
                f"Scores of protocols {self.protocol.name!r} and {other.protocol.name!r} cannot be merged: "
                "measure both with the same one."
            )
        self.samples.extend(other.samples)
        self.ranked.extend(other.ranked)
        return self

    @property
    def ious(self) -> list[float]:
        """The IoU of every sample, in the order in which they were added."""
        return [self.protocol.iou(intersection, union) for intersection, union, _ in self.samples]

    def compute(self) -> dict[str, Any]:
        """{"N", "oIoU", "mIoU", "P@0.5", ..., "P@0.9"}; all but N are shares between 0 and 1.

        If something was ranked also those of ``metrics.average_precision``, and "n_predictions".

        Raises:
            RefsegError: no sample was added.
        """
        scores = self._scores(self.samples)
        if self.ranked:
            scores |= average_precision(*map(list, zip(*self.ranked))) | {"n_predictions": len(self.ranked)}
        return scores

    def by_group(self, key: Callable[[Annotations], str | None]) -> dict[str, dict[str, Any]]:
        """The same scores for each group, in alphabetical order; samples for which ``key`` gives None are left out."""
        groups: dict[str, list[tuple[int, int, Annotations]]] = {}
        for sample in self.samples:
            if (group := key(sample[2])) is not None:
                groups.setdefault(group, []).append(sample)
        return {group: self._scores(groups[group]) for group in sorted(groups)}

    def report(self) -> dict[str, Any]:
        """The scores, with the protocol's name, what it does and how it counts."""
        protocol = self.protocol
        about = {"protocol": protocol.name, "at_threshold": protocol.at_threshold, "says": protocol.says}
        return self.compute() | about

    def _scores(self, samples: list[tuple[int, int, Annotations]]) -> dict[str, Any]:
        if not samples:
            raise RefsegError("No sample was scored: the data set or the chosen group is empty.")
        pairs = [(intersection, union) for intersection, union, _ in samples]
        whole, total = (sum(numbers) for numbers in zip(*pairs))
        # fsum rounds once, so the mean is the same in every order
        scores = {
            "N": len(pairs),
            "oIoU": whole / total if total else self.protocol.iou(0, 0),
            "mIoU": math.fsum(self.protocol.iou(*pair) for pair in pairs) / len(pairs),
        }
        for tenths in TENTHS:
            scores[f"P@0.{tenths}"] = sum(self.protocol.reaches(*pair, tenths) for pair in pairs) / len(pairs)
        return scores


def _certainty(logits: Tensor) -> float:
    """The mean probability inside the mask, 0 if it is empty."""
    inside = logits[logits > MASK_THRESHOLD]
    return float(inside.sigmoid().mean()) if len(inside) else 0.0


def _run_lengths(mask: Tensor) -> Any:
    return coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
