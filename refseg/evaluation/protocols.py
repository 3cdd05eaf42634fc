"""How released test loops come from a network's answer to a score, by name: size, threshold, resizing and counting.

A paper's "IoU" hangs on all four. Each protocol here does to our networks' answers what the release of that name does
to its own, so that one set of answers can be reported by all of them:

| name | compared at | found where | truth | IoU if both are empty | P@K |
|---|---|---|---|---|---|
| original | size on disk | logit > 0 there, scaled bilinear | as it is | 0 | >= |
| original-video | size on disk | logit > 0 there, scaled bilinear | as it is | 1 | > in float32 |
| cmsa-release | size on disk | logit >= 1e-9 at 320 px, mask scaled bilinear, all > 0 | as it is | refused | >= |
| lavt480 | 480 x 480, squashed | logit > 0 there | nearest | 0 | >= |
| cris | size on disk | probability > 0.35 there, scaled bicubic | as it is | 0 | > |
| mttr | size on disk | probability > 0.5 at the network's size, mask scaled nearest | as it is | 1 | > in float32 |

All count every sentence as one sample. ``original`` is ours for pictures, ``original-video`` for clips; the latter and
``mttr`` also give mAP. Of a release's "IoU": CMSA's and LAVT's is oIoU, CRIS' is mIoU, MTTR prints both.

What is not imitated: the sizes at which the releases feed their networks (ours get what they were trained with), CMSA's
optional DenseCRF, and in CRIS that a coarse map is enlarged bicubically by its corners and warped by OpenCV without
half-pixel centres. Sources: main_cmsa.py of CMSA-Net, test.py of LAVT-RIS, engine.py of CRIS.pytorch,
postprocessing.py and metrics.py of MTTR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn.functional import interpolate

from refseg.datasets.transforms import (
    at_input_size,
    release_resize_and_crop,
    release_resize_and_pad,
    scale,
    undo_letterbox,
    without_padding,
)
from refseg.errors import RefsegError
from refseg.evaluation.metrics import CMSA, CRIS, LAVT, RES, VIDEO, Convention, SegmentationMeter, average_precision
from refseg.types import MASK_THRESHOLD

Size = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Protocol:
    """One way to a score.

    Args:
        name: what results are labelled with.
        convention: how intersection and union are counted.
        says: size, threshold and resizing in a few words.
        of_logits: (mask logits [h,w] or [1,h,w], pixel_valid, original size) -> the mask that is compared, bool.
        of_mask: the same of a finished mask, bool at the original size: thresholds have no say there.
        truth: the true mask [height,width] as it is compared.
        ranked: whether average precision belongs to it.
    """

    name: str
    convention: Convention
    says: str
    of_logits: Callable[[Tensor, Tensor, Size], Tensor]
    of_mask: Callable[[Tensor], Tensor]
    truth: Callable[[Tensor], Tensor]
    ranked: bool = False


def choose_protocols(names: Sequence[str]) -> list[Protocol]:
    """The protocols of these names, each once.

    Raises:
        RefsegError: there is no such protocol; the sentence lists all.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise RefsegError(f"There is no protocol {name!r}: choose one of {', '.join(PROTOCOLS)}.")
    return [PROTOCOLS[name] for name in dict.fromkeys(names)]


# ---- from a network's answer to the mask that is compared ------------------------------------------------------


def _original(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    return undo_letterbox(logits, valid, size) > MASK_THRESHOLD


def _cmsa(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    """The release cuts at 320 pixels, padding included, and enlarges what is left: masks grow by up to a pixel."""
    return _enlarged(scale(at_input_size(logits, valid), (320, 320)) >= 1e-9, size)


def _cmsa_of_mask(mask: Tensor) -> Tensor:
    """The finished mask as a network of 320 pixels would have to give it."""
    return _enlarged(release_resize_and_pad(mask, 320) >= 0.5, tuple(mask.shape))


def _enlarged(mask: Tensor, size: Size) -> Tensor:
    return release_resize_and_crop(mask.cpu(), size) > 0  # float64, which not every device has


def _lavt(logits: Tensor, valid: Tensor, size: Size) -> Tensor:
    """480 x 480 whatever the picture's proportions; of two equal logits argmax takes the background's."""
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


_ORIGINAL = Protocol("original", RES, "original size, logit > 0, bilinear", _original, _same, _same)
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        _ORIGINAL,
        replace(_ORIGINAL, name="original-video", convention=VIDEO, ranked=True),
        Protocol("cmsa-release", CMSA, "320 px, enlarged, every value > 0", _cmsa, _cmsa_of_mask, _same),
        Protocol("lavt480", LAVT, "squashed to 480 x 480", _lavt, _squashed, _squashed),
        Protocol("cris", CRIS, "original size, probability > 0.35, bicubic", _cris, _same, _same),
        Protocol("mttr", VIDEO, "original size, cut before a nearest resize", _mttr, _same, _same, ranked=True),
    )
}


def protocol_of(convention: Convention) -> str:
    """What scores taken at the original size with this convention are labelled with."""
    names = {RES: "original", VIDEO: "original-video"}
    return names.get(convention, f"original, counted as {convention.name}")


# ---- scores ----------------------------------------------------------------------------------------------------


@dataclass
class RankedMasks:
    """What ``metrics.average_precision`` reads: one prediction per sample, ranked by the mean probability inside it.

    The score is ours to choose and decides the ranking: a mask of which the model is sure all over comes first, an
    empty one last.
    """

    masks: list[dict[str, Any]] = field(default_factory=list)  # run lengths, as pycocotools encodes them
    predictions: list[list[tuple[float, dict[str, Any]]]] = field(default_factory=list)

    def update(self, logits: Tensor, mask: Tensor) -> None:
        """Add one sample: its mask logits and its true mask, both [height,width]."""
        self.add(logits > MASK_THRESHOLD, mask, certainty(logits))

    def add(self, pred_mask: Tensor, mask: Tensor, score: float) -> None:
        """Add one sample whose prediction is a mask already."""
        self.masks.append(_run_lengths(mask))
        self.predictions.append([(score, _run_lengths(pred_mask))])

    def merge(self, other: RankedMasks) -> RankedMasks:
        """Add the samples of ``other`` (another process' share) behind ours; returns this one."""
        self.masks.extend(other.masks)
        self.predictions.extend(other.predictions)
        return self

    def compute(self) -> dict[str, Any]:
        """See ``metrics.average_precision``; "n_predictions" is how many there were in all."""
        count = sum(map(len, self.predictions))
        return {**average_precision(self.masks, self.predictions), "n_predictions": count}


def certainty(logits: Tensor) -> float:
    """The mean probability inside the mask, 0 if it is empty."""
    inside = logits[logits > MASK_THRESHOLD]
    return float(inside.sigmoid().mean()) if len(inside) else 0.0


class ProtocolMeter:
    """Scores of one protocol, of networks' answers or of finished masks; average precision where it belongs to it."""

    def __init__(self, protocol: Protocol):
        self.protocol = protocol
        self.meter = SegmentationMeter(protocol.convention)
        self.ranked = RankedMasks() if protocol.ranked else None

    def update(self, mask_logits: Tensor, pixel_valid: Tensor, mask: Tensor) -> None:
        """Add one sample: the network's answer [1,h,w], what of its input is real, the true mask [height,width]."""
        size = tuple(mask.shape)
        pred_mask = self.protocol.of_logits(mask_logits, pixel_valid, size).cpu()
        self.meter.update(pred_mask, self.protocol.truth(mask))
        if self.ranked is not None:
            self.ranked.add(pred_mask, mask, certainty(undo_letterbox(mask_logits, pixel_valid, size)))

    def update_mask(self, pred_mask: Tensor, mask: Tensor) -> None:
        """Add one sample whose prediction is a mask already; it is not ranked."""
        self.meter.update(self.protocol.of_mask(pred_mask), self.protocol.truth(mask))

    def merge(self, other: ProtocolMeter) -> ProtocolMeter:
        """Add the samples of ``other`` (another process' share) behind ours; returns this one."""
        self.meter.merge(other.meter)
        if self.ranked is not None:
            self.ranked.merge(other.ranked)
        return self

    def compute(self) -> dict[str, Any]:
        """The scores, with the protocol's name, what it does and how it counts."""
        protocol = self.protocol
        about = {"protocol": protocol.name, "at_threshold": protocol.convention.at_threshold, "says": protocol.says}
        ranked = self.ranked.compute() if self.ranked is not None and self.ranked.masks else {}
        return {**self.meter.compute(), **ranked, **about}


def _run_lengths(mask: Tensor) -> dict[str, Any]:
    return coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
